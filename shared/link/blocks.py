"""Blocks on their way out: layers framed, cut into symbols, with repair symbols made when they are wanted."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from shared.link import reed_solomon
from shared.link.frames import Cursor, Ending, Piece, fill_symbol
from shared.link.galois import Symbols

MOST_SOURCE_SYMBOLS = 64
"""Source symbols of a block. Longer code words protect hardly better and cost time and memory at both ends."""

_SMALLEST_SYMBOL = 24
_LONGEST_FRAME_HEAD = 15

QUESTION = -1
"""In the place of a symbol's index: a packet without a symbol, which only asks what the station has of the block."""

LayerKey = tuple[int, int]
"""Sequence and layer."""


@dataclass
class OutgoingBlock:
    """A block that has been closed.

    Attributes:
        priority: 0 base layers, 1 refinements.
        sources: source symbols; all of one length but the last, which may be shorter.
        m: repair symbols of its code, more than are sent unasked when the station can ask.
        layers: the layers of which it carries parts.
        plan: symbols still to be sent unasked.
        payload_bytes: bytes of its layers in the source symbols, without frames and padding.
        number: given when the first symbol goes out, None before.
        next_repair: first repair symbol, counted from 0, that has never been sent.
        next_source: source symbol whose turn it is when all repair symbols have been sent.
        sent: the symbols that have been sent.
        wire_bytes: bytes of all packets that were sent for it, questions included.
        last_sent: seconds, when any symbol was sent last.
        deadline: seconds, when to ask for an answer; None while symbols are still to go out.
        attempts: questions about it since the station was last heard.
        resting: the station has it, and is storing its layers.
        queued: symbols of it that wait in the repair queue.
        done: nothing of it is wanted any more.
    """

    priority: int
    sources: list[bytes]
    m: int
    layers: set[LayerKey]
    plan: deque[int]
    payload_bytes: int
    number: int | None = None
    next_repair: int = 0
    next_source: int = 0
    sent: set[int] = field(default_factory=set)
    wire_bytes: int = 0
    last_sent: float = 0.0
    deadline: float | None = None
    attempts: int = 0
    resting: bool = False
    queued: int = 0
    done: bool = False

    @property
    def k(self) -> int:
        """Source symbols."""
        return len(self.sources)

    @property
    def coded(self) -> bool:
        """Whether it is a block of a code; else it is one packet."""
        return self.m > 0

    @property
    def payload_bytes_sent(self) -> int:
        """Bytes of its layers that have been sent at least once, to within one symbol's."""
        return self.payload_bytes * sum(0 <= index < self.k for index in self.sent) // self.k

    def symbol(self, index: int) -> bytes:
        """Symbol ``index`` of the code word, 0 to k+m-1; nothing for `QUESTION`."""
        if index == QUESTION:
            return b""
        if index < self.k:
            return self.sources[index]
        repair = reed_solomon.encode(self._columns(), self.m, first=index - self.k, count=1)
        return bytes(repair[0])

    def symbol_bytes(self, index: int) -> int:
        """Length of a symbol."""
        if index == QUESTION:
            return 0
        return len(self.sources[index]) if index < self.k else len(self.sources[0])

    def plan_repairs(self, number: int) -> None:
        """Send so many repair symbols unasked, as far as the code has them; before any of them was sent."""
        number = min(number, self.m)
        sources = [index for index in self.plan if index < self.k]
        self.plan = deque([*sources, *range(self.k, self.k + number)])
        self.next_repair = number

    def next_symbol_to_repair(self) -> int:
        """A repair symbol never sent, or else the source symbols in turn."""
        if self.next_repair < self.m:
            self.next_repair += 1
            return self.k + self.next_repair - 1
        index = self.next_source % self.k
        self.next_source += 1
        return index

    def _columns(self) -> Symbols:
        length = len(self.sources[0])
        columns = np.zeros((self.k, length), dtype=np.uint8)
        for row, source in zip(columns, self.sources, strict=True):
            row[: len(source)] = np.frombuffer(source, dtype=np.uint8)
        return columns


@dataclass(frozen=True)
class BlockShape:
    """What blocks are cut for.

    Attributes:
        largest: bytes of the largest symbol.
        packet_cost: bytes of a packet besides its symbol, against which smaller symbols must pay.
        repairs: from the number of source symbols to that of the repair symbols sent unasked.
        repeats: how often everything is sent.
        may_be_asked: make a code with room for repair symbols that only go out on request.
    """

    largest: int
    packet_cost: int
    repairs: Callable[[int], int]
    repeats: int
    may_be_asked: bool


def close_coded_block(pieces: Sequence[Piece], priority: int, shape: BlockShape) -> tuple[OutgoingBlock, Cursor]:
    """Make one coded block of as many pieces as it takes.

    Args:
        pieces: what waits, in order; at least one.
        priority: priority class of the block.
        shape: what it is cut for.

    Returns:
        The block and the cursor to what it could not take.
    """
    sources, cursor = _cut(pieces, shape)
    k = len(sources)
    planned = min(shape.repairs(k), reed_solomon.LONGEST_CODE_WORD - k)
    m = min(planned + max(k, 4) if shape.may_be_asked else planned, reed_solomon.LONGEST_CODE_WORD - k)
    plan = deque([*range(k + planned)] * shape.repeats)
    payload = _bytes_before(pieces, cursor)
    block = OutgoingBlock(priority, sources, m, _keys(pieces, cursor), plan, payload, next_repair=planned)
    return block, cursor


def close_uncoded_block(
    pieces: Sequence[Piece], priority: int, *, room: int, repeats: int
) -> tuple[OutgoingBlock, Cursor]:
    """Make one packet's symbol, of at most ``room`` bytes, of as many pieces as it takes."""
    symbol, cursor = fill_symbol(pieces, Cursor(), room, Ending.CUT)
    plan, payload = deque([0] * repeats), _bytes_before(pieces, cursor)
    return OutgoingBlock(priority, [symbol], 0, _keys(pieces, cursor), plan, payload), cursor


def remaining(pieces: Sequence[Piece], cursor: Cursor) -> list[Piece]:
    """What lies behind a cursor, as pieces."""
    if cursor.item >= len(pieces):
        return []
    piece = pieces[cursor.item]
    start = piece.start if cursor.offset is None else cursor.offset
    first = Piece(piece.sequence, piece.layer, piece.layers, piece.payload, start)
    return [first, *pieces[cursor.item + 1 :]]


def _keys(pieces: Sequence[Piece], cursor: Cursor) -> set[LayerKey]:
    whole = pieces[: cursor.item if cursor.offset is None else cursor.item + 1]
    return {(piece.sequence, piece.layer) for piece in whole}


def _bytes_before(pieces: Sequence[Piece], cursor: Cursor) -> int:
    return _bytes_of(pieces) - _bytes_of(remaining(pieces, cursor))


def _bytes_of(pieces: Sequence[Piece]) -> int:
    return sum(len(piece.payload) - piece.start for piece in pieces)


def _cut(pieces: Sequence[Piece], shape: BlockShape) -> tuple[list[bytes], Cursor]:
    """Source symbols, in the number that costs the fewest bytes on the wire with repair symbols and headers.

    A short block in one symbol would pay a whole copy for any parity at all; several smaller symbols pay the parity
    asked for.
    """
    sources, cursor = _lay_out(pieces, shape.largest)
    if cursor.item < len(pieces) or len(sources) >= MOST_SOURCE_SYMBOLS or not shape.repairs(len(sources)):
        return sources, cursor
    best, fewest = sources, math.inf
    for k in range(len(sources), min(len(sources) + 6, MOST_SOURCE_SYMBOLS) + 1):
        candidate = _in_symbols(pieces, k, shape.largest)
        if candidate is None:
            continue
        cost = (k + shape.repairs(k)) * (len(candidate[0]) + shape.packet_cost)
        cost -= len(candidate[0]) - len(candidate[-1])
        if cost < fewest:
            best, fewest = candidate, cost
    return best, cursor


def _in_symbols(pieces: Sequence[Piece], k: int, largest: int) -> list[bytes] | None:
    """All pieces in exactly k symbols, as short as can be; None if that cannot be."""
    payload = _bytes_of(pieces)
    # The symbols hold the payload and frames, of which there is one for each piece and one for each border.
    low = max(_SMALLEST_SYMBOL, -(-payload // k))
    high = min(low + -(-_LONGEST_FRAME_HEAD * (len(pieces) + k) // k), largest)
    found = None
    while low <= high:
        size = (low + high) // 2
        sources, cursor = _lay_out(pieces, size, k)
        if cursor.item == len(pieces):
            found = sources
            high = size - 1
        else:
            low = size + 1
    return found if found is not None and len(found) == k else None


def _lay_out(pieces: Sequence[Piece], size: int, most: int = MOST_SOURCE_SYMBOLS) -> tuple[list[bytes], Cursor]:
    """At most ``most`` symbols of ``size`` bytes, the last as short as its frames allow."""
    sources: list[bytes] = []
    cursor = Cursor()
    while cursor.item < len(pieces) and len(sources) < most:
        symbol, after = fill_symbol(pieces, cursor, size, Ending.FULL)
        last = len(sources) == most - 1
        if last or after.item == len(pieces):
            short, after_short = fill_symbol(pieces, cursor, size, Ending.PADDED)
            if last or after_short.item == len(pieces):
                sources.append(short)
                cursor = after_short
                continue
        sources.append(symbol.ljust(size, b"\0"))
        cursor = after
    return sources, cursor
