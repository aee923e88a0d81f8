"""Overlapping tiles joined by smooth weights, for networks whose result depends on the whole picture.

The diffusion UNet and Stable Diffusion's VAE normalise over their input and attend to all of it, and were trained at
one size: a large latent is too large for the memory and unlike what they know. Its tiles overlap, and where they do,
the result is their weighted mean. For the noise estimate that is MultiDiffusion (Bar-Tal et al., ICML 2023): the mean
is taken at every step of the sampler, so tiles agree on what they share before they can drift apart.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from receiver.tiles import Span, cut, tile_spans
from shared.codec.nets.ddpm import NoiseModel

ALIGN = 8
"""Tiles start at multiples of this many latent positions: the UNets halve the size up to three times."""


def blend_weights(spans: Sequence[Span]) -> list[Tensor]:
    """Weigh tiles along one side: raised cosines over each tile, scaled so that all weights of a position sum to 1.

    Args:
        spans: tiles that cover a side from its start, see ``receiver.tiles.tile_spans``.

    Returns:
        For each tile its weights, float32 ``stop - start``, strictly positive.
    """
    raw = [_raised_cosine(stop - start) for start, stop in spans]
    total = torch.zeros(spans[-1][1], dtype=torch.float64)
    for (start, stop), weights in zip(spans, raw, strict=True):
        total[start:stop] += weights
    return [(w / total[start:stop]).float() for (start, stop), w in zip(spans, raw, strict=True)]


def _raised_cosine(length: int) -> Tensor:
    return torch.sin((torch.arange(length, dtype=torch.float64) + 0.5) * (math.pi / length)) ** 2


def blended(model: NoiseModel, tile: int, overlap: int, batch: int = 1, align: int = ALIGN) -> NoiseModel:
    """Let a noise model estimate latents of any size in overlapping tiles.

    A latent whose sides are no longer than the tile goes straight through. A larger one is seen as tiles of one shape,
    and every call of the model has the same number of them: the last is filled up with tiles seen already, so that a
    compiled or captured model meets one shape only.

    Args:
        model: noise model of any latent up to the tile.
        tile: side of a tile in latent positions, a multiple of ``align``.
        overlap: positions that neighbouring tiles share at least.
        batch: tiles in one call of the model at most, the tiles of all pictures counted.
        align: multiples that tiles start at; the sides of latents must be multiples too.

    Returns:
        A noise model that estimates in the type of the latent.

    Raises:
        UsageError: if tile, overlap and alignment contradict one another.
    """
    # Refused here, and not at the first large picture.
    tile_spans(2 * tile, tile, overlap, align)

    def estimate(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
        if max(x.shape[-2:]) <= tile:
            return model(x, t, content)
        all_rows, all_columns = (tile_spans(length, tile, overlap, align) for length in x.shape[-2:])
        row_weights, column_weights = ([w.to(x) for w in blend_weights(spans)] for spans in (all_rows, all_columns))
        places = [
            (picture, row, column)
            for row in range(len(all_rows))
            for column in range(len(all_columns))
            for picture in range(len(x))
        ]
        mean = torch.zeros_like(x)
        for chosen in _batches(places, batch):

            def cuts(of: Tensor, chosen: list[tuple[int, int, int]] = chosen) -> Tensor:
                return torch.cat([cut(of[p : p + 1], all_rows[r], all_columns[c]) for p, r, c in chosen])

            estimates = model(cuts(x), t[[p for p, _, _ in chosen]], cuts(content)).to(x.dtype)
            # What only fills the call up comes last, and comes again: it is dropped with the places it repeats.
            for (p, r, c), values in zip(dict.fromkeys(chosen), estimates, strict=False):
                weights = row_weights[r][:, None] * column_weights[c]
                mean[p, :, slice(*all_rows[r]), slice(*all_columns[c])] += weights * values
        return mean

    return estimate


def _batches(places: list[tuple[int, int, int]], batch: int) -> Iterator[list[tuple[int, int, int]]]:
    """Cut into lists of one length; the last repeats its last place as often as it takes."""
    size = max(1, min(batch, len(places)))
    for first in range(0, len(places), size):
        chosen = places[first : first + size]
        yield chosen + chosen[-1:] * (size - len(chosen))
