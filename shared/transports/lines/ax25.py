"""AX.25 UI frames around packets (AX.25 Link Access Protocol 2.2, sections 3.12 and 4.3.3.6), for amateur radio.

Some TNCs pass nothing on that is no AX.25 frame, and the law wants every transmission to name its station.

    destination (7)  source (7)  [digipeaters (7 each, at most 8)]  control 0x03  PID 0xF0  packet

An address is six characters, each shifted left by a bit and padded by spaces, and a byte of four bits SSID.
"""

import re

from shared.transports.lines.framing import Framing

_ADDRESS_BYTES = 7
_MOST_ADDRESSES = 10
_CONTROL_UI = 0x03
_NO_LAYER_3 = 0xF0
_COMMAND = 0x80
_RESERVED = 0x60
_LAST = 0x01

HEADER_BYTES = 2 * _ADDRESS_BYTES + 2
"""Bytes that a frame has more than its packet, as this end sends it."""

_CALL_SIGN = re.compile(r"([A-Z0-9]{1,6})(?:-(\d|1[0-5]))?", re.IGNORECASE)


def encode_call_sign(text: str) -> bytes | None:
    """The seven bytes of ``N0CALL`` or ``N0CALL-7`` without command and last bits; None if it is no call sign."""
    match = _CALL_SIGN.fullmatch(text)
    if match is None:
        return None
    name = match[1].upper().ljust(6).encode("ascii")
    return bytes(byte << 1 for byte in name) + bytes([_RESERVED | int(match[2] or 0) << 1])


class Ax25Framing:
    """Packets in UI frames, the frames in another framing.

    Frames that are no UI frames without a layer 3 protocol are ignored, and so are own frames that come back.

    Args:
        inner: carries the frames.
        source: this end's call sign, from `encode_call_sign`.
        destination: whom frames are addressed to, likewise. What is received may be addressed to anybody.
    """

    def __init__(self, inner: Framing, source: bytes, destination: bytes) -> None:
        self._inner = inner
        self._source = source
        self._header = (
            destination[:-1]
            + bytes([destination[-1] | _COMMAND])
            + source[:-1]
            + bytes([source[-1] | _LAST, _CONTROL_UI, _NO_LAYER_3])
        )
        self.damaged = 0
        self.ignored = 0

    def opening(self) -> bytes:
        """See `Framing`."""
        return self._inner.opening()

    def encode(self, packet: bytes, *, fresh: bool) -> bytes:
        """See `Framing`."""
        return self._inner.encode(self._header + packet, fresh=fresh)

    def feed(self, data: bytes) -> list[bytes]:
        """See `Framing`."""
        frames = self._inner.feed(data)
        packets = [packet for frame in frames if (packet := self._packet_in(frame))]
        self.damaged = self._inner.damaged
        self.ignored += len(frames) - len(packets)
        return packets

    def _packet_in(self, frame: bytes) -> bytes | None:
        ends = range(_ADDRESS_BYTES, _MOST_ADDRESSES * _ADDRESS_BYTES + 1, _ADDRESS_BYTES)
        end = next((end for end in ends if end <= len(frame) and frame[end - 1] & _LAST), 0)
        if end < 2 * _ADDRESS_BYTES or frame[end : end + 2] != bytes([_CONTROL_UI, _NO_LAYER_3]):
            return None
        source = frame[_ADDRESS_BYTES : 2 * _ADDRESS_BYTES]
        ours = source[:-1] == self._source[:-1] and not (source[-1] ^ self._source[-1]) & 0x1E
        return None if ours else frame[end + 2 :]
