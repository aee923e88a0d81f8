"""Packets: one symbol or one control message, its header and its checksum (``docs/protocol.md``).

    long:   flags  sender (4)  epoch (2)  [body]  CRC-32 (4)
    short:  flags  tag (1)                [body]  CRC-32 (4)

The checksum always runs over sender and epoch first, whether they are in the packet or not: a short header names its
session by an 8-bit tag, which is only a hint where to look, and the checksum proves the choice. This is what keeps the
header of a packet in the middle of a session at 4 bytes (the idea of QUIC's short header, RFC 9000 section 17.3,
with the pseudo-header of RFC 768).
"""

import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple, Self

from shared.errors import CorruptDataError
from shared.link.reed_solomon import LONGEST_CODE_WORD

_VERSION_MASK = 0xC0
_VERSION = 0x40
_SEALED = 0x20
_LONG = 0x10
_CONTROL = 0x08
_CODED = 0x04
_POLL = 0x02
_MUTE = 0x01
_RESET = 0x01

_IDENTITY = struct.Struct(">IH")
_BLOCK = struct.Struct(">H")
_CODE = struct.Struct(">BBB")
_CHECKSUM = struct.Struct(">I")

BLOCK_NUMBERS = 1 << 16
LARGEST_HEADER = 1 + _IDENTITY.size + _BLOCK.size + _CODE.size + _CHECKSUM.size
"""Bytes of a packet that are not its symbol, at most; 5 fewer with a short header, 3 fewer uncoded."""


class SessionIdentity(NamedTuple):
    """Who sends, and since which start.

    Attributes:
        sender: u32, kept for life.
        epoch: u16, another at every start of the sender.
    """

    sender: int
    epoch: int

    @property
    def tag(self) -> int:
        """The 8-bit hint that stands for the identity in short headers."""
        folded = 0
        for byte in _IDENTITY.pack(*self):
            folded = folded * 5 + byte & 0xFF
        return folded

    @property
    def checksum_seed(self) -> int:
        """CRC-32 of the identity, with which the checksum of every packet of the session begins."""
        return zlib.crc32(_IDENTITY.pack(*self))

    def is_newer_than(self, other: Self) -> bool:
        """Whether this start of the same sender came after ``other`` (serial number arithmetic, RFC 1982)."""
        return 0 < (self.epoch - other.epoch) % 0x10000 < 0x8000


@dataclass(frozen=True)
class DataPacket:
    """One symbol of one block.

    Attributes:
        block: number of the block modulo 2**16.
        index: place of the symbol in the code word: 0 to k-1 source, k to k+m-1 repair.
        k: source symbols of the block.
        m: repair symbols of its code; an uncoded block has k = 1, m = 0, index = 0.
        symbol: at least one byte.
        poll: the sender has nothing more to send for the block of its own accord and would like to hear.
        mute: the sender cannot hear: nothing is to be answered.
        long: the header named sender and epoch.
    """

    block: int
    index: int
    k: int
    m: int
    symbol: bytes
    poll: bool = False
    mute: bool = False
    long: bool = True

    @property
    def coded(self) -> bool:
        """Whether the header carries index, k and m."""
        return self.m > 0 or self.k > 1


@dataclass(frozen=True)
class SplitPacket:
    """A packet taken apart as far as that goes without knowing its session."""

    flags: int
    identity: SessionIdentity | None
    tag: int | None
    body: bytes
    _covered: bytes
    _checksum: int

    @property
    def control(self) -> bool:
        """Whether the body is a control message."""
        return bool(self.flags & _CONTROL)

    @property
    def reset(self) -> bool:
        """Whether it is the station's word that it does not know the session of ``tag``."""
        return self.control and bool(self.flags & _RESET)

    def belongs_to(self, seed: int) -> bool:
        """Whether the checksum holds for a session with this `SessionIdentity.checksum_seed`."""
        return zlib.crc32(self._covered, seed) == self._checksum

    def data(self) -> DataPacket:
        """The symbol and its place.

        Raises:
            CorruptDataError: if the header contradicts itself.
        """
        body = self.body
        coded = bool(self.flags & _CODED)
        start = _BLOCK.size + (_CODE.size if coded else 0)
        if len(body) <= start:
            raise CorruptDataError("a data packet has no symbol")
        (block,) = _BLOCK.unpack_from(body)
        index, k, m = _CODE.unpack_from(body, _BLOCK.size) if coded else (0, 1, 0)
        if k < 1 or k + m > LONGEST_CODE_WORD or index >= k + m or (coded and k + m < 2):
            raise CorruptDataError(f"a data packet names symbol {index} of a code with k={k}, m={m}")
        flags = self.flags
        return DataPacket(
            block, index, k, m, body[start:], bool(flags & _POLL), bool(flags & _MUTE), bool(flags & _LONG)
        )


def data_overhead(*, coded: bool, long: bool) -> int:
    """Bytes of a data packet besides its symbol."""
    return 1 + (_IDENTITY.size if long else 1) + _BLOCK.size + (_CODE.size if coded else 0) + _CHECKSUM.size


def encode_data(identity: SessionIdentity, packet: DataPacket) -> bytes:
    """Bytes of a data packet; sender and epoch go along if ``packet.long``."""
    flags = (packet.long and _LONG) | (packet.coded and _CODED) | (packet.poll and _POLL) | (packet.mute and _MUTE)
    body = _BLOCK.pack(packet.block)
    if packet.coded:
        body += _CODE.pack(packet.index, packet.k, packet.m)
    return _close(identity, flags, body + packet.symbol, long=packet.long)


def encode_control(identity: SessionIdentity, message: bytes) -> bytes:
    """Bytes of a control packet for the sender of a session; always with the short header, for it knows itself."""
    return _close(identity, _CONTROL, message, long=False)


CONTROL_OVERHEAD = 2 + _CHECKSUM.size
"""Bytes of a control packet besides its message."""


def encode_reset(tag: int) -> bytes:
    """Bytes of the answer to a short header that no session fits: "say who you are"."""
    data = bytes([_VERSION | _CONTROL | _RESET, tag])
    return data + _CHECKSUM.pack(zlib.crc32(data))


def split_packet(data: bytes) -> SplitPacket:
    """Take a packet apart; nothing is proved before `SplitPacket.belongs_to`.

    Raises:
        CorruptDataError: if it is too short, of another version or sealed.
    """
    if len(data) < 2 + _CHECKSUM.size:
        raise CorruptDataError("a packet is too short")
    flags = data[0]
    if flags & _VERSION_MASK != _VERSION:
        raise CorruptDataError("a packet is of another protocol version")
    if flags & _SEALED:
        raise CorruptDataError("a packet is sealed, which this version cannot open")
    covered = data[: -_CHECKSUM.size]
    (checksum,) = _CHECKSUM.unpack(data[-_CHECKSUM.size :])
    if not flags & _LONG:
        return SplitPacket(flags, None, data[1], covered[2:], covered, checksum)
    start = 1 + _IDENTITY.size
    if len(covered) < start:
        raise CorruptDataError("a packet is too short")
    identity = SessionIdentity(*_IDENTITY.unpack_from(data, 1))
    return SplitPacket(flags, identity, None, covered[start:], covered, checksum)


def _close(identity: SessionIdentity, flags: int, body: bytes, *, long: bool) -> bytes:
    name = _IDENTITY.pack(*identity) if long else bytes([identity.tag])
    data = bytes([_VERSION | flags]) + name + body
    return data + _CHECKSUM.pack(zlib.crc32(data, identity.checksum_seed))
