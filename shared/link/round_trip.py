"""Round-trip time and the time to wait for an answer (RFC 6298)."""

LONGEST_WAIT = 120.0
"""Seconds: the back-off stops here, so that a station that comes back is found within two minutes."""

_TO_ANSWER = 1.0
"""Seconds that a station may take to store a layer and gather its answers, which the measurement leaves out."""

_PACKETS_TIMED = 4096


class SentPackets:
    """When the latest packets were sent, by their counters."""

    def __init__(self) -> None:
        self._at: dict[int, float] = {}

    def note(self, counter: int, now: float) -> None:
        """A packet goes out at ``now`` seconds."""
        self._at[counter] = now
        self._at.pop(counter - _PACKETS_TIMED, None)

    def of(self, counter: int) -> float | None:
        """Seconds at which a packet went out, None if that was long ago or never."""
        return self._at.get(counter)


class RoundTrip:
    """Smoothed round-trip time of a session.

    Args:
        initial: seconds to wait for an answer while no round trip has been measured.
    """

    def __init__(self, initial: float) -> None:
        self._initial = initial
        self._variation = 0.0
        self.smoothed: float | None = None
        self.shortest: float | None = None

    def measure(self, seconds: float) -> None:
        """Take in one measured round trip."""
        seconds = max(seconds, 0.0)
        self.shortest = seconds if self.shortest is None else min(self.shortest, seconds)
        if self.smoothed is None:
            self.smoothed, self._variation = seconds, seconds / 2
            return
        self._variation += (abs(self.smoothed - seconds) - self._variation) / 4
        self.smoothed += (seconds - self.smoothed) / 8

    def wait(self, doublings: int) -> float:
        """Seconds to wait for an answer after ``doublings`` waits in vain."""
        base = self._initial
        if self.smoothed is not None:
            base = self.smoothed + 4 * self._variation + _TO_ANSWER
        return min(base * 2.0 ** min(doublings, 16), max(LONGEST_WAIT, base))
