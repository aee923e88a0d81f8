"""Calibration: how large the activations of the entropy path become, measured on latents of photographs."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.codec.nets.entropy_parameters import EntropyParameters

Vector = NDArray[np.float64]
PERCENTILE = 0.9999
"""Share of activations that the 8-bit grid must reach; the rare rest is clipped."""
GELU_FLOOR = 3.0
"""Inputs below minus this need no grid of their own: GELU is zero there to within a thousandth."""
KEPT_BEFORE_GELU = 0.6
"""Share of the range before a GELU that its grid reaches. The largest activations belong to the highest rates; clipping
them costs less there than coarse steps cost at the lowest rates, where scales and means are small."""
SMALLEST_SHARE = 1 / 64
"""No channel gets a grid finer than this share of the widest one's: a channel quiet here may be loud elsewhere."""


class Ranges:
    """Largest activations seen at named places during calibration."""

    def __init__(self) -> None:
        self._low: dict[str, float] = {}
        self._high: dict[str, float] = {}
        self._channels: dict[str, Vector] = {}

    def see(self, name: str, values: Tensor) -> None:
        """Take one calibration tensor ``B x C x h x w`` into account."""
        flat = values.detach().float().flatten()
        if flat.numel() > 200_000:
            flat = flat[torch.randint(flat.numel(), (200_000,))]
        low, high = torch.quantile(flat, flat.new_tensor([1 - PERCENTILE, PERCENTILE])).tolist()
        self._low[name] = min(self._low.get(name, 0.0), low)
        self._high[name] = max(self._high.get(name, 0.0), high)
        largest = values.detach().abs().amax((0, 2, 3)).double().cpu().numpy()
        self._channels[name] = np.maximum(self._channels.get(name, largest), largest)

    def symmetric(self, name: str) -> float:
        """Largest magnitude at this place."""
        return max(-self._low[name], self._high[name], 1e-3)

    def channels(self, name: str) -> Vector:
        """Largest magnitude of every channel at this place, none far smaller than the others'."""
        whole = self.symmetric(name)
        return np.clip(self._channels[name], whole * SMALLEST_SHARE, whole)

    def before_gelu(self, name: str, kept: float = KEPT_BEFORE_GELU) -> float:
        """Range that the grid before a GELU reaches, ``kept`` of what was seen."""
        return kept * max(min(-self._low[name], GELU_FLOOR), self._high[name], 1e-3)


@torch.no_grad()
def calibrate(model: EntropyParameters, latents: Iterable[tuple[Tensor, Tensor]]) -> Ranges:
    """Run the float network over ``(y, z_hat)`` pairs and record the ranges of all activations.

    Args:
        model: the entropy parameters.
        latents: ``y``, ``B x M x h x w`` with its gain applied, and the rounded hyper-latent ``B x N x h/4 x w/4``.
    """
    ranges = Ranges()
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            handles.append(module.register_forward_hook(lambda m, i, out, name=name: ranges.see(name, out)))
    for y, z_hat in latents:
        ranges.see("z", z_hat)
        y_hat, _, _ = model.rate_terms(y, model.hyper(z_hat))
        ranges.see("y", y_hat)
    for handle in handles:
        handle.remove()
    return ranges
