"""Cutting a long side into pieces that overlap just enough: what every tiled network on both ends is made of.

A convolutional network's output at one position depends on the input within a fixed reach of it. Compute a tile from
an input that is larger by the reach on every side, crop the result to the tile, and it is the one of the whole map.
Where a tile touches the map's border its input ends there too, so that the network pads as it does for the whole.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple


class Piece(NamedTuple):
    """One piece of a side, in positions of that side.

    Attributes:
        start: first position of the piece itself.
        stop: the position after its last.
        low: first position of the input that it needs.
        high: the position after the last of these.
    """

    start: int
    stop: int
    low: int
    high: int

    @property
    def core(self) -> slice:
        """The piece itself within the whole side."""
        return slice(self.start, self.stop)

    @property
    def padded(self) -> slice:
        """The input that the piece needs within the whole side."""
        return slice(self.low, self.high)

    @property
    def crop(self) -> slice:
        """The piece itself within its input."""
        return slice(self.start - self.low, self.stop - self.low)

    def times(self, step: int) -> "Piece":
        """The same piece on a side that has ``step`` positions for each of this one."""
        return Piece(*(step * position for position in self))


def pieces(length: int, tile: int, reach: int, unit: int = 1) -> list[Piece]:
    """Cut a side into pieces of nearly equal length.

    Args:
        length: positions of the side, a multiple of ``unit``.
        tile: most positions of one piece, at least ``unit``.
        reach: positions of input that a piece needs on each side of it; rounded up to whole units.
        unit: pieces and their inputs start and end at multiples of this.
    """
    units = -(-length // unit)
    count = -(-units // max(1, tile // unit))
    margin = -(-reach // unit) * unit
    bounds = [units * i // count * unit for i in range(count + 1)]
    return [
        Piece(start, stop, max(0, start - margin), min(units * unit, stop + margin)) for start, stop in pairwise(bounds)
    ]


def tiles(height: int, width: int, tile: int, reach: int, unit: int = 1) -> Iterator[tuple[Piece, Piece]]:
    """Yield ``(rows, columns)`` of every tile of a map, row by row; arguments as in `pieces`."""
    across = pieces(width, tile, reach, unit)
    for rows in pieces(height, tile, reach, unit):
        for columns in across:
            yield rows, columns
