"""Which packets of a sealed session were taken before (the sliding window of RFC 6479, as one integer)."""

WINDOW = 1024
"""Packets: the furthest that one may come after a later one."""


class ReplayWindow:
    """Remembers the counters taken.

    Args:
        floor: counters below are refused; those that an earlier life of the station may have taken.
    """

    def __init__(self, floor: int = 0) -> None:
        self._floor = floor
        self._next = floor
        # Bit i: counter self._next - 1 - i was taken.
        self._taken = 0

    @property
    def next(self) -> int:
        """One more than the highest counter taken."""
        return self._next

    def is_new(self, counter: int) -> bool:
        """Whether a counter may be taken."""
        if counter >= self._next:
            return True
        age = self._next - 1 - counter
        return counter >= self._floor and age < WINDOW and not self._taken >> age & 1

    def take(self, counter: int) -> None:
        """Note a counter; only for one that `is_new`."""
        if counter >= self._next:
            shift = counter + 1 - self._next
            self._taken = (self._taken << min(shift, WINDOW) | 1) & (1 << WINDOW) - 1
            self._next = counter + 1
        else:
            self._taken |= 1 << self._next - 1 - counter
