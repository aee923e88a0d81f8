"""When a sender asks about blocks that got no answer: often while the station is heard, seldom while it is silent."""

from collections.abc import Iterable

from shared.link.blocks import OutgoingBlock
from shared.link.round_trip import RoundTrip

_ROUNDS = 4
"""Questions in vain, once the round trip is known, before the waits begin to double."""

_ASKED_AT_ONCE = 4


class Patience:
    """Deadlines of blocks, and rounds of questions.

    Nothing is ever given up: while the station is silent one symbol goes out now and then, at longer and longer
    intervals up to two minutes, and when it speaks again all goes on from there.

    Args:
        initial: seconds to wait for an answer while no round trip has been measured.
        now: seconds.
    """

    def __init__(self, initial: float, now: float) -> None:
        self.round_trip = RoundTrip(initial)
        self._silent_rounds = 0
        self._heard_since_round = True
        self._last_round = now
        self._postponed: list[OutgoingBlock] = []

    def expect(self, block: OutgoingBlock, now: float) -> None:
        """All of a block is out: wait for the answer."""
        block.deadline = now + self._wait(block.attempts)

    def due(self, blocks: Iterable[OutgoingBlock], now: float) -> list[OutgoingBlock]:
        """The blocks to ask about now."""
        due = [block for block in blocks if block.deadline is not None and block.deadline <= now]
        if not due:
            return []
        due.sort(key=lambda block: (block.priority, block.last_sent))
        next_round = self._last_round + self._wait(self._silent_rounds)
        if self._heard_since_round:
            asked = due
        elif now < next_round:
            asked = []
        else:
            # On a lossy link a round may go unheard by chance, so a few more blocks ask before it counts as silence.
            # Then one symbol is enough to find out whether somebody is there again.
            self._silent_rounds += 1
            next_round = now + self._wait(self._silent_rounds)
            asked = due[:_ASKED_AT_ONCE] if self._silent_rounds <= _ROUNDS else due[:1]
        # Those postponed before that are due again are among these, or asked about, or nothing is wanted of them.
        waiting = [block for block in self._postponed if block.deadline is not None and block.deadline > now]
        for block in due[len(asked) :]:
            block.deadline = next_round
            waiting.append(block)
        self._postponed = waiting
        for block in asked:
            self._heard_since_round = False
            self._last_round = now
            block.attempts += 1
            block.resting = False
            block.deadline = None
        return asked

    def heard(self, blocks: Iterable[OutgoingBlock], now: float, *, again: bool) -> None:
        """The station answered; ``again`` if it was not sure that it is there.

        After a silence the station that had resting blocks may have died before it stored them, so they ask soon.
        """
        self._heard_since_round = True
        for block in blocks:
            block.attempts = 0
            if again and block.resting and block.deadline is not None:
                block.resting = False
                block.deadline = min(block.deadline, now + self._wait(0))
        self._silent_rounds = 0
        for block in self._postponed:
            if block.deadline is not None:
                block.deadline = now
        self._postponed.clear()

    def rest(self, block: OutgoingBlock, now: float) -> None:
        """The station has a block and stores its layers, or waits for parts in other blocks: ask again much later."""
        block.resting = True
        block.deadline = now + self._wait(_ROUNDS + 3)

    def start_over(self, blocks: Iterable[OutgoingBlock], now: float) -> None:
        """The station knows nothing any more: what it was said to have or to be storing, it may not have."""
        for block in blocks:
            if block.deadline is not None:
                block.attempts = 0
                block.resting = False
                block.deadline = now

    def _wait(self, attempts: int) -> float:
        """Seconds to wait for an answer after so many questions in vain."""
        # Before the first answer nothing is known of the round trip, and it may be that of a satellite link with its
        # queues; waits that double at once find it with few questions sent for nothing (RFC 6298, section 5.5).
        free = 0 if self.round_trip.smoothed is None else _ROUNDS
        return self.round_trip.wait(max(0, attempts - free))
