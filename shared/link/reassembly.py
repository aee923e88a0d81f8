"""Blocks and layers on their way in."""

from heapq import heappop, heappush

import numpy as np

from shared.errors import CorruptDataError
from shared.link import reed_solomon
from shared.link.frames import Frame

COST_OF_A_PART = 128
"""Bytes that a part of a layer is reckoned to take besides its data, so that many small or empty ones are bounded."""


class IncomingBlock:
    """Symbols of one coded block.

    Args:
        k: source symbols.
        m: repair symbols of the code.
    """

    def __init__(self, k: int, m: int) -> None:
        self.k = k
        self.m = m
        self.bytes = 0
        self.conflicts = 0
        self._symbols: dict[int, bytes] = {}
        self._length: int | None = None
        self._liars: set[int] = set()
        self._enough = k

    def add(self, index: int, symbol: bytes) -> bool:
        """Keep a symbol.

        Returns:
            True if it is new, False if it was there.

        Raises:
            CorruptDataError: if it contradicts what is there. Two versions of one symbol are both dropped: nothing
                tells which of them lies.
        """
        if index in self._liars:
            raise CorruptDataError("a symbol of which there are two versions")
        known = self._symbols.get(index)
        if known is not None:
            if known == symbol:
                return False
            self.bytes -= len(known)
            del self._symbols[index]
            self._liars.add(index)
            self._enough = self.k
            raise CorruptDataError("a symbol of which there are two versions")
        short = index == self.k - 1
        if not short and self._length is None:
            last = self._symbols.get(self.k - 1)
            if last is not None and len(last) > len(symbol):
                raise CorruptDataError("a symbol is shorter than the last of its block")
            self._length = len(symbol)
        elif self._length is not None and (len(symbol) > self._length or (not short and len(symbol) < self._length)):
            raise CorruptDataError("the symbols of a block differ in length")
        if short and self.k == 1:
            self._length = len(symbol)
        self._symbols[index] = symbol
        self.bytes += len(symbol)
        return True

    @property
    def complete(self) -> bool:
        """Whether every source symbol is there as it was sent."""
        return all(index in self._symbols for index in range(self.k))

    @property
    def restorable(self) -> bool:
        """Whether enough symbols are there to restore the others."""
        return len(self._symbols) >= self._enough

    def distrust(self) -> None:
        """What the symbols restore contradicts itself: wait for twice as many too many, so that trying costs little."""
        spare = min(max(2 * (len(self._symbols) - self.k), 2), self.m - len(self._liars))
        self._enough = self.k + max(spare, 0)

    @property
    def needed(self) -> int:
        """Symbols that are wanting to restore the block; at least 1, for a block that is still kept wants something."""
        return max(1, self._enough - len(self._symbols))

    def missing(self) -> bytes:
        """The source symbols that are wanting as a bit set, lowest bit of the lowest byte first."""
        bits = sum(1 << index for index in range(self.k) if index not in self._symbols)
        return bits.to_bytes((self.k + 7) // 8, "little")

    def restore(self) -> tuple[list[bytes], int]:
        """The source symbols that did not arrive as they should have, and how many columns had to be put right.

        Raises:
            CorruptDataError: if the symbols contradict each other.
        """
        length = self._length or 0
        symbols = {
            index: np.frombuffer(symbol.ljust(length, b"\0"), dtype=np.uint8) for index, symbol in self._symbols.items()
        }
        sources, repaired = reed_solomon.restore_and_count(symbols, self.k, self.m)
        found = []
        for index, source in enumerate(sources):
            restored = source.tobytes()
            known = self._symbols.get(index)
            if known is None or known.ljust(length, b"\0") != restored:
                found.append(restored)
        return found, repaired


class IncomingLayer:
    """Parts of one layer.

    Attributes:
        layers: of the picture.
        bytes: what the parts take, `COST_OF_A_PART` for each included.
        blocks: those with a part of it that are whole and remembered.
    """

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self.bytes = 0
        self.blocks: set[int] = set()
        self._parts: dict[int, bytearray] = {}
        self._last = 0
        self._reach = 0
        # Everything below is there without a gap; of the parts beyond, where they begin.
        self._whole = 0
        self._beyond: list[int] = []
        self._end: int | None = None

    def add(self, frame: Frame) -> bytes | None:
        """Keep a part; the layer if it is whole now, else None.

        Raises:
            CorruptDataError: if the part contradicts those that are there.
        """
        stop = frame.offset + len(frame.data)
        if frame.layers != self.layers:
            raise CorruptDataError("parts of one picture disagree on its number of layers")
        if (self._end is not None and (stop > self._end or (frame.final and stop != self._end))) or (
            frame.final and stop < self._reach
        ):
            raise CorruptDataError("parts of one layer disagree on its length")
        if frame.final:
            self._end = stop
        self._reach = max(self._reach, stop)
        self._keep(frame)
        return self._join()

    def _keep(self, frame: Frame) -> None:
        last = self._parts.get(self._last)
        if last is not None and self._last + len(last) == frame.offset:
            # Parts mostly come one after the other; as one they cost little, however small they are.
            last += frame.data
            self.bytes += len(frame.data)
            self._extend(self._last)
            return
        before = self._parts.get(frame.offset)
        if before is None or len(frame.data) > len(before):
            self._parts[frame.offset] = bytearray(frame.data)
            self.bytes += len(frame.data) + COST_OF_A_PART if before is None else len(frame.data) - len(before)
            self._last = frame.offset
            if before is None and frame.offset > self._whole:
                heappush(self._beyond, frame.offset)
            self._extend(frame.offset)

    def _extend(self, offset: int) -> None:
        """The part at ``offset`` has grown."""
        if offset > self._whole:
            return
        self._whole = max(self._whole, offset + len(self._parts[offset]))
        while self._beyond and self._beyond[0] <= self._whole:
            offset = heappop(self._beyond)
            self._whole = max(self._whole, offset + len(self._parts[offset]))

    def _join(self) -> bytes | None:
        if self._end is None or self._whole < self._end:
            return None
        whole = bytearray()
        # A sender that cut a layer anew may overlap its own older cut.
        for offset in sorted(self._parts):
            whole += self._parts[offset][len(whole) - offset :]
        return bytes(whole)
