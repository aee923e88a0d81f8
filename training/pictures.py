"""Small things done to pictures in training: one error figure, one random window, previews for a grid."""

from collections.abc import Sequence
from types import EllipsisType

import torch
from torch import Tensor
from torch.nn import functional as F


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two pictures in [-1, 1], after rounding ``a`` to 8 bits."""
    a = ((a.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    return float(10 * torch.log10(4 / F.mse_loss(a.float(), b.float())))


def same_window(a: Tensor, b: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Cut the same random square window of at most ``side`` pixels out of two batches of pictures."""
    window = random_window(a, side)
    return a[window], b[window]


def random_window(pictures: Tensor, side: int) -> tuple[EllipsisType, slice, slice]:
    """Index of a random square window of at most ``side`` pixels in pictures ``B x 3 x H x W``."""
    side = min(side, *pictures.shape[2:])
    top, left = (int(torch.randint(length - side + 1, ())) for length in pictures.shape[2:])
    return ..., slice(top, top + side), slice(left, left + side)


def pairs(rows: Sequence[tuple[Tensor, ...]]) -> Tensor | None:
    """Stack pictures that belong together side by side for a grid.

    Args:
        rows: groups of pictures ``1 x 3 x h x w``; sizes may differ between groups.

    Returns:
        ``B x 3 x h x (n w)``, cut to the smallest group's size; None for no rows.
    """
    if not rows:
        return None
    height, width = (min(group[0].shape[axis] for group in rows) for axis in (2, 3))
    return torch.cat([torch.cat([p[..., :height, :width].float() for p in group], 3) for group in rows])
