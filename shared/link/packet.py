"""Packets: one symbol or one control message, its place, its header (``docs/protocol.md``, section 1).

    unsealed, long:   flags  sender (4)  epoch (2)  counter (2)  body             CRC-32 (4)
    unsealed, short:  flags  tag (1)                counter (2)  body             CRC-32 (4)
    sealed:           flags  tag (1)                counter (2)  encrypted body   Poly1305 tag (16)
    hello:            flags  identity (4)  session (5)  ...                       MAC (16)

This module knows the bytes of headers and bodies. What protects them, and so decides whose packet it is, are the
envelopes: `shared.link.plain` and `shared.link.sealed`.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

from shared.errors import CorruptDataError
from shared.link.reed_solomon import LONGEST_CODE_WORD

VERSION = 2
"""Of the protocol that this code speaks."""

VERSION_MASK = 0xC0
VERSION_BITS = 0x80
EXTENDED = 0xC0
"""Top bits of packets whose version stands in their second byte: 0 for a version answer, 3 and up for the future."""

SEALED = 0x20
LONG = 0x10
CONTROL = 0x08
CODED = 0x04
POLL = 0x02
MUTE = 0x01
RESET = 0x01
"""In control packets, in the place of `MUTE`."""

HELLO = SEALED | LONG
"""Both: a sealed packet has no long header, its session is made known by hello packets."""

COUNTERS = 1 << 16
BLOCK_NUMBERS = 1 << 16

_BLOCK = struct.Struct(">H")
_CODE = struct.Struct(">BBB")
_CHECKSUM = struct.Struct(">I")
_VERSIONS_ECHO = 4
LONGEST_ANSWER = 2 + _VERSIONS_ECHO + 16 + _CHECKSUM.size


class OutgoingPacket(NamedTuple):
    """A packet on its way to a transport.

    Attributes:
        data: its bytes.
        priority: 0 for base layers and what concerns all, 1 for refinements.
    """

    data: bytes
    priority: int


class Incoming(NamedTuple):
    """What an envelope held, proved to be of its session.

    Attributes:
        flags: first byte of the packet.
        counter: number of the packet in its session and direction, not cut to 16 bits.
        body: the body.
    """

    flags: int
    counter: int
    body: bytes


@dataclass(frozen=True)
class DataPacket:
    """One symbol of one block.

    Attributes:
        block: number of the block modulo 2**16.
        index: place of the symbol in the code word: 0 to k-1 source, k to k+m-1 repair.
        k: source symbols of the block.
        m: repair symbols of its code; an uncoded block has k = 1, m = 0, index = 0.
        symbol: empty in a question, which only asks what the station has of the block.
        poll: the sender has nothing more to send for the block of its own accord and would like to hear.
        mute: the sender cannot hear: nothing is to be answered.
    """

    block: int
    index: int
    k: int
    m: int
    symbol: bytes
    poll: bool = False
    mute: bool = False

    @property
    def coded(self) -> bool:
        """Whether the header carries index, k and m."""
        return self.m > 0 or self.k > 1

    @property
    def flags(self) -> int:
        """Those bits of the first byte that speak of the body."""
        return (self.coded and CODED) | (self.poll and POLL) | (self.mute and MUTE)


def place_bytes(*, coded: bool) -> int:
    """Bytes of a data packet's body before its symbol."""
    return _BLOCK.size + (_CODE.size if coded else 0)


def encode_data(packet: DataPacket) -> bytes:
    """Body of a data packet; its flags go into the header."""
    body = _BLOCK.pack(packet.block)
    if packet.coded:
        body += _CODE.pack(packet.index, packet.k, packet.m)
    return body + packet.symbol


def parse_data(flags: int, body: bytes) -> DataPacket:
    """Read a data packet's body.

    Raises:
        CorruptDataError: if it is cut short or contradicts itself.
    """
    coded = bool(flags & CODED)
    start = place_bytes(coded=coded)
    if len(body) < start + coded:
        raise CorruptDataError("a data packet has no symbol")
    (block,) = _BLOCK.unpack_from(body)
    index, k, m = _CODE.unpack_from(body, _BLOCK.size) if coded else (0, 1, 0)
    if k < 1 or k + m > LONGEST_CODE_WORD or index >= k + m or (coded and k + m < 2):
        raise CorruptDataError(f"a data packet names symbol {index} of a code with k={k}, m={m}")
    return DataPacket(block, index, k, m, body[start:], bool(flags & POLL), bool(flags & MUTE))


def check_version(data: bytes) -> None:
    """Look at the version of a packet.

    Raises:
        OtherVersionError: if it is not ours.
    """
    if not data or data[0] & VERSION_MASK != VERSION_BITS:
        raise OtherVersionError("a packet is of another protocol version")


class OtherVersionError(CorruptDataError):
    """A packet of a protocol version that this code does not speak."""


def unwrap_counter(wire: int, highest: int | None, modulus: int) -> int:
    """The number nearest to ``highest`` that is ``wire`` modulo ``modulus``.

    Where nothing is known yet it is one round above zero, so that what came before the first packet heard has a number
    as well.
    """
    if highest is None:
        return wire + modulus
    step = (wire - highest) % modulus
    return highest + (step if step < modulus // 2 else step - modulus)


def encode_reset(tag: int) -> bytes:
    """The answer to a packet that no session fits: "say who you are"."""
    return _summed(bytes([VERSION_BITS | CONTROL | RESET, tag]))


def reset_tag(data: bytes) -> int | None:
    """The tag that a reset names, None if the packet is no reset.

    A reset proves nothing; whoever acts on it must do nothing that a stranger's could abuse.
    """
    if len(data) != 2 + _CHECKSUM.size or data[0] != VERSION_BITS | CONTROL | RESET or _summed(data[:2]) != data:
        return None
    return data[1]


def wants_versions(refused: bytes) -> bool:
    """Whether a packet of another version may be answered.

    Not a version answer itself, for two ends that hear each other would go on for ever, and not what is no packet of
    any version (top bits 00).
    """
    return len(refused) > 1 and refused[0] & VERSION_MASK != 0 and refused[:2] != bytes([EXTENDED | CONTROL, 0])


def encode_versions(refused: bytes) -> bytes:
    """The answer to a packet of a version that is not spoken here: those that are."""
    echo = refused[:_VERSIONS_ECHO].ljust(_VERSIONS_ECHO, b"\0")
    return _summed(bytes([EXTENDED | CONTROL, 0]) + echo + bytes([VERSION]))


def spoken_versions(data: bytes) -> tuple[int, ...] | None:
    """The versions that the other end speaks if the packet is a version answer to one of ours, else None."""
    if not 2 + _VERSIONS_ECHO + 1 + _CHECKSUM.size <= len(data) <= LONGEST_ANSWER:
        return None
    inner = data[: -_CHECKSUM.size]
    if inner[:2] != bytes([EXTENDED | CONTROL, 0]) or _summed(inner) != data:
        return None
    if inner[2] & VERSION_MASK != VERSION_BITS:
        return None
    return tuple(inner[2 + _VERSIONS_ECHO :])


def _summed(data: bytes) -> bytes:
    return data + _CHECKSUM.pack(zlib.crc32(data))
