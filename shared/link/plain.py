"""Unsealed sessions: packets with a checksum, which tells damage but no malice.

The checksum always runs over sender and epoch first, whether they are in the packet or not: a short header names its
session by an 8-bit tag, which is only a hint where to look, and the checksum proves the choice (the idea of QUIC's
short header, RFC 9000 section 17.3, with the pseudo-header of RFC 768).
"""

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple, Self

from shared.errors import CorruptDataError, PinholeError
from shared.link.envelope import Admitted, Cause, RefusedError, StationEnvelope
from shared.link.packet import (
    CONTROL,
    COUNTERS,
    LONG,
    SEALED,
    VERSION_BITS,
    Incoming,
    OtherVersionError,
    check_version,
    unwrap_counter,
)

_IDENTITY = struct.Struct(">IH")
_COUNTER = struct.Struct(">H")
_CHECKSUM = struct.Struct(">I")
_SHORT_BYTES = 1 + 1 + _COUNTER.size + _CHECKSUM.size
_LONG_BYTES = 1 + _IDENTITY.size + _COUNTER.size + _CHECKSUM.size


class PlainIdentity(NamedTuple):
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
        return fold_tag(_IDENTITY.pack(*self))

    @property
    def checksum_seed(self) -> int:
        """CRC-32 of the identity, with which the checksum of every packet of the session begins."""
        return zlib.crc32(_IDENTITY.pack(*self))

    def is_newer_than(self, other: Self) -> bool:
        """Whether this start of the same sender came after ``other`` (serial number arithmetic, RFC 1982)."""
        return 0 < (self.epoch - other.epoch) % 0x10000 < 0x8000


def fold_tag(identity: bytes) -> int:
    """The 8-bit session hint of an identity."""
    folded = 0
    for byte in identity:
        folded = folded * 5 + byte & 0xFF
    return folded


class PlainSender:
    """A sender's side of an unsealed session.

    Args:
        sender: id of the sender, u32, kept for life.
        epoch: number of this start modulo 2**16, another at every start.

    Raises:
        PinholeError: if a number is out of range.
    """

    def __init__(self, sender: int, epoch: int) -> None:
        if not 0 <= sender <= 0xFFFFFFFF or not 0 <= epoch <= 0xFFFF:
            raise PinholeError(f"sender id {sender} or epoch {epoch} does not fit into 32 and 16 bits")
        self._identity = PlainIdentity(sender, epoch)
        self._seed = self._identity.checksum_seed
        self._heard: int | None = None
        self.sender = sender
        self.tag = self._identity.tag
        self.sent = 0

    def overhead(self, *, known: bool) -> int:
        """See `SenderEnvelope`."""
        return _SHORT_BYTES if known else _LONG_BYTES

    def wrap(self, flags: int, body: bytes, *, known: bool) -> bytes:
        """See `SenderEnvelope`; until the station knows the session, the header names it."""
        name = bytes([self.tag]) if known else _IDENTITY.pack(*self._identity)
        flags |= VERSION_BITS | (0 if known else LONG)
        data = bytes([flags]) + name + _COUNTER.pack(self.sent % COUNTERS) + body
        self.sent += 1
        return data + _CHECKSUM.pack(zlib.crc32(data, self._seed))

    def unwrap(self, data: bytes) -> Incoming:
        """See `SenderEnvelope`."""
        check_version(data)
        if len(data) < _SHORT_BYTES or data[0] & (SEALED | LONG | CONTROL) != CONTROL:
            raise CorruptDataError("a packet is not for this sender")
        incoming = _open_short(data, self._seed, self._heard)
        if incoming is None:
            raise CorruptDataError("a packet is damaged or not for this sender")
        self._heard = max(self._heard or 0, incoming.counter)
        return incoming

    def hello(self, packet_bytes: int) -> Sequence[bytes]:
        """None: the long header makes the session known."""
        return ()


class PlainSession:
    """A station's side of an unsealed session."""

    overhead = _SHORT_BYTES

    def __init__(self, identity: PlainIdentity) -> None:
        self.identity = identity
        self.seed = identity.checksum_seed
        self.sender = identity.sender
        self.highest: int | None = None
        self._sent = 0

    def wrap(self, message: bytes) -> bytes:
        """See `StationEnvelope`; always with the short header, for the sender knows itself."""
        data = bytes([VERSION_BITS | CONTROL, self.identity.tag]) + _COUNTER.pack(self._sent % COUNTERS) + message
        self._sent += 1
        return data + _CHECKSUM.pack(zlib.crc32(data, self.seed))


class PlainGate:
    """Lets in every packet whose checksum holds."""

    def __init__(self) -> None:
        self._sessions: dict[int, PlainSession] = {}
        self._by_tag: dict[int, dict[int, PlainSession]] = {}

    def admit(self, data: bytes) -> Admitted:
        """See `Gate`."""
        try:
            check_version(data)
        except OtherVersionError as error:
            raise RefusedError(Cause.OTHER_VERSION, str(error)) from None
        if data[0] & SEALED:
            raise RefusedError(Cause.SEALED, "a packet is sealed, and this station has no keys")
        if data[0] & CONTROL:
            raise RefusedError(Cause.DAMAGED, "a station takes no control packets")
        if len(data) < (_LONG_BYTES if data[0] & LONG else _SHORT_BYTES):
            raise RefusedError(Cause.DAMAGED, "a packet is too short")
        if not data[0] & LONG:
            return self._admit_short(data)
        identity = PlainIdentity(*_IDENTITY.unpack_from(data, 1))
        if not _holds(data, identity.checksum_seed):
            raise RefusedError(Cause.DAMAGED, "a packet is damaged")
        session = self._sessions.get(identity.sender)
        if session is None or identity.is_newer_than(session.identity):
            session = self._begin(identity, session)
        elif session.identity != identity:
            raise RefusedError(Cause.STALE_SESSION, f"a packet is of an earlier start of sender {identity.sender:08x}")
        (wire,) = _COUNTER.unpack_from(data, 1 + _IDENTITY.size)
        return self._admitted(session, data[0], wire, data[_LONG_BYTES - _CHECKSUM.size : -_CHECKSUM.size])

    def forget(self, envelope: StationEnvelope) -> None:
        """See `Gate`."""
        session = self._sessions.get(envelope.sender)
        if session is not envelope or session is None:
            return
        del self._sessions[session.sender]
        same_tag = self._by_tag[session.identity.tag]
        del same_tag[session.sender]
        if not same_tag:
            del self._by_tag[session.identity.tag]

    def _begin(self, identity: PlainIdentity, before: PlainSession | None) -> PlainSession:
        if before is not None:
            self.forget(before)
        session = self._sessions[identity.sender] = PlainSession(identity)
        self._by_tag.setdefault(identity.tag, {})[identity.sender] = session
        return session

    def _admit_short(self, data: bytes) -> Admitted:
        for session in self._by_tag.get(data[1], {}).values():
            if _holds(data, session.seed):
                (wire,) = _COUNTER.unpack_from(data, 2)
                return self._admitted(session, data[0], wire, data[_SHORT_BYTES - _CHECKSUM.size : -_CHECKSUM.size])
        # It may be damaged as well as unknown; nothing can tell.
        raise RefusedError(Cause.UNKNOWN_SESSION, "a packet is of no known session", data[1])

    @staticmethod
    def _admitted(session: PlainSession, flags: int, wire: int, body: bytes) -> Admitted:
        counter = unwrap_counter(wire, session.highest, COUNTERS)
        session.highest = max(session.highest or 0, counter)
        return Admitted(session, Incoming(flags, counter, body))


def _holds(data: bytes, seed: int) -> bool:
    return data[-_CHECKSUM.size :] == _CHECKSUM.pack(zlib.crc32(data[: -_CHECKSUM.size], seed))


def _open_short(data: bytes, seed: int, highest: int | None) -> Incoming | None:
    if not _holds(data, seed):
        return None
    (wire,) = _COUNTER.unpack_from(data, 2)
    counter = unwrap_counter(wire, highest, COUNTERS)
    return Incoming(data[0], counter, data[_SHORT_BYTES - _CHECKSUM.size : -_CHECKSUM.size])


def read_unproved(data: bytes) -> Incoming:
    """Flags, wire counter and body of an unsealed packet, whoever's it is; for ledgers and captures.

    Raises:
        CorruptDataError: if it is sealed, of another version or too short.
    """
    check_version(data)
    start = (_LONG_BYTES if data[0] & LONG else _SHORT_BYTES) - _CHECKSUM.size
    if data[0] & SEALED or len(data) < start + _CHECKSUM.size:
        raise CorruptDataError("a packet is sealed or too short")
    (wire,) = _COUNTER.unpack_from(data, start - _COUNTER.size)
    return Incoming(data[0], wire, data[start : -_CHECKSUM.size])
