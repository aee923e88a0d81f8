"""Figures of a noise estimator that can be compared between checkpoints: fixed pictures, timesteps and noise."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from training.models import diffuse

VALIDATION_STEPS = (50, 200, 400, 600, 800)
"""Timesteps at which the error is reported."""


def noise_errors(latents: Sequence[Tensor], estimate: Callable[[Tensor, Tensor, int], Tensor]) -> list[float]:
    """Mean squared error of the noise estimate at every one of `VALIDATION_STEPS`.

    Args:
        latents: normalised clean latents ``1 x C x h x w``.
        estimate: maps (noisy latent, timesteps ``1``, number of the latent) to the noise estimate.
    """
    generator = torch.Generator().manual_seed(5)
    sums = [0.0] * len(VALIDATION_STEPS)
    for number, latent in enumerate(latents):
        for i, step in enumerate(VALIDATION_STEPS):
            noise = torch.randn(latent.shape, generator=generator).to(latent.device)
            timesteps = torch.tensor([step], device=latent.device)
            guess = estimate(diffuse(latent, timesteps, noise), timesteps, number)
            sums[i] += float(F.mse_loss(guess.float(), noise)) / len(latents)
    return sums
