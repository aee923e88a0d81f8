"""Which of a sender's blocks are stored, in the few bytes that every report can afford to repeat."""

from collections.abc import Callable

from shared.link.control import MOST_OTHERS, StoredBlocks
from shared.link.packet import BLOCK_NUMBERS

_LONGEST_RUN = BLOCK_NUMBERS // 4


class StoredRun:
    """A run of stored blocks without a gap, and those stored beyond the first gap.

    Acknowledgements of layers are said once; what they lose with a report, the next report's run makes good, so that a
    sender need not ask. The run begins with the first block that this station heard of, for of those before it knows
    nothing, and is given up behind a gap that lies too far back.

    Args:
        is_stored: whether every layer of a block, by its full number, is stored.
    """

    def __init__(self, is_stored: Callable[[int], bool]) -> None:
        self._is_stored = is_stored
        self._first: int | None = None
        self._end = 0

    def heard_of(self, number: int) -> None:
        """A packet of block ``number`` arrived."""
        if self._first is None:
            self._first = self._end = number

    def say(self, highest: int) -> StoredBlocks | None:
        """What is stored up to block ``highest``; None if that is nothing."""
        if self._first is None:
            return None
        if highest - self._end > MOST_OTHERS:
            self._first = self._end = highest - MOST_OTHERS
        while self._end <= highest and self._is_stored(self._end):
            self._end += 1
        self._first = max(self._first, self._end - _LONGEST_RUN)
        others = sum(1 << i for i, number in enumerate(range(self._end + 1, highest + 1)) if self._is_stored(number))
        if self._first == self._end and not others:
            return None
        packed = others.to_bytes((others.bit_length() + 7) // 8, "little")
        return StoredBlocks(self._first % BLOCK_NUMBERS, self._end - self._first, packed)
