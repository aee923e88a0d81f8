"""The two-step checkerboard of the spatial context (He et al., CVPR 2021): anchors first, then the rest.

Anchors are the positions whose row and column sum is odd::

    . A . A      row 0: columns 1, 3, ...
    A . A .      row 1: columns 0, 2, ...
"""

import torch
from torch import Tensor


def anchor_mask(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return a boolean ``height x width`` map, true at the anchors."""
    rows = torch.arange(height, device=device)[:, None]
    columns = torch.arange(width, device=device)[None, :]
    return (rows + columns) % 2 == 1


def keep_anchors(values: Tensor) -> Tensor:
    """Return ``... x H x W`` values with zeros everywhere but at the anchors."""
    return values * anchor_mask(values.shape[-2], values.shape[-1], values.device)


def merge(anchors: Tensor, nonanchors: Tensor) -> Tensor:
    """Take the anchors of one ``... x H x W`` map and the other positions of a second one."""
    return torch.where(anchor_mask(anchors.shape[-2], anchors.shape[-1], anchors.device), anchors, nonanchors)


def _split_pairs(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    height, width = values.shape[-2:]
    if width % 2:
        raise ValueError(f"width {width} is odd; both halves of a checkerboard fill every row only at even widths")
    pairs = values.reshape(*values.shape[:-1], width // 2, 2)
    odd_row = (torch.arange(height, device=values.device) % 2 == 1)[:, None]
    return pairs[..., 0], pairs[..., 1], odd_row


def squeeze(values: Tensor) -> tuple[Tensor, Tensor]:
    """Split a map into its two halves, each packed to half the width.

    Args:
        values: ``... x H x W``, W even.

    Returns:
        ``(anchors, nonanchors)``, each ``... x H x W/2`` with the order of columns kept; flattened, they are
        in coding order.

    Raises:
        ValueError: if W is odd.
    """
    left, right, odd_row = _split_pairs(values)
    return torch.where(odd_row, left, right), torch.where(odd_row, right, left)


def unsqueeze(anchors: Tensor, nonanchors: Tensor) -> Tensor:
    """Put two packed halves ``... x H x W/2`` back into one map ``... x H x W``; the inverse of `squeeze`."""
    odd_row = (torch.arange(anchors.shape[-2], device=anchors.device) % 2 == 1)[:, None]
    left = torch.where(odd_row, anchors, nonanchors)
    right = torch.where(odd_row, nonanchors, anchors)
    return torch.stack((left, right), -1).flatten(-2)
