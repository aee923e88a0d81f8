"""The part of ``docs/vectors/link-v2.json`` that nobody may take; see ``tests.link.make_vectors``."""

from typing import Any

import msgpack

from shared.link.keys import PublicKey

_BODIES = (
    ("a block number cut short", 0x80, "00"),
    ("coded, without a symbol", 0x84, "0001000202"),
    ("coded, no source symbols", 0x84, "000100000155"),
    ("coded, index beyond the code word", 0x84, "000104020255"),
    ("coded, k + m above 255", 0x84, "000100808055"),
    ("coded, k + m = 1", 0x84, "000100010055"),
)
_SYMBOLS = (
    ("the first frame names no picture", "8855"),
    ("the first frame is one of a next picture", "8c55"),
    ("PICTURE and NEXT PICTURE", "cc010055"),
    ("a reserved bit", "c9010055"),
    ("the top bit is missing", "48010055"),
    ("padding that is not zero", "d8010001550001"),
    ("a layer that the picture has not", "c8012155"),
    ("a layer after the last", "d8010001558855"),
    ("a length beyond the symbol", "d801000355"),
    ("an offset beyond the largest layer", "e80100818080020055"),
    ("a sequence above 32 bits", "c8808080801000"),
    ("a sequence after the last", "d8ffffffff0f0001559c0155"),
    ("cut within its header", "c801"),
)
_VARINTS = (("cut short", "80"), ("longer than it need be", "8000"), ("without an end", "80" * 10))
_REPORTS: tuple[tuple[str, object], ...] = (
    ("no array", 7),
    ("eight arrays", [[]] * 8),
    ("half an acknowledgement", [[1]]),
    ("a layer above 15", [[1, 0x10000]]),
    ("a sequence above 32 bits", [[0xFFFFFFFF, 1, 1, 1]]),
    ("an echo of one number", [[], [1]]),
    ("an echo of a counter above 16 bits", [[], [0x10000, 1]]),
    ("a request of two numbers", [[], [], [1, 2]]),
    ("a request with 33 bytes of missing symbols", [[], [], [1, 2, bytes(33)]]),
    ("true for a number", [[], [], [], [True]]),
    ("a run above 16384", [[], [], [], [], [0, 16385, b""]]),
    ("a loss of one", [[], [], [], [], [], [10000, 16, 1]]),
    ("a burst below one packet", [[], [], [], [], [], [1, 15, 1]]),
    ("a highest number, but none that is taken", [[], [], [], [], [], [], [7]]),
    ("a taken number above the highest", [[], [], [], [], [], [], [7, 8]]),
    ("a number that is taken twice", [[], [], [], [], [], [], [7, 5, 0]]),
    ("a highest number above 32 bits", [[], [], [], [], [], [], [0x100000000, 5]]),
)
_PRESENCES: tuple[tuple[str, object], ...] = (
    ("two fields", [1, 2]),
    ("a state that is none", [1, 2, 3]),
    ("a group without shards", [1, 2, 2, "antennas", 0]),
    ("a group name with a slash", [1, 2, 2, "a/b", 1]),
)


def refused_vectors(key: PublicKey) -> dict[str, Any]:
    """What must be refused, and why.

    Args:
        key: one whose text is damaged for this.
    """
    text = key.text
    return {
        "bodies": [{"why": why, "flags": flags, "body": body} for why, flags, body in _BODIES],
        "symbols": [{"why": why, "symbol": symbol} for why, symbol in _SYMBOLS],
        "varints": [{"why": why, "bytes": data} for why, data in _VARINTS],
        "reports": [{"why": why, "message": msgpack.packb(message).hex()} for why, message in _REPORTS],
        "presence": [{"why": why, "payload": msgpack.packb(message).hex()} for why, message in _PRESENCES],
        "public_keys": [
            {"why": "of the other role", "text": text.replace("sender", "station")},
            {"why": "a letter is wrong", "text": text[:40] + ("A" if text[40] != "A" else "B") + text[41:]},
            {"why": "cut short", "text": text[:-2]},
        ],
    }
