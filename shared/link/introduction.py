"""When a sealed sender says hello, so that the station can open what it sends."""

from collections import deque

from shared.link.envelope import SenderEnvelope

_FIRST_GAP = 256
_SHARE = 40
"""A sender that is not known to be known spends at most this part of its bytes on hellos, in the long run: 1 in 40."""

_EVERY = 10.0
"""Seconds after which a sender without a way back says hello again before its next packet."""


class Introduction:
    """Hellos go out right before data: at once, again after a few hundred bytes, then after ever more.

    A session whose packets all name it needs none, and then nothing is ever due.

    Args:
        envelope: of the session.
        packet_bytes: largest packet.
        simplex: nobody can say that the hello arrived.
    """

    def __init__(self, envelope: SenderEnvelope, packet_bytes: int, *, simplex: bool) -> None:
        self._envelope = envelope
        self._packet_bytes = packet_bytes
        self._simplex = simplex
        self._size = sum(map(len, envelope.hello(packet_bytes)))
        self._gap = 0
        self._since = 0
        self._at: float | None = None
        self._wanted = False
        self._parts: deque[bytes] = deque()

    def due(self, now: float, *, known: bool) -> int:
        """Bytes of the hello packet that must go out now, 0 if none must."""
        if not self._parts and self._size and self._is_due(now, known=known):
            self._parts.extend(self._envelope.hello(self._packet_bytes))
            self._wanted = False
            self._since = 0
            self._gap = min(max(_FIRST_GAP, 2 * self._gap), _SHARE * self._size)
            self._at = now
        return len(self._parts[0]) if self._parts else 0

    def take(self) -> bytes:
        """The packet that is due; it counts as sent."""
        return self._parts.popleft()

    def sent(self, size: int) -> None:
        """Data went out, ``size`` bytes."""
        self._since += size

    def want(self) -> None:
        """Say hello before the next packet: the station may not know the session any more."""
        self._wanted = True

    def _is_due(self, now: float, *, known: bool) -> bool:
        if self._at is None or self._wanted:
            return True
        if self._simplex and now - self._at >= _EVERY:
            return True
        return (self._simplex or not known) and self._since >= self._gap
