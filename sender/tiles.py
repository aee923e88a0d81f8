"""A large picture through the sender's networks, tile by tile.

Memory is bounded by the tile: bytes become floats, and the border is continued, only where a tile needs it. Networks of
convolutions give what they give for the whole picture, up to the rounding of floats (`run_exact`). Networks that look
everywhere, such as Stable Diffusion's encoder with its group normalisation and its attention, come close: their tiles
overlap and pass over into each other (`run_blended`).
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from shared.codec.interfaces import Pixels
from shared.codec.tiling import Piece, pieces, tiles
from shared.memory import release_free_memory

TILE = 640
"""Side of a tile in pixels unless another is wanted: a picture of 768x768 still goes in one piece."""
SMALLEST_TILE = 256
"""Smaller ones would be mostly margin."""

Floats = NDArray[np.float32]

Run = Callable[[slice, slice], Floats]
"""Runs a network on rows and columns of the padded picture, in pixels; gives ``1 x C x h x w``."""


class PaddedPicture:
    """A picture that its edge continues to whole blocks.

    Repeating the edge costs fewer bits than a black border, which is a line the decoder would have to draw.

    Attributes:
        height: rows with the border.
        width: columns with the border.

    Args:
        pixels: RGB bytes ``height x width x 3``.
        block: sides become multiples of this.
    """

    def __init__(self, pixels: Pixels, block: int) -> None:
        self._pixels = pixels
        self.height, self.width = (-(-side // block) * block for side in pixels.shape[:2])

    def read(self, rows: slice, columns: slice) -> Floats:
        """Return a part of the padded picture, ``1 x 3 x h x w`` in [-1, 1]."""
        part = self._pixels[rows, columns]
        missing = [span.stop - span.start - side for span, side in zip((rows, columns), part.shape, strict=False)]
        if any(missing):
            part = np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        values = np.ascontiguousarray(part.transpose(2, 0, 1)[None]).astype(np.float32)
        values *= 1 / 127.5
        values -= 1
        return values


def run_exact(run: Run, size: tuple[int, int], *, tile: int, reach: int | None, block: int, step: int) -> Floats:
    """Run a network whose outputs depend on no more than their neighbourhood.

    Args:
        run: the network.
        size: height and width of the padded picture, multiples of ``block``.
        tile: side of a tile in pixels, without its margins; 0 for no tiles.
        reach: pixels around a tile that the network needs; None: all, so it runs once on the whole picture.
        block: tiles and their margins are multiples of this.
        step: pixels that one position of the output spans.

    Returns:
        The network's output for the whole picture, ``1 x C x height/step x width/step``.
    """
    if reach is None or _is_small(size, tile, -(-reach // block) * block):
        return run(slice(0, size[0]), slice(0, size[1]))
    whole: Floats | None = None
    for rows, columns in tiles(*size, tile, reach, block):
        part = run(rows.padded, columns.padded)
        if whole is None:
            whole = np.empty((1, part.shape[1], size[0] // step, size[1] // step), np.float32)
        whole[:, :, _divided(rows.core, step), _divided(columns.core, step)] = part[
            :, :, _divided(rows.crop, step), _divided(columns.crop, step)
        ]
        release_free_memory()
    assert whole is not None
    return whole


def run_blended(run: Run, size: tuple[int, int], *, tile: int, overlap: int, block: int, step: int) -> Floats:
    """Run a network that looks at all of what it is given, on overlapping tiles.

    Across the border between two tiles the weight passes linearly from one to the other, over ``overlap`` on each side.
    Attention's memory grows with the square of its input, so here a tile has its overlap within.

    Args:
        run: the network.
        size: height and width of the padded picture, multiples of ``block``.
        tile: side of a tile in pixels, with its overlap on both sides; 0 for no tiles. A picture of one overlap more
            on each side still goes whole.
        overlap: pixels that a tile looks beyond itself on each side, a multiple of ``block``.
        block: tiles are multiples of this.
        step: pixels that one position of the output spans.

    Returns:
        The blended output, ``1 x C x height/step x width/step``.
    """
    if _is_small(size, tile, overlap):
        return run(slice(0, size[0]), slice(0, size[1]))
    down, across = (pieces(side, tile - 2 * overlap, overlap, block) for side in size)
    row_weights, column_weights = (blend_weights(side, step) for side in (down, across))
    whole: Floats | None = None
    for rows, row_weight in zip(down, row_weights, strict=True):
        for columns, column_weight in zip(across, column_weights, strict=True):
            part = run(rows.padded, columns.padded)
            if whole is None:
                whole = np.zeros((1, part.shape[1], size[0] // step, size[1] // step), np.float32)
            whole[:, :, _divided(rows.padded, step), _divided(columns.padded, step)] += (
                part * row_weight[:, None] * column_weight
            )
            release_free_memory()
    assert whole is not None
    return whole


def blend_weights(side: Sequence[Piece], step: int) -> list[Floats]:
    """Return the weight of every position of every piece's input along one side; they sum to 1 at each position.

    Args:
        side: the pieces of one side, in pixels, with the overlap as their reach.
        step: pixels that one position spans.
    """
    length = side[-1].stop
    total = np.zeros(length // step)
    weights = []
    for piece in side:
        positions = np.arange(piece.low, piece.high, step) + step / 2
        weight = np.ones(len(positions))
        if piece.low > 0:
            weight = np.minimum(weight, (positions - piece.low) / (2 * (piece.start - piece.low)))
        if piece.high < length:
            weight = np.minimum(weight, (piece.high - positions) / (2 * (piece.high - piece.stop)))
        total[_divided(piece.padded, step)] += weight
        weights.append(weight)
    # Pieces shorter than their overlap meet more than one neighbour.
    return [
        (weight / total[_divided(piece.padded, step)]).astype(np.float32)
        for piece, weight in zip(side, weights, strict=True)
    ]


def _is_small(size: tuple[int, int], tile: int, margin: int) -> bool:
    """Whether the whole picture takes no more than one tile with its margins would."""
    return not tile or size[0] * size[1] <= (tile + 2 * margin) ** 2


def _divided(part: slice, step: int) -> slice:
    return slice(part.start // step, part.stop // step)
