"""Makes ``docs/vectors/link-v2.json``: what the bytes of ``docs/protocol.md`` are, for other implementations.

    python -m tests.link.make_vectors            # say whether the file is what the code makes
    python -m tests.link.make_vectors --write    # write it anew

All that is drawn at random elsewhere (keys, the ephemeral key, the number of a station's life) is fixed here, and
published: none of it may ever protect anything.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.link import reed_solomon
from shared.link.control import Echo, Report, Request, StoredBlocks, TakenNumbers, encode_report
from shared.link.envelope import SenderEnvelope
from shared.link.frames import Cursor, Ending, Frame, Piece, fill_symbol, read_frames
from shared.link.gilbert import GilbertFit
from shared.link.keys import ListedSender, Role, SecretKey
from shared.link.packet import (
    COUNTERS,
    VERSION,
    DataPacket,
    encode_data,
    encode_reset,
    encode_versions,
    spoken_versions,
    unwrap_counter,
)
from shared.link.plain import PlainIdentity, PlainSender, PlainSession, fold_tag
from shared.link.replay import WINDOW, ReplayWindow
from shared.link.seal import LIFE_BYTES, SessionName, StaticSecret, agree
from shared.link.sealed import SealedSender, SealedSession
from shared.link.sealed_gate import SealedGate
from shared.varint import encode_varint
from tests.link.make_refused_vectors import refused_vectors
from tests.link.make_transport_vectors import credit_vectors, framing_vectors, mqtt_vectors

PATH = Path(__file__).resolve().parents[2] / "docs" / "vectors" / "link-v2.json"
COMMAND = "python -m tests.link.make_vectors --write"

ABOUT = (
    "Test vectors of the link protocol, version 2 (docs/protocol.md). Byte strings are hexadecimal. The private keys "
    "are published here: use them for tests only."
)

Vectors = dict[str, Any]

DRONE = SecretKey(Role.SENDER, 0xA1B2C3D4, bytes(range(0x00, 0x20)), bytes(range(0x20, 0x40)))
GROUND = SecretKey(Role.STATION, 0x5E6F7A8B, bytes(range(0x40, 0x60)), bytes(range(0x60, 0x80)))
EPHEMERAL = bytes(range(0x80, 0xA0))
LIFE = bytes(range(0xA0, 0xA0 + LIFE_BYTES))
SENDER = 0x00C0FFEE
SESSION = 0x0123456789
EPOCH = 0x0102


@contextmanager
def nothing_by_chance(*, ephemeral: bytes = EPHEMERAL, life: bytes = LIFE) -> Iterator[None]:
    """While this lasts, new sealed sessions have this ephemeral key, and stations this number of their life."""
    drawn = SimpleNamespace(generate=lambda: X25519PrivateKey.from_private_bytes(ephemeral))
    with (
        patch("shared.link.sealed.X25519PrivateKey", drawn),
        patch("shared.link.sealed.secrets", SimpleNamespace(token_bytes=lambda size: life[:size])),
    ):
        yield


def make_sealed() -> tuple[SealedSender, SealedSession]:
    """Both ends of the sealed session of the file."""
    with nothing_by_chance():
        sender = SealedSender(DRONE, GROUND.public, sender=SENDER, session=SESSION)
        admitted = SealedGate([GROUND], [ListedSender("drone", DRONE.public)]).admit(sender.hello(1200)[0])
    if admitted is None or not isinstance(admitted.envelope, SealedSession):
        raise RuntimeError("the station did not let its sender in")
    return sender, admitted.envelope


def make_vectors() -> Vectors:
    """All vectors."""
    return {
        "about": ABOUT,
        "version": VERSION,
        "varints": [{"value": value, "bytes": encode_varint(value).hex()} for value in _NUMBERS],
        "keys": {"sender": _key(DRONE), "station": _key(GROUND)},
        "sealed": _sealed(),
        "unsealed": _unsealed(),
        "reset": {"tag": 0x5A, "packet": encode_reset(0x5A).hex()},
        "version_answers": [
            _version_answer(refused) for refused in (b"\x85\x01\x02\x03\x04\x05", b"\x90", b"\x41\x05")
        ],
        "counters": [
            {"highest": highest, "wire": wire, "counter": unwrap_counter(wire, highest, COUNTERS)}
            for highest, wire in _COUNTERS
        ],
        "replay": [_replay(floor, counters) for floor, counters in _REPLAYS],
        "frames": _frames(),
        "block": _block(),
        "reports": [_report(report) for report in _REPORTS],
        "fits": [
            {"loss": fit.loss, "burst": fit.burst, "packets": fit.packets, "wire": [*fit.to_wire()]} for fit in _FITS
        ],
        "credit": credit_vectors(),
        "framing": framing_vectors(),
        "mqtt": mqtt_vectors(SENDER, GROUND.identity),
        "refused": refused_vectors(DRONE.public),
    }


_OTHER_VERSIONS = (bytes.fromhex("850102030405"), bytes.fromhex("90"), bytes.fromhex("4105"))
_NUMBERS = (0, 1, 127, 128, 300, 16383, 16384, 2**22, 2**32 - 1)
_COUNTERS = (
    (-1, 0),
    (-1, 32767),
    (10, 65530),
    (65535, 0),
    (65535, 65535),
    (70000, 4464),
    (70000, 37231),
    (70000, 37232),
    (2**32 - 2, 65535),
)
_REPLAYS = (
    (0, [0, 0, 2, 1, 1, 2, 3, 1500, 476, 477, 477, 2523, 1499, 1500, 5000, 3976, 3977]),
    (100, [99, 100, 100, 101, 99, 50, 2000, 976, 977, 100]),
)
_FITS = (
    GilbertFit(0.0, 1.0, 0),
    GilbertFit(0.05, 3.0, 1234),
    GilbertFit(0.1234, 8.0625, 65535),
    GilbertFit(0.9999, 4095.9375, 20),
)
_REPORTS = (
    Report(),
    Report(acknowledged=((0, 0b1),)),
    Report(acknowledged=((1000, 0b1111), (1001, 0b0001), (70000, 0xFFFF), (2**32 - 1, 0b10))),
    Report(echo=Echo(65535, 250)),
    Report(requests=(Request(7, 0, b""), Request(65535, 3, bytes([0b10010100, 0b1])))),
    Report(complete=(0, 128, 65535)),
    Report(stored=StoredBlocks(65530, 10, bytes([0b101]))),
    Report(stored=StoredBlocks(0, 16384, b"")),
    Report(fit=GilbertFit(0.05, 3.0, 1234)),
    Report(taken=TakenNumbers(0, (0,))),
    Report(taken=TakenNumbers(70000, (7, 8, 300, 70000))),
    Report(acknowledged=((4712, 0b1),), taken=TakenNumbers(2**32 - 1, (4711,))),
    Report(
        acknowledged=((4711, 0b11),),
        requests=(Request(22, 2, bytes([0b110])),),
        complete=(23,),
        echo=Echo(1042, 251),
        stored=StoredBlocks(3, 19, bytes([0b100])),
        fit=GilbertFit(0.1, 2.5, 400),
    ),
)


def _key(secret: SecretKey) -> Vectors:
    public = secret.public
    return {
        "role": str(secret.role),
        "identity": secret.identity,
        "seal_private": secret.seal.hex(),
        "seal_public": public.seal.hex(),
        "curve_private": secret.curve.hex(),
        "curve_public": public.curve.hex(),
        "text": public.text,
        "fingerprint": public.fingerprint,
    }


def _sealed() -> Vectors:
    sender, station = make_sealed()
    name = SessionName(DRONE.identity, SESSION)
    ephemeral = X25519PrivateKey.from_private_bytes(EPHEMERAL).public_key().public_bytes_raw()
    hellos = []
    for counter, packet_bytes in ((0, 1200), (0, 66), (3, 65), (65537, 48)):
        sender.sent = counter
        packets = [packet.hex() for packet in sender.hello(packet_bytes)]
        hellos.append({"counter": counter, "largest_packet": packet_bytes, "packets": packets})
    reports = []
    for counter, message in ((0, encode_report(_REPORTS[0])), (1, encode_report(_REPORTS[-1])), (65536, b"\x90")):
        station._sent = counter
        reports.append({"counter": counter, "message": message.hex(), "packet": station.wrap(message).hex()})
    return {
        "identity": DRONE.identity,
        "sender": SENDER,
        "session": SESSION,
        "tag": fold_tag(name.packed),
        "ephemeral_private": EPHEMERAL.hex(),
        "ephemeral_public": ephemeral.hex(),
        "agreed_static": agree(DRONE.seal, GROUND.public.seal).hex(),
        "agreed_ephemeral": agree(EPHEMERAL, GROUND.public.seal).hex(),
        "hello_key": StaticSecret.of_sender(DRONE, GROUND.public).hello_key.hex(),
        **_keys_inside(name, ephemeral),
        "life": LIFE.hex(),
        "hellos": hellos,
        "packets": [_packet(sender, counter, data) for counter, data in zip(_PACKET_COUNTERS, _DATA, strict=True)],
        "reports": reports,
    }


def _keys_inside(name: SessionName, ephemeral: bytes) -> Vectors:
    """Salt, mixed secret and keys, which the code keeps to itself: what it gives to its ciphers is looked at."""
    seen: list[bytes] = []
    static = StaticSecret.of_sender(DRONE, GROUND.public)

    def look(key: bytes) -> bytes:
        seen.append(key)
        return key

    with patch("shared.link.seal.SealingKey", look):
        _, reports = static.session_keys(name, SENDER, ephemeral, agree(EPHEMERAL, GROUND.public.seal))
        reports.of_life(LIFE)
    salt = hashlib.sha256(
        b"pinhole link 2" + GROUND.public.seal + DRONE.public.seal + ephemeral + name.packed + SENDER.to_bytes(4, "big")
    ).digest()
    return {"salt": salt.hex(), "mixed": reports._mixed.hex(), "key_up": seen[0].hex(), "key_down": seen[1].hex()}


_DATA = (
    DataPacket(0, 0, 1, 0, bytes.fromhex("d80701") + b"base", poll=True),
    DataPacket(1, 0, 12, 16, b"first source symbol"),
    DataPacket(1, 12, 12, 16, b"first repair symbol", poll=True),
    DataPacket(65535, 5, 6, 249, b"\x00\xff", mute=True),
    DataPacket(2, 0, 1, 0, b"", poll=True),
    DataPacket(3, 254, 1, 254, bytes(range(200)), poll=True, mute=True),
)
_PACKET_COUNTERS = (0, 1, 255, 65535, 65536, 2**32 - 1)


def _packet(envelope: SenderEnvelope, counter: int, data: DataPacket, *, known: bool = True) -> Vectors:
    envelope.sent = counter  # type: ignore[misc]  # both envelopes let it be set
    body = encode_data(data)
    return {
        "counter": counter,
        "block": data.block,
        "index": data.index,
        "k": data.k,
        "m": data.m,
        "poll": data.poll,
        "mute": data.mute,
        "symbol": data.symbol.hex(),
        "body": body.hex(),
        "packet": envelope.wrap(data.flags, body, known=known).hex(),
    }


def _unsealed() -> Vectors:
    identity = PlainIdentity(SENDER, EPOCH)
    sender, station = PlainSender(*identity), PlainSession(identity)
    packets = []
    for counter, data in zip(_PACKET_COUNTERS, _DATA, strict=True):
        for known in (False, True):
            packets.append({"long": not known, **_packet(sender, counter, data, known=known)})
    reports = []
    for counter, report in enumerate((_REPORTS[0], _REPORTS[-1])):
        message = encode_report(report)
        reports.append({"counter": counter, "message": message.hex(), "packet": station.wrap(message).hex()})
    return {"sender": SENDER, "epoch": EPOCH, "tag": identity.tag, "packets": packets, "reports": reports}


def _version_answer(refused: bytes) -> Vectors:
    answer = encode_versions(refused)
    spoken = spoken_versions(answer)
    return {"refused": refused.hex(), "packet": answer.hex(), "taken_as": None if spoken is None else [*spoken]}


def _replay(floor: int, counters: list[int]) -> Vectors:
    window = ReplayWindow(floor)
    decisions = []
    for counter in counters:
        new = window.is_new(counter)
        if new:
            window.take(counter)
        decisions.append([counter, new])
    return {"window": WINDOW, "floor": floor, "taken": decisions}


def _frames() -> list[Vectors]:
    def piece(sequence: int, layer: int, layers: int, size: int) -> Piece:
        return Piece(sequence, layer, layers, bytes((16 * layer + i) % 256 for i in range(size)))

    cases = {
        "a picture in one symbol, the last frame to its end": (
            [piece(1000, 0, 3, 5), piece(1000, 1, 3, 4), piece(1000, 2, 3, 6)],
            64,
            Ending.CUT,
        ),
        "base layers of neighbouring pictures": ([piece(1000 + i, 0, 4, 3) for i in range(3)], 64, Ending.PADDED),
        "a layer over three symbols": ([piece(2**32 - 1, 15, 16, 60)], 30, Ending.FULL),
        "zeros as padding": ([piece(5, 0, 1, 20), piece(9, 0, 2, 9)], 30, Ending.FULL),
        "an empty layer": ([piece(6, 0, 2, 0), piece(6, 1, 2, 1)], 32, Ending.PADDED),
    }
    return [_framed(name, pieces, room, ending) for name, (pieces, room, ending) in cases.items()]


def _framed(name: str, pieces: list[Piece], room: int, ending: Ending) -> Vectors:
    symbols = []
    cursor = Cursor()
    while cursor.item < len(pieces):
        symbol, cursor = fill_symbol(pieces, cursor, room, ending)
        symbols.append(symbol.ljust(room, b"\0") if ending is Ending.FULL else symbol)
    return {
        "name": name,
        "symbols": [
            {"symbol": symbol.hex(), "frames": [_frame(frame) for frame in read_frames(symbol)]} for symbol in symbols
        ],
    }


def _frame(frame: Frame) -> Vectors:
    return {
        "sequence": frame.sequence,
        "layer": frame.layer,
        "layers": frame.layers,
        "offset": frame.offset,
        "final": frame.final,
        "data": frame.data.hex(),
    }


def _block() -> Vectors:
    """A coded block, whose last source symbol goes out without its trailing zeros."""
    size, m = 24, 6
    pieces = [Piece(300 + i, 0, 2, bytes((7 * i + j) % 256 for j in range(20 + 9 * i))) for i in range(3)]
    sources = []
    cursor = Cursor()
    while cursor.item < len(pieces):
        symbol, after = fill_symbol(pieces, cursor, size, Ending.PADDED)
        if after.item < len(pieces):
            symbol, after = fill_symbol(pieces, cursor, size, Ending.FULL)
            symbol = symbol.ljust(size, b"\0")
        sources.append(symbol)
        cursor = after
    padded = np.array([[*source.ljust(size, b"\0")] for source in sources], dtype=np.uint8)
    return {
        "number": 42,
        "k": len(sources),
        "m": m,
        "sources": [source.hex() for source in sources],
        "repairs": [repair.tobytes().hex() for repair in reed_solomon.encode(padded, m)],
        "layers": [{"sequence": piece.sequence, "layer": 0, "bytes": piece.payload.hex()} for piece in pieces],
    }


def _report(report: Report) -> Vectors:
    stored = report.stored
    return {
        "message": encode_report(report).hex(),
        "acknowledged": [[*entry] for entry in report.acknowledged],
        "echo": None if report.echo is None else [*report.echo],
        "requests": [[request.block, request.needed, request.missing.hex()] for request in report.requests],
        "complete": [*report.complete],
        "stored": None if stored is None else [stored.first, stored.run, stored.others.hex()],
        "fit": None if report.fit is None else [report.fit.loss, report.fit.burst, report.fit.packets],
        "taken": None if report.taken is None else [report.taken.highest, *report.taken.sequences],
    }


def as_text(vectors: Vectors) -> str:
    """The file's text: lists of plain values on one line each."""
    text = json.dumps(vectors, indent=1)
    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", _on_one_line, text) + "\n"


def _on_one_line(found: re.Match[str]) -> str:
    return "[" + re.sub(r",\s+", ", ", found[1]) + "]"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="Test vectors of the link protocol.")
    parser.add_argument("--write", action="store_true", help=f"write {PATH.name} anew")
    text = as_text(make_vectors())
    if parser.parse_args().write:
        PATH.parent.mkdir(parents=True, exist_ok=True)
        PATH.write_text(text)
    elif not PATH.is_file() or PATH.read_text() != text:
        raise SystemExit(f"{PATH.name} is not what the code makes; if that is meant: {COMMAND}")


if __name__ == "__main__":
    main()
