"""How layers leave a sender: acknowledged, sent (simplex), withdrawn, or given back because their number is taken."""

from collections import deque
from collections.abc import Collection

from shared.link.blocks import LayerKey, OutgoingBlock
from shared.link.control import TakenNumbers
from shared.link.events import LayerAcknowledged, LayerSent, NumberTaken, SenderEvent
from shared.link.outstanding import Outstanding
from shared.link.send_queue import SendQueue
from shared.link.statistics import SenderStatistics


class Settling:
    """Takes layers out of the queue and the account, counts them, and tells the owner.

    Args:
        queue: what goes out next.
        outstanding: what the station does not have yet.
        statistics: counters of the session.
        events: where the owner is told.
    """

    def __init__(
        self, queue: SendQueue, outstanding: Outstanding, statistics: SenderStatistics, events: deque[SenderEvent]
    ) -> None:
        self._queue = queue
        self._outstanding = outstanding
        self._statistics = statistics
        self._events = events

    def note_closed(self) -> None:
        """Take note of blocks closed since; before a layer is settled, for it must go from all that carry it."""
        for block in self._queue.take_closed():
            self._outstanding.carry(block)

    def acknowledged(self, key: LayerKey) -> None:
        """The station has stored an outstanding layer."""
        if not self._outstanding.carriers(key) or self._queue.is_cut(key):
            self._queue.drop_layer(key)
        self._outstanding.settle(key)
        self._statistics.layers_acknowledged += 1
        self._events.append(LayerAcknowledged(*key))

    def sent(self, block: OutgoingBlock) -> None:
        """Simplex: a packet of a block went out; tell of the layers whose last packet it was."""
        if block.plan:
            return
        for key in [*block.layers]:
            if self._queue.is_cut(key) or any(carrier.plan for carrier in self._outstanding.carriers(key)):
                continue
            self._outstanding.settle(key)
            self._statistics.layers_sent += 1
            self._events.append(LayerSent(*key))

    def withdraw(self, sequences: Collection[int]) -> None:
        """The owner gives up pictures."""
        self._statistics.layers_withdrawn += len(self._drop(sequences))

    def give_back(self, taken: TakenNumbers) -> None:
        """The station has other pictures under numbers of ours; what is outstanding of ours goes back to the owner."""
        for sequence in sorted({sequence for sequence, _ in self._drop(taken.sequences)}):
            self._statistics.numbers_taken += 1
            self._events.append(NumberTaken(sequence, taken.highest))

    def _drop(self, sequences: Collection[int]) -> list[LayerKey]:
        """Send nothing more of pictures; return their layers that were outstanding."""
        self.note_closed()
        wanted = frozenset(sequences)
        keys = [key for key in self._outstanding if key[0] in wanted]
        for key in keys:
            self._queue.drop_layer(key)
            self._outstanding.settle(key)
        return keys
