"""What a sender has taken and its station does not have yet: layers, and the blocks that carry them."""

from collections.abc import Iterable, Iterator

from shared.link.blocks import LayerKey, OutgoingBlock
from shared.link.frames import Piece
from shared.link.packet import BLOCK_NUMBERS
from shared.link.statistics import SenderStatistics

_NUMBERS_IN_FLIGHT = BLOCK_NUMBERS // 4
"""Blocks between the oldest unanswered and the newest, so that 16 bits on the wire always name one block."""


class Outstanding:
    """Keeps account; decides nothing.

    Args:
        statistics: counts blocks that are done.
    """

    def __init__(self, statistics: SenderStatistics) -> None:
        self._statistics = statistics
        self.backlog_bytes = 0
        self._layers: dict[LayerKey, Piece] = {}
        self._blocks: dict[int, OutgoingBlock] = {}
        self._carriers: dict[LayerKey, list[OutgoingBlock]] = {}
        self._next_number = 0

    def __contains__(self, key: LayerKey) -> bool:
        """Whether a layer is outstanding."""
        return key in self._layers

    def __iter__(self) -> Iterator[LayerKey]:
        """The layers that are outstanding."""
        return iter([*self._layers])

    def __getitem__(self, key: LayerKey) -> Piece:
        """An outstanding layer."""
        return self._layers[key]

    @property
    def blocks(self) -> Iterable[OutgoingBlock]:
        """The blocks of which something was sent and something is not settled, oldest first."""
        return self._blocks.values()

    def block(self, number: int) -> OutgoingBlock | None:
        """The block with this number modulo 2**16."""
        return self._blocks.get(number)

    def add(self, piece: Piece) -> None:
        """Take a layer."""
        self._layers[piece.sequence, piece.layer] = piece
        self.backlog_bytes += len(piece.payload)

    def carry(self, block: OutgoingBlock) -> None:
        """A block was closed; it carries parts of its layers."""
        for key in block.layers:
            self._carriers.setdefault(key, []).append(block)

    def carriers(self, key: LayerKey) -> list[OutgoingBlock]:
        """The blocks that carry parts of a layer."""
        return self._carriers.get(key, [])

    def take_number(self, block: OutgoingBlock) -> None:
        """Give a block its number, for its first packet is about to leave; nobody asks about it yet."""
        block.number = self._next_number
        self._next_number += 1

    def await_answer(self, block: OutgoingBlock) -> list[Piece]:
        """Keep a numbered block until it is settled.

        Returns:
            Layers that must be sent anew, because their block is so old that its number is needed again.
        """
        number = block.number or 0
        oldest = next(iter(self._blocks.values()), None)
        anew: list[Piece] = []
        if oldest is not None and oldest.number is not None and number - oldest.number >= _NUMBERS_IN_FLIGHT:
            self.finish(oldest)
            for key in oldest.layers:
                self._carriers[key].remove(oldest)
                anew.append(self._layers[key])
        self._blocks[number % BLOCK_NUMBERS] = block
        return anew

    def settle(self, key: LayerKey) -> Piece:
        """A layer is not wanted any more, nor are blocks that carry nothing else."""
        piece = self._layers.pop(key)
        self.backlog_bytes -= len(piece.payload)
        for block in self._carriers.pop(key, ()):
            block.layers.discard(key)
            if not block.layers:
                self.finish(block)
        return piece

    def finish(self, block: OutgoingBlock) -> None:
        """Nothing of a block is wanted any more."""
        if block.done:
            return
        self._statistics.count_settled(block)
        block.done = True
        block.deadline = None
        if block.number is not None and self._blocks.get(block.number % BLOCK_NUMBERS) is block:
            del self._blocks[block.number % BLOCK_NUMBERS]
