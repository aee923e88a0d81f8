"""Framings: packets in a stream of bytes. No I/O; a decoder takes bytes as they come and is in step again after any.

The link's checksum or seal tells whether a packet is whole, so framings add none of their own.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from shared.transports.base import LARGEST_PACKET

FEND = 0xC0
FESC = 0xDB
TFEND = 0xDC
TFESC = 0xDD

_XON = 0x11
_XOFF = 0x13
_ESCAPE = 0x7D
_ESCAPE_BIT = 0x20
_LONGEST_RUN = 254


class Framing(Protocol):
    """Both directions of one stream.

    Attributes:
        damaged: frames received that no encoder makes, or that were too long.
        ignored: frames received whole that are no packets for this end.
    """

    damaged: int
    ignored: int

    def opening(self) -> bytes:
        """What goes out once when the stream opens."""

    def encode(self, packet: bytes, *, fresh: bool) -> bytes:
        """The bytes of a packet; ``fresh`` if the line rested before, or a frame broke off."""

    def feed(self, data: bytes) -> list[bytes]:
        """Take received bytes; returns the packets that they complete, none of them empty."""


class _Delimited(ABC):
    """Collects what stands between delimiters, at most so many bytes of it."""

    def __init__(self, delimiter: int, longest: int) -> None:
        self.damaged = 0
        self.ignored = 0
        self._delimiter = bytes([delimiter])
        self._longest = longest
        self._frame = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> list[bytes]:
        """See `Framing`."""
        packets = []
        *ended, rest = data.split(self._delimiter)
        for piece in ended:
            self._append(piece)
            if self._frame:
                packet = self._open(bytes(self._frame))
                if packet:
                    packets.append(packet)
            self._frame.clear()
            self._too_long = False
        self._append(rest)
        return packets

    def _append(self, piece: bytes) -> None:
        if self._too_long:
            return
        if len(self._frame) + len(piece) > self._longest:
            self._frame.clear()
            self._too_long = True
            self.damaged += 1
            return
        self._frame += piece

    @abstractmethod
    def _open(self, frame: bytes) -> bytes | None:
        """The packet in a frame, None if it holds none."""


class CobsFraming(_Delimited):
    """Consistent overhead byte stuffing (Cheshire and Baker, IEEE/ACM Transactions on Networking 7(2), 1999).

    A packet has one byte more for every 254 begun, and a zero byte behind it; a zero goes ahead of it as well after
    silence, where noise may have left half a frame at the receiver.

    Args:
        spare_flow_bytes: XON, XOFF and 0x7D are sent as 0x7D and the byte with bit 0x20 flipped (the escapes of
            RFC 1662, section 4.2), and XON and XOFF received are passed over: for lines whose drivers eat them. Both
            ends must agree.
    """

    def __init__(self, *, spare_flow_bytes: bool = False) -> None:
        longest = LARGEST_PACKET + LARGEST_PACKET // _LONGEST_RUN + 1
        super().__init__(0, 2 * longest if spare_flow_bytes else longest)
        self._spare = spare_flow_bytes

    def opening(self) -> bytes:
        """See `Framing`: ends whatever frame the receiver may be in."""
        return self._delimiter

    def encode(self, packet: bytes, *, fresh: bool) -> bytes:
        """See `Framing`."""
        frame = stuff(packet)
        if self._spare:
            for byte in (_ESCAPE, _XON, _XOFF):
                frame = frame.replace(bytes([byte]), bytes([_ESCAPE, byte ^ _ESCAPE_BIT]))
        return (self._delimiter if fresh else b"") + frame + self._delimiter

    def _open(self, frame: bytes) -> bytes | None:
        if self._spare:
            frame = frame.translate(None, bytes([_XON, _XOFF]))
            plain = _Escape(_ESCAPE, {byte ^ _ESCAPE_BIT: byte for byte in (_ESCAPE, _XON, _XOFF)}).undo(frame)
        else:
            plain = frame
        packet = None if plain is None else unstuff(plain)
        self.damaged += packet is None
        return packet


def stuff(packet: bytes) -> bytes:
    """Replace zeros: runs without them, each behind its length and one more; 255 stands for 254 bytes and no zero."""
    out = bytearray()
    runs = packet.split(b"\0")
    for number, run in enumerate(runs):
        full = len(run) // _LONGEST_RUN * _LONGEST_RUN
        for start in range(0, full, _LONGEST_RUN):
            out.append(_LONGEST_RUN + 1)
            out += run[start : start + _LONGEST_RUN]
        # After a full run at the very end there is no zero to stand for.
        if full < len(run) or not full or number < len(runs) - 1:
            out.append(len(run) - full + 1)
            out += run[full:]
    return bytes(out)


def unstuff(frame: bytes) -> bytes | None:
    """Undo `stuff`; None if a length reaches past the end, or is zero."""
    out = bytearray()
    at = 0
    while at < len(frame):
        length = frame[at]
        end = at + length
        if not length or end > len(frame):
            return None
        out += frame[at + 1 : end]
        at = end
        if length <= _LONGEST_RUN and at < len(frame):
            out.append(0)
    return bytes(out)


class TncParameter(NamedTuple):
    """A setting of a TNC.

    Attributes:
        command: KISS command, 1 to 6.
        value: 0 to 255, in the units of the command.
    """

    command: int
    value: int


TXDELAY = 1
PERSISTENCE = 2
SLOT_TIME = 3
FULL_DUPLEX = 5


class KissFraming(_Delimited):
    """KISS (Chepponis and Karn, "The KISS TNC", 6th ARRL Computer Networking Conference, 1987).

    FEND, command byte (port in its high, command in its low four bits), data, FEND; FEND within is sent as FESC TFEND,
    FESC as FESC TFESC, in the command byte as well. Command 0 is a packet; other commands received are ignored, and so
    are packets of other ports.

    Args:
        port: of the TNC, 0 to 15.
        parameters: sent when the stream opens.
    """

    def __init__(self, port: int = 0, parameters: Sequence[TncParameter] = ()) -> None:
        super().__init__(FEND, 2 * (1 + LARGEST_PACKET))
        self._port = port
        self._parameters = tuple(parameters)

    def opening(self) -> bytes:
        """See `Framing`."""
        return b"".join(self._frame_of(command, bytes([value])) for command, value in self._parameters)

    def encode(self, packet: bytes, *, fresh: bool) -> bytes:
        """See `Framing`."""
        return self._frame_of(0, packet)

    def _frame_of(self, command: int, data: bytes) -> bytes:
        frame = bytes([self._port << 4 | command]) + data
        for byte, stand_in in ((FESC, TFESC), (FEND, TFEND)):
            frame = frame.replace(bytes([byte]), bytes([FESC, stand_in]))
        return self._delimiter + frame + self._delimiter

    def _open(self, frame: bytes) -> bytes | None:
        plain = _Escape(FESC, {TFEND: FEND, TFESC: FESC}).undo(frame)
        if plain is None or len(plain) > 1 + LARGEST_PACKET:
            self.damaged += 1
            return None
        if plain[0] != self._port << 4 or len(plain) == 1:
            self.ignored += 1
            return None
        return plain[1:]


class _Escape(NamedTuple):
    """A byte that announces stand-ins for others."""

    byte: int
    meanings: dict[int, int]

    def undo(self, frame: bytes) -> bytes | None:
        """The frame without escapes; None if a stand-in is none."""
        first, *pieces = frame.split(bytes([self.byte]))
        out = bytearray(first)
        for piece in pieces:
            meaning = self.meanings.get(piece[0]) if piece else None
            if meaning is None:
                return None
            out.append(meaning)
            out += piece[1:]
        return bytes(out)
