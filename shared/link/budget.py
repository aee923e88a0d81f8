"""The byte budget of a link: a token bucket with time as an argument."""

import math

_ROUNDING = 5e-7
"""Bytes."""


class TokenBucket:
    """Lets at most ``burst_bytes + rate_bits * t / 8`` bytes pass in any interval of ``t`` seconds.

    The bucket starts full. Time must not run backwards; a step back is treated as standing still.

    Args:
        rate_bits: refill in bit/s, above 0.
        burst_bytes: depth in bytes; no single take can be larger.
        now: seconds at which the bucket is full.
    """

    def __init__(self, rate_bits: float, burst_bytes: int, now: float = 0.0) -> None:
        self._rate = rate_bits / 8.0
        self._depth = float(burst_bytes)
        self._level = self._depth
        self._at = now

    def take(self, size: int, now: float) -> bool:
        """Take ``size`` bytes at ``now`` seconds if they are there; True if so."""
        self._refill(now)
        # Covers the rounding of a refill that lands exactly on the wanted level; what it lends is taken back by the
        # level going below zero.
        if self._level + _ROUNDING < size:
            return False
        self._level -= size
        return True

    def ready_at(self, size: int, now: float) -> float:
        """Seconds at which ``take(size)`` will succeed if nothing else is taken before; at least ``now``.

        A size above the depth is never ready: infinity.
        """
        self._refill(now)
        if size > self._depth:
            return math.inf
        if self._level + _ROUNDING >= size:
            return now
        # A wait too short for the clock's resolution would otherwise answer `now` for ever.
        return max(math.nextafter(now, math.inf), self._at + (size - self._level) / self._rate)

    def _refill(self, now: float) -> None:
        if now > self._at:
            self._level = min(self._depth, self._level + (now - self._at) * self._rate)
            self._at = now
