"""Large pictures in tiles: where the tiles lie, and networks of convolutions run tile by tile to the same result.

A convolution sees a bounded neighbourhood. A tile that is run with a rim of that width around it (the halo) has in its
middle what the whole picture would have there, so cutting costs arithmetic and no seam. Networks that normalise over
the picture or attend to all of it have no such rim; for those see ``receiver.blending``.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from shared.errors import UsageError

Span = tuple[int, int]
"""First position of a tile along one side, and the first after it."""
Region = tuple[slice, slice]
"""Rows and columns of a picture."""


def tile_spans(length: int, tile: int, overlap: int, align: int = 1) -> list[Span]:
    """Cover a side with tiles of one size, as few as the overlap allows, evenly spread.

    All tiles have the same size, so that a compiled or captured network sees one shape; the last ends with the side.

    Args:
        length: positions of the side, a multiple of ``align``.
        tile: positions of a tile, a multiple of ``align``. A side no longer than this is one span of its own length.
        overlap: positions that neighbours share at least, 0 to ``tile - align``.
        align: every tile starts at a multiple of this (a network that halves the size thrice wants 8).

    Returns:
        ``(start, stop)`` of every tile in rising order.

    Raises:
        UsageError: if tile and overlap contradict each other or the alignment.
        ValueError: if the length is not a multiple of ``align``.
    """
    if length < 1 or align < 1 or length % align:
        raise ValueError(f"a side of {length} positions cannot be cut at multiples of {align}")
    if tile < align or tile % align:
        raise UsageError(f"tile of {tile} positions: give a positive multiple of {align}")
    units, tile_units, overlap_units = length // align, tile // align, -(-overlap // align)
    if overlap < 0 or overlap_units >= tile_units:
        raise UsageError(f"overlap of {overlap} positions with tiles of {tile}: give 0 to {tile - align}")
    if length <= tile:
        return [(0, length)]
    steps = -(-(units - tile_units) // (tile_units - overlap_units))
    starts = [i * (units - tile_units) // steps * align for i in range(steps + 1)]
    return [(start, start + tile) for start in starts]


def exact_tiles(
    network: Callable[..., Tensor], inputs: Sequence[Tensor], *, scale_out: int, tile: int, halo: int
) -> Iterator[tuple[Region, Tensor]]:
    """Run a network of convolutions tile by tile.

    Each window is ``tile + 2 * halo`` positions a side, moved inwards at the picture's border, where the network pads
    as it would for the whole picture. Windows are equal, and copied, so that a compiled network sees one layout.

    Args:
        network: called with a window of every input; its output is ``scale_out`` times as fine as the coarsest input.
        inputs: maps ``B x C x h x w`` of one picture area; each side a multiple of the coarsest map's.
        scale_out: output positions per position of the coarsest input.
        tile: side of the part that a window is kept for, in positions of the coarsest input.
        halo: how far the output sees, in positions of the coarsest input, rounded up (``receiver.halos``).

    Yields:
        Rows and columns of the output, and its values there, ``B x C' x rows x columns``. They cover it once.

    Raises:
        UsageError: if the tile is not positive.
    """
    if tile < 1:
        raise UsageError(f"tile of {tile} positions: give at least 1")
    height, width = min((tuple(x.shape[-2:]) for x in inputs), default=(0, 0))
    scales = [x.shape[-1] // width for x in inputs]
    if any(x.shape[-2:] != (scale * height, scale * width) for x, scale in zip(inputs, scales, strict=True)):
        raise ValueError(f"inputs of sizes {[tuple(x.shape[-2:]) for x in inputs]} do not show one picture area")
    window = tile + 2 * halo
    all_rows, all_columns = (tile_spans(length, window, 2 * halo) for length in (height, width))
    for rows, kept_rows in zip(all_rows, _kept(all_rows), strict=True):
        for columns, kept_columns in zip(all_columns, _kept(all_columns), strict=True):
            windows = (
                cut(x, _scaled(rows, scale), _scaled(columns, scale)) for x, scale in zip(inputs, scales, strict=True)
            )
            output = network(*windows)
            inside = tuple(
                slice((kept[0] - span[0]) * scale_out, (kept[1] - span[0]) * scale_out)
                for kept, span in ((kept_rows, rows), (kept_columns, columns))
            )
            region = slice(*_scaled(kept_rows, scale_out)), slice(*_scaled(kept_columns, scale_out))
            yield region, output[..., inside[0], inside[1]]


def map_tiles(
    network: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    *,
    scale_out: int,
    tile: int,
    halo: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Run a network of convolutions tile by tile and assemble its output: the untiled one up to float rounding.

    Memory beside inputs and output is that of one window. Arguments are those of `exact_tiles`, and:

    Args:
        network: see there.
        inputs: see there.
        scale_out: see there.
        tile: see there.
        halo: see there.
        device: where the output is assembled; None for where the network leaves it.
        dtype: type that it is assembled in; None for the network's own.

    Returns:
        ``B x C' x h * scale_out x w * scale_out`` of the coarsest input's h and w.
    """
    height, width = (min(x.shape[side] for x in inputs) * scale_out for side in (-2, -1))
    whole: Tensor | None = None
    for (rows, columns), part in exact_tiles(network, inputs, scale_out=scale_out, tile=tile, halo=halo):
        if whole is None:
            whole = part.new_empty((*part.shape[:2], height, width), device=device, dtype=dtype)
        whole[..., rows, columns] = part
    assert whole is not None, "a picture has at least one tile"
    return whole


def cut(x: Tensor, rows: Span, columns: Span) -> Tensor:
    """Copy rows and columns of ``B x C x h x w``: a view would carry the whole picture's strides into the network."""
    return x[..., slice(*rows), slice(*columns)].contiguous()


def _kept(spans: Sequence[Span]) -> list[Span]:
    """What each tile is kept for: to the middle of what it shares with its neighbours."""
    cuts = [(before[1] + after[0]) // 2 for before, after in pairwise(spans)]
    return list(zip([spans[0][0], *cuts], [*cuts, spans[-1][1]], strict=True))


def _scaled(span: Span, scale: int) -> Span:
    return span[0] * scale, span[1] * scale
