"""Packets in streams of bytes: COBS, KISS, AX.25, in whatever pieces the bytes come."""

from collections.abc import Callable

from fuzz.harness import Harness, Reader, demand
from shared.transports.base import LARGEST_PACKET
from shared.transports.lines.ax25 import Ax25Framing, encode_call_sign
from shared.transports.lines.framing import CobsFraming, Framing, KissFraming, TncParameter

_SHORT = 48
"""Bytes of the longest frame of the framings that are made to meet frames that are too long."""


def _ax25(inner: Framing, source: str) -> Framing:
    return Ax25Framing(inner, encode_call_sign(source) or b"", encode_call_sign("PINHOL") or b"")


def _shortened(framing: CobsFraming | KissFraming) -> Framing:
    framing._longest = _SHORT
    return framing


_FRAMINGS: tuple[Callable[[str], Framing], ...] = (
    lambda _: CobsFraming(),
    lambda _: CobsFraming(spare_flow_bytes=True),
    lambda _: KissFraming(),
    lambda _: KissFraming(5, [TncParameter(1, 30)]),
    lambda source: _ax25(KissFraming(), source),
    lambda source: _ax25(CobsFraming(), source),
    lambda _: _shortened(CobsFraming()),
    lambda _: _shortened(KissFraming()),
)
"""By the call sign of their end, which AX.25 needs, for it hears its own frames again."""

_HERE, _THERE = "N0CALL-7", "K1ABC"


def run(data: bytes) -> None:
    """Decode noise whole and in pieces; then send a packet through the framing that the noise left behind."""
    reader = Reader(data)
    make = reader.choose(_FRAMINGS)
    size = reader.byte() + 1
    sent = reader.piece()
    noise = reader.rest()
    whole, pieces, other = make(_HERE), make(_HERE), make(_THERE)
    packets = whole.feed(noise)
    chunked = [packet for at in range(0, len(noise), size) for packet in pieces.feed(noise[at : at + size])]
    demand(chunked == packets, "packets depend on the pieces in which their bytes came")
    demand((whole.damaged, whole.ignored) == (pieces.damaged, pieces.ignored), "so do the counters")
    demand(all(0 < len(packet) <= LARGEST_PACKET for packet in packets), "a packet is empty or too long")
    if not sent:
        return
    # Noise may be the first half of a frame, or hold all of the next one's delimiters: what was sent twice comes once.
    for framing in (whole, pieces):
        heard = framing.feed(other.opening()) + framing.feed(other.encode(sent, fresh=True))
        heard += framing.feed(other.encode(sent, fresh=True))
        demand(len(sent) > _SHORT // 3 or sent in heard, "noise keeps later packets from being heard")


def seeds() -> list[bytes]:
    """Frames of every framing."""
    packets = [b"\0", b"\xc0\xdb\xdc\xdd", bytes(range(200)), bytes([0x11, 0x13, 0x7D]) * 3, b"a" * 254, b"b" * 255]
    found = []
    for number, make in enumerate(_FRAMINGS):
        framing = make(_THERE)
        noise = framing.opening() + b"".join(framing.encode(packet, fresh=not at) for at, packet in enumerate(packets))
        found.append(bytes([number, 6, 3]) + b"\0ab" + noise)
        found.append(bytes([number, 254, 0]) + noise[:70] + make(_HERE).encode(b"own", fresh=True))
        found.append(bytes([number, 30, 0]) + KissFraming(5).encode(b"other", fresh=True) + noise[:90])
    # A frame that a digipeater has passed on.
    frame = bytearray(CobsFraming().feed(_ax25(CobsFraming(), _THERE).encode(b"packet", fresh=True))[0])
    frame[13] &= 0xFE
    relayed = bytes(frame[:14]) + _raw_address("WIDE1-1") + bytes(frame[14:])
    return [*found, bytes([4, 30, 0]) + KissFraming().encode(relayed, fresh=True)]


def _raw_address(call_sign: str) -> bytes:
    address = encode_call_sign(call_sign) or b""
    return address[:-1] + bytes([address[-1] | 1])


HARNESS = Harness("COBS, KISS and AX.25 decoders", run, seeds)
