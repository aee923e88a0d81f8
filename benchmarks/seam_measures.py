"""What a seam is in numbers: gradients across the borders of tiles against gradients elsewhere."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from receiver.blending import ALIGN
from receiver.painting import LATENT_BLOCK
from receiver.tiles import tile_spans
from shared.codec.interfaces import Pixels
from shared.codec.nets.pocket import PIXEL_BLOCK

GRID = 64
"""All borders lie on multiples of this many pixels, so they are compared with other such rows and columns."""


def seam_ratio(
    pixels: NDArray[np.generic], border_rows: Sequence[int], border_columns: Sequence[int], period: int = 1
) -> float:
    """Compare the gradients across tile borders with those elsewhere.

    Args:
        pixels: picture or difference of pictures, ``height x width x channels``, in levels.
        border_rows: rows that a tile begins with (or the rows after its last); its gradient is that to the row above.
        border_columns: the same for columns.
        period: only places a multiple of this many pixels away from a border stand for "elsewhere": upsampling
            networks have a grid of their own, on which all borders lie, and which is no seam.

    Returns:
        Mean absolute gradient across the borders, divided by the mean of those of the same direction elsewhere; both
        directions weighted by their number of border pixels. At 1 the borders are like any other place. NaN without
        borders, or if all else is flat.
    """
    ratios, counts = [], []
    for axis, borders in ((0, border_rows), (1, border_columns)):
        if not borders:
            continue
        # Row by row, so that a large picture needs no second copy in a wider type.
        lines = np.moveaxis(pixels, axis, 0)
        steps = np.array(
            [np.abs(after.astype(np.float32) - before).mean() for before, after in itertools.pairwise(lines)]
        )
        inside = np.zeros(len(steps), bool)
        inside[np.asarray(borders) - 1] = True
        alike = np.isin((np.arange(len(steps)) + 1) % period, np.asarray(borders) % period)
        elsewhere = steps[alike & ~inside].mean() if (alike & ~inside).any() else 0.0
        ratios.append(steps[inside].mean() / elsewhere if elsewhere > 0 else np.nan)
        counts.append(int(inside.sum()) * lines.shape[1])
    return float(np.average(ratios, weights=counts)) if ratios else float("nan")


def tile_borders(length: int, tile: int, overlap: int) -> list[int]:
    """Pixel rows (or columns) of a side of ``length`` pixels where a tile of the latent begins or ends."""
    padded = -(-length // PIXEL_BLOCK) * PIXEL_BLOCK // LATENT_BLOCK
    spans = tile_spans(padded, tile, overlap, ALIGN)
    edges = {LATENT_BLOCK * edge for span in spans for edge in span}
    return sorted(edge for edge in edges if 0 < edge < length)


def compare(whole: Pixels, tiled: Pixels, rows: Sequence[int], columns: Sequence[int]) -> list[str]:
    """Cells of the table: seams, difference, likeness."""
    difference = tiled.astype(np.int16) - whole
    squared = float(np.mean(np.square(difference, dtype=np.float32)))
    likeness = 10 * np.log10(255**2 / squared) if squared else float("inf")
    return [
        f"{seam_ratio(whole, rows, columns, GRID):.3f}",
        f"{seam_ratio(tiled, rows, columns, GRID):.3f}",
        f"{seam_ratio(difference, rows, columns, GRID):.2f}",
        f"{np.abs(difference).max()}",
        f"{np.abs(difference).mean():.3f}",
        f"{likeness:.1f} dB",
    ]


def worst_crops(whole: Pixels, tiled: Pixels, rows: Sequence[int], columns: Sequence[int], side: int = 256) -> Pixels:
    """Whole, tiled and eight times their difference, around the border pixel where they differ most."""
    difference = np.abs(whole.astype(np.int16) - tiled)
    spots = [(int(difference[max(0, r - 2) : r + 2].mean((0, 2)).argmax()), r) for r in rows]
    places = [(r, c) for c, r in spots]
    places += [(int(difference[:, max(0, c - 2) : c + 2].mean((1, 2)).argmax()), c) for c in columns]
    row, column = max(places, key=lambda place: difference[place].mean())
    top, left = (
        min(max(0, at - side // 2), max(0, length - side))
        for at, length in zip((row, column), whole.shape[:2], strict=True)
    )
    area = slice(top, top + side), slice(left, left + side)
    amplified = (128 + 8 * (tiled[area].astype(np.int16) - whole[area])).clip(0, 255).astype(np.uint8)
    return np.concatenate((whole[area], tiled[area], amplified), 1)
