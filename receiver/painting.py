"""Latent to picture bytes in tiles: at no time is there a whole picture in floating point.

A float picture of 8K takes 400 MB, and the decoder's feature maps before it ten times that. Here each tile becomes
bytes as soon as nothing more is added to it.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from receiver.blending import blend_weights
from receiver.tiles import cut, exact_tiles, tile_spans
from shared.codec.interfaces import Pixels
from shared.errors import PinholeError

LATENT_BLOCK = 8
"""Pixels per latent position, each way."""


class NonFiniteError(PinholeError):
    """A network gave infinities or values that are not numbers, as half precision can."""


def to_levels(picture: Tensor) -> Tensor:
    """Round a picture in [-1, 1] (clipped) to levels 0 to 255, uint8, on its device.

    Raises:
        NonFiniteError: if it has values that are not finite.
    """
    if not torch.isfinite(picture).all():
        raise NonFiniteError("decoded picture has values that are not numbers; decode it in float32 or on the CPU")
    return ((picture.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@torch.no_grad()
def decode_tiles(
    decoder: Callable[[Tensor], Tensor],
    latent: Tensor,
    *,
    tile: int,
    overlap: int,
    height: int,
    width: int,
    halo: int | None = None,
) -> Pixels:
    """Decode a latent of any size to picture bytes.

    Args:
        decoder: latent ``1 x C x h x w`` to picture ``1 x 3 x 8h x 8w`` in [-1, 1].
        latent: ``1 x C x h x w`` of the padded picture.
        tile: side of a tile in latent positions; a latent no larger is decoded in one piece.
        overlap: positions that blended tiles share at least; exact tiles have their halo instead.
        height: rows of the picture in pixels, at most 8h; what lies below is padding and cut off.
        width: columns of the picture in pixels, at most 8w.
        halo: for a decoder of convolutions, how many latent positions it sees (``receiver.halos``): its tiles then have
            that rim, and the result is that of the whole latent. None blends overlapping tiles.

    Returns:
        RGB bytes ``height x width x 3``.

    Raises:
        NonFiniteError: if the decoder's output has values that are not finite.
        UsageError: if tile and overlap contradict each other.
    """
    pixels = np.empty((height, width, 3), np.uint8)
    if max(latent.shape[-2:]) <= tile:
        _write(pixels, 0, 0, decoder(latent)[0])
    elif halo is not None:
        for (rows, columns), part in exact_tiles(decoder, [latent], scale_out=LATENT_BLOCK, tile=tile, halo=halo):
            _write(pixels, rows.start, columns.start, part[0])
    else:
        _decode_blended(decoder, latent, tile, overlap, pixels)
    return pixels


def _decode_blended(
    decoder: Callable[[Tensor], Tensor], latent: Tensor, tile: int, overlap: int, pixels: Pixels
) -> None:
    """Sum weighted tiles in a strip as high as one tile, and write the rows that no later tile adds to."""
    all_rows, all_columns = (tile_spans(length, tile, overlap) for length in latent.shape[-2:])
    row_weights, column_weights = (
        blend_weights([(LATENT_BLOCK * start, LATENT_BLOCK * stop) for start, stop in spans])
        for spans in (all_rows, all_columns)
    )
    # The accumulated strip stays in float32 whatever the decoder computes in.
    shape = (3, LATENT_BLOCK * (all_rows[0][1] - all_rows[0][0]), LATENT_BLOCK * latent.shape[-1])
    strip = torch.zeros(shape, device=latent.device)
    for number, rows in enumerate(all_rows):
        down = row_weights[number].to(strip)[:, None]
        for columns, across in zip(all_columns, column_weights, strict=True):
            part = decoder(cut(latent, rows, columns))[0].to(strip)
            strip[:, :, LATENT_BLOCK * columns[0] : LATENT_BLOCK * columns[1]] += part * down * across.to(strip)
        following = all_rows[number + 1][0] if number + 1 < len(all_rows) else rows[1]
        done = LATENT_BLOCK * (following - rows[0])
        _write(pixels, LATENT_BLOCK * rows[0], 0, strip[:, :done])
        rest = strip.shape[1] - done
        strip[:, :rest] = strip[:, done:].clone()
        strip[:, rest:] = 0


def _write(pixels: Pixels, top: int, left: int, part: Tensor) -> None:
    """Put a part ``3 x rows x columns`` into the picture as bytes, less what hangs over its edges."""
    part = part[:, : max(0, pixels.shape[0] - top), : max(0, pixels.shape[1] - left)]
    rows, columns = part.shape[1:]
    pixels[top : top + rows, left : left + columns] = to_levels(part).permute(1, 2, 0).cpu().numpy()
