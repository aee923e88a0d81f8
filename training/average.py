"""The moving average of the weights, which is what is validated and exported."""

import copy

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average of a module's parameters; buffers are copied.

    Early on the decay is shorter, ``(1 + step) / (10 + step)``, so that the random start is forgotten.

    Attributes:
        module: the averaged copy, in evaluation mode, without gradients.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def follow(self, model: nn.Module, step: int) -> None:
        """Take the weights after optimiser step ``step`` (from 0) into the average."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for kept, new in zip(self.module.parameters(), model.parameters(), strict=True):
            if new.requires_grad:
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)
        for kept_buffer, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            kept_buffer.copy_(buffer)
