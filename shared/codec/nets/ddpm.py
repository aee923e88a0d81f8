"""Denoising diffusion (Ho et al. 2020) sampled on a spaced grid of timesteps (Nichol and Dhariwal 2021, section 4)."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TRAINING_STEPS = 1000
"""Timesteps of the diffusion that the network was trained on."""
FIRST_BETA, LAST_BETA = 0.00085, 0.0120
"""Ends of Stable Diffusion's noise schedule, linear in the square root of beta."""

NoiseModel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``eps_model(x, t, content)``: noise estimate like x, ``B x C x h x w``, at training timesteps t, ``B``, int64."""


def training_alphas_cumprod() -> NDArray[np.float64]:
    """Share of the signal's variance left at every one of the 1000 training timesteps."""
    betas = np.linspace(FIRST_BETA**0.5, LAST_BETA**0.5, TRAINING_STEPS, dtype=np.float64) ** 2
    return np.cumprod(1 - betas)


class SpacedDdpm:
    """Ancestral sampling in ``num_steps`` steps with the true posterior variance ("fixed small").

    The whole schedule is float64; its numbers meet the samples in their own precision.

    Attributes:
        timesteps: kept training timesteps, ascending from 0 (unless ``trailing``) to ``largest`` (one step: ``largest``
            alone).
        betas: noise variances between kept timesteps, float64 ``num_steps``.
        alphas_cumprod: share of signal variance left at the kept timesteps.
        posterior_variance: variance of the noise added on the way down to the timestep before.

    Args:
        num_steps: 1 to ``largest + 1``.
        largest: timestep that sampling starts from, up to 999. Below 999 the start is a latent noised to that
            timestep and not pure noise (RDEIC, Li et al. 2024, starts from the noised content variable at 299).
        trailing: keep the last timesteps of ``num_steps`` equal parts (Lin et al. 2024, section 3.3) and not the evenly
            spaced ones that the paper's code keeps, whose last step starts at timestep 0, where there is almost nothing
            left to do.

    Raises:
        ValueError: if ``num_steps`` or ``largest`` is out of range.
    """

    def __init__(self, num_steps: int, largest: int = TRAINING_STEPS - 1, *, trailing: bool = False) -> None:
        if not 0 <= largest < TRAINING_STEPS:
            raise ValueError(f"diffusion cannot start at timestep {largest}; give 0 to {TRAINING_STEPS - 1}")
        if not 1 <= num_steps <= largest + 1:
            raise ValueError(f"{num_steps} diffusion steps; give 1 to {largest + 1}")
        if trailing or num_steps == 1:
            self.timesteps = tuple((i + 1) * (largest + 1) // num_steps - 1 for i in range(num_steps))
        else:
            self.timesteps = tuple(round(i * largest / (num_steps - 1)) for i in range(num_steps))
        self.alphas_cumprod = training_alphas_cumprod()[list(self.timesteps)]
        before = np.append(1.0, self.alphas_cumprod[:-1])
        self.betas = 1 - self.alphas_cumprod / before
        self.posterior_variance = self.betas * (1 - before) / (1 - self.alphas_cumprod)
        self._start_weight = self.betas * np.sqrt(before) / (1 - self.alphas_cumprod)
        self._sample_weight = (1 - before) * np.sqrt(1 - self.betas) / (1 - self.alphas_cumprod)

    def add_noise(self, x_0: Tensor, step: int, noise: Tensor) -> Tensor:
        """Diffuse a clean latent to kept step ``step`` (0 to ``num_steps - 1``), all ``B x C x h x w``."""
        share = float(self.alphas_cumprod[step])
        return x_0 * math.sqrt(share) + noise * math.sqrt(1 - share)

    def step(self, x: Tensor, step: int, estimate: Tensor, noise: Tensor) -> Tensor:
        """Go from kept step ``step`` to the one before.

        Args:
            x: noisy latent at ``step``.
            step: index into `timesteps`.
            estimate: the model's estimate of the noise in x.
            noise: standard normal draw like x; not used at step 0, which gives the clean latent.
        """
        share = float(self.alphas_cumprod[step])
        x_0 = x * math.sqrt(1 / share) - estimate * math.sqrt(1 / share - 1)
        mean = x_0 * float(self._start_weight[step]) + x * float(self._sample_weight[step])
        return mean + noise * math.sqrt(self.posterior_variance[step]) if step else mean

    def sample(
        self, eps_model: NoiseModel, content: Tensor, x_T: Tensor, noises: Sequence[Tensor] | Tensor | None = None
    ) -> Tensor:
        """Run the whole chain.

        Args:
            eps_model: noise estimator.
            content: content variable handed to it, ``B x C' x h x w``.
            x_T: latent at the largest timestep, ``B x C x h x w``, standard normal.
            noises: draws like x_T, the first for the largest timestep; the last step needs none. None draws them from
                torch's default generator.

        Returns:
            x_0, ``B x C x h x w``, not clipped.
        """
        x = x_T
        for draw, step in enumerate(reversed(range(len(self.timesteps)))):
            t = torch.full((len(x),), self.timesteps[step], dtype=torch.int64, device=x.device)
            estimate = eps_model(x, t, content)
            # The last step adds no noise, so it needs no draw.
            noise = estimate if step == 0 else torch.randn_like(x) if noises is None else noises[draw]
            x = self.step(x, step, estimate, noise)
        return x
