"""Byte credit between the ends of a ZeroMQ connection: two messages, and the counters behind them.

Packets of the link begin with bits 01, 10 or 11. The transport's own messages begin with 00, have one length each, and
are never handed on:

=====  ======================  ================================================================
bytes  message                 meaning
=====  ======================  ================================================================
5      ``0x01``, u32 total     grant: bytes of packets that this end has taken so far, mod 2^32
9      ``0x02``, u32 window,   hello: this end has at most ``window`` bytes under way, and what
       u32 start               is under way counts from ``start``
=====  ======================  ================================================================

Numbers are big-endian. A total counts the bytes of packets, nothing below them.
"""

import struct
from dataclasses import dataclass

_HELLO = struct.Struct(">BII")
_GRANT = struct.Struct(">BI")
_GRANT_KIND, _HELLO_KIND = 1, 2
_MODULUS = 1 << 32

LARGEST_WINDOW = 1 << 18
"""Bytes that any sender may have under way."""

ANSWER_WINDOW = 1 << 15
"""Bytes of answers that may be under way to one sender; reports are small, and a newer one says more."""

_WINDOW_SECONDS = 4.0


@dataclass(frozen=True)
class Grant:
    """``total``: bytes that the other end has taken so far, modulo 2^32."""

    total: int

    def encode(self) -> bytes:
        """As it is sent."""
        return _GRANT.pack(_GRANT_KIND, self.total)


@dataclass(frozen=True)
class Hello:
    """What a sender says first on each connection, and again when it has waited long for a grant.

    Attributes:
        window: bytes that it has under way at most.
        start: its count of bytes sent so far, modulo 2^32; a station that does not know it counts from there.
    """

    window: int
    start: int

    def encode(self) -> bytes:
        """As it is sent."""
        return _HELLO.pack(_HELLO_KIND, self.window, self.start)


def parse_message(message: bytes) -> Grant | Hello | None:
    """Read a message of the transport's own; None for anything else, which is a packet."""
    if len(message) == _GRANT.size and message[0] == _GRANT_KIND:
        return Grant(_GRANT.unpack(message)[1])
    if len(message) == _HELLO.size and message[0] == _HELLO_KIND:
        return Hello(*_HELLO.unpack(message)[1:])
    return None


def window_for(rate: float | None, packet_bytes: int) -> int:
    """Bytes that a sender should have under way at most.

    Four seconds of the link: enough for the round trip of most, and what waits there is still young.

    Args:
        rate: bit/s, None for no limit.
        packet_bytes: of the largest packet, two of which always fit.
    """
    seconds_of_link = LARGEST_WINDOW if rate is None else int(rate / 8.0 * _WINDOW_SECONDS)
    return max(min(seconds_of_link, LARGEST_WINDOW), 2 * packet_bytes)


class Allowance:
    """The sending end's counter: what is under way, and what may follow.

    Args:
        window: bytes.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self._sent = 0
        self._taken = 0

    @property
    def sent(self) -> int:
        """Bytes sent so far, modulo 2^32."""
        return self._sent

    @property
    def under_way(self) -> int:
        """Bytes sent and not known to be taken."""
        return (self._sent - self._taken) % _MODULUS

    def fits(self, size: int) -> bool:
        """Whether ``size`` bytes more may go; a packet larger than the window goes alone."""
        return not self.under_way or self.under_way + size <= self.window

    def spend(self, size: int) -> None:
        """Count ``size`` bytes as sent."""
        self._sent = (self._sent + size) % _MODULUS

    def restart(self) -> None:
        """What was under way is lost with its connection, and counts as taken."""
        self._taken = self._sent

    def granted(self, total: int) -> None:
        """Take in what the other end has taken; totals that are older than others change nothing.

        A total beyond what was sent is of an end that remembers more than this one: its count is taken over.
        """
        ahead = (total - self._taken) % _MODULUS
        if ahead >= _MODULUS // 2:
            return
        if ahead > self.under_way:
            self._sent = total
        self._taken = total


class Tally:
    """The taking end's counter: what was taken, and when the other end must hear of it.

    Args:
        window: bytes that the other end has under way at most.
        start: where it counts from, modulo 2^32.
    """

    def __init__(self, window: int, start: int = 0) -> None:
        self.window = window
        self._total = self._told = start % _MODULUS

    @property
    def grant(self) -> Grant:
        """What is to be said."""
        return Grant(self._total)

    @property
    def due(self) -> bool:
        """Whether half a window is untold, so that a packet of half a window could not go."""
        return (self._total - self._told) % _MODULUS >= max(1, self.window // 2)

    def take(self, size: int) -> None:
        """Count ``size`` bytes as taken."""
        self._total = (self._total + size) % _MODULUS

    def told(self) -> None:
        """The grant was sent."""
        self._told = self._total
