"""What goes out next: layers that wait for their block, blocks with symbols to send, symbols asked for again.

Order: everything of the base class before anything of the refinements; within a class first the repairs that the
station asked for (they finish pictures of which it has half), then closed blocks, then layers that need no code.
Questions, the symbols that only fetch an answer, get every fourth turn: were they first, time-outs that are too short
for the link could keep new symbols, and with them a better measure of the round trip, from ever being sent; were they
last, a link that is always busy would never ask.
"""

from collections import deque
from dataclasses import dataclass, field

from shared.link.blocks import (
    BlockShape,
    LayerKey,
    OutgoingBlock,
    close_coded_block,
    close_uncoded_block,
    remaining,
)
from shared.link.config import LinkConfig
from shared.link.frames import Piece
from shared.link.packet import place_bytes
from shared.link.parity import LOWER_LAYERS, ParityPlan

PRIORITIES = (0, 1)
"""Base layers, refinements."""

_NEW_PER_QUESTION = 3


@dataclass(frozen=True)
class Choice:
    """The symbol whose turn it is.

    Attributes:
        block: its block.
        index: its place in the code word.
        queue: where it waits if it is a repair or a question, None if it is new.
        unframed: the block is made of waiting layers that `SendQueue.take` must still remove: whole ones per class,
            and what is left of one that was cut; None for symbols of a block that is in the queue.
    """

    block: OutgoingBlock
    index: int
    queue: deque[tuple[OutgoingBlock, int]] | None = None
    unframed: tuple[tuple[int, int], Piece | None] | None = None


@dataclass
class _Class:
    """Queues of one priority class."""

    coded: bool
    waiting: deque[Piece] = field(default_factory=deque)
    waiting_since: float = 0.0
    pictures: set[int] = field(default_factory=set)
    fresh: deque[deque[OutgoingBlock]] = field(default_factory=deque)
    repairs: deque[tuple[OutgoingBlock, int]] = field(default_factory=deque)
    questions: deque[tuple[OutgoingBlock, int]] = field(default_factory=deque)
    since_question: int = 0


class SendQueue:
    """Keeps the order; knows nothing of time-outs and budgets.

    Args:
        config: settings of the session.
        parity: how blocks are protected.
        overhead: bytes that the session's envelope takes of every packet, at most.
    """

    def __init__(self, config: LinkConfig, parity: ParityPlan, overhead: int) -> None:
        self._config = config
        self._parity = parity
        self._overhead = overhead
        self._repeats = config.repeats if config.simplex else 1
        self._classes = tuple(_Class(parity.is_coded(priority)) for priority in PRIORITIES)
        self._now = 0.0
        self._closed: list[OutgoingBlock] = []

    def add(self, piece: Piece, now: float) -> None:
        """Let a layer wait for its block."""
        self._now = now
        group = self._classes[_priority(piece.layer)]
        if not group.waiting:
            group.waiting_since = now
        elif group.coded and piece.sequence not in group.pictures and self._is_full(_priority(piece.layer)):
            self._close(_priority(piece.layer))
            group.waiting_since = now
        group.waiting.append(piece)
        if group.coded:
            group.pictures.add(piece.sequence)

    def drop_layer(self, key: LayerKey) -> None:
        """Forget what still waits of a layer."""
        group = self._classes[_priority(key[1])]
        group.waiting = deque(piece for piece in group.waiting if (piece.sequence, piece.layer) != key)
        if group.coded:
            group.pictures = {piece.sequence for piece in group.waiting}

    def is_cut(self, key: LayerKey) -> bool:
        """Whether a layer of which a part is in some block has another part that still waits."""
        waiting = self._classes[_priority(key[1])].waiting
        return bool(waiting) and (waiting[0].sequence, waiting[0].layer) == key

    def take_closed(self) -> list[OutgoingBlock]:
        """The blocks made since this was last asked."""
        closed, self._closed = self._closed, []
        return closed

    def repair(self, block: OutgoingBlock, index: int) -> None:
        """Send a symbol for which the station asked."""
        block.queued += 1
        self._classes[block.priority].repairs.append((block, index))

    def question(self, block: OutgoingBlock, index: int) -> None:
        """Send a symbol to get an answer."""
        block.queued += 1
        self._classes[block.priority].questions.append((block, index))

    def flush_at(self) -> float | None:
        """Seconds at which the next block must be closed; None if none gathers."""
        times = [group.waiting_since + self._config.flush_after for group in self._classes if _gathers(group)]
        return min(times, default=None)

    def close_due(self, now: float) -> None:
        """Close the blocks whose time has come, and those that are full."""
        self._now = now
        for priority in PRIORITIES:
            group = self._classes[priority]
            if not _gathers(group):
                continue
            # Full means that one more picture could only begin another block; later layers of the same picture come
            # in the same submission, thus before this is asked.
            if self._is_full(priority) or now >= group.waiting_since + self._config.flush_after:
                self._close(priority)

    def choose(self, overhead: int, *, peek: bool = False) -> Choice | None:
        """The next symbol, without taking it.

        Args:
            overhead: bytes that the envelope takes of this packet.
            peek: only look: close no block for it.

        Returns:
            None if there is nothing to send now.
        """
        base, refinements = (self._first(priority) for priority in PRIORITIES)
        if base is not None:
            return base
        choice = self._uncoded(overhead, base_only=refinements is not None) or refinements
        # The link is free now, so base layers that gather go now, in a smaller block than they might have had. Without
        # a return path nothing could mend a burst over a small block, so there they wait for company instead,
        # `flush_after` at most, and refinements use the time.
        if choice is not None and _gathers(self._classes[0]) and not self._config.simplex and not peek:
            self._close(0)
            return self._first(0)
        return choice

    def take(self, choice: Choice) -> None:
        """Take the symbol that `choose` named."""
        block = choice.block
        group = self._classes[block.priority]
        if choice.queue is not None:
            choice.queue.popleft()
            block.queued -= 1
            if choice.queue is group.questions:
                group.since_question = 0
            return
        group.since_question += 1
        block.plan.popleft()
        if choice.unframed is not None:
            counts, cut = choice.unframed
            for other, count in zip(self._classes, counts, strict=True):
                for _ in range(count):
                    other.waiting.popleft()
            if cut is not None:
                self._classes[_priority(cut.layer)].waiting[0] = cut
            self._closed.append(block)
            if block.plan:
                group.fresh.append(deque([block]))
            return
        if self._config.simplex:
            # Blocks that were closed together take turns, so that a burst hits each of them less. With a way back the
            # rest of a burst is mended anyway, and the first block had better be whole soon.
            group.fresh[0].rotate(-1)
        if block.plan and block.plan[0] == 0:
            # The next round of a repeated block comes after its neighbours, for the same reason.
            group.fresh.rotate(-1)

    def _first(self, priority: int) -> Choice | None:
        group = self._classes[priority]
        for queue in (group.repairs, group.questions):
            while queue and queue[0][0].done:
                queue.popleft()
        while group.fresh:
            row = group.fresh[0]
            while row and (row[0].done or not row[0].plan):
                row.popleft()
            if row:
                break
            group.fresh.popleft()
        if group.repairs:
            return Choice(*group.repairs[0], queue=group.repairs)
        nothing_new = not group.fresh and (group.coded or not group.waiting)
        if group.questions and (nothing_new or group.since_question >= _NEW_PER_QUESTION):
            return Choice(*group.questions[0], queue=group.questions)
        if group.fresh:
            return Choice(group.fresh[0][0], group.fresh[0][0].plan[0])
        return None

    def _uncoded(self, overhead: int, *, base_only: bool) -> Choice | None:
        """A packet of layers that need no code; what base layers leave of it, refinements fill."""
        room = self._config.packet_bytes - overhead - place_bytes(coded=False)
        pieces: list[Piece] = []
        size = 0
        for group in self._classes[: 1 if base_only else 2]:
            for piece in group.waiting if not group.coded else ():
                if size >= room:
                    break
                pieces.append(piece)
                # A frame takes at least its flags besides its data.
                size += len(piece.payload) - piece.start + 1
        if not pieces:
            return None
        block, cursor = close_uncoded_block(pieces, _priority(pieces[0].layer), room=room, repeats=self._repeats)
        whole = [_priority(piece.layer) for piece in pieces[: cursor.item]]
        cut = remaining(pieces, cursor)[0] if cursor.offset is not None else None
        return Choice(block, 0, unframed=((whole.count(0), whole.count(1)), cut))

    def _is_full(self, priority: int) -> bool:
        """Whether as many pictures gather as share a block."""
        return len(self._classes[priority].pictures) >= self._parity.interleave(priority, self._now)

    def _close(self, priority: int) -> None:
        """Make blocks of all that waits in a class."""
        group = self._classes[priority]
        pieces = [*group.waiting]
        row: deque[OutgoingBlock] = deque()
        cost = self._overhead + place_bytes(coded=True)
        shape = BlockShape(
            largest=self._config.packet_bytes - cost,
            packet_cost=cost + LOWER_LAYERS,
            repairs=lambda k: self._parity.repairs(priority, k, self._now),
            repeats=self._repeats,
            may_be_asked=not self._config.simplex,
        )
        while pieces:
            block, cursor = close_coded_block(pieces, priority, shape)
            row.append(block)
            self._closed.append(block)
            pieces = remaining(pieces, cursor)
        group.fresh.append(row)
        group.waiting.clear()
        group.pictures.clear()


def _gathers(group: _Class) -> bool:
    return group.coded and bool(group.waiting)


def _priority(layer: int) -> int:
    return min(layer, 1)
