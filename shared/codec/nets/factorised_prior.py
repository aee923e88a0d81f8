"""The fully factorised density of the hyper-latent (Balle et al. 2018, appendix 6.1).

Every channel has its own monotone function from the real line to (0, 1), a small stack of positive matrices with
gated non-linearities, which serves as its cumulative distribution. Parameters have CompressAI's names and shapes.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.codec.nets.likelihood import LIKELIHOOD_BOUND, add_uniform_noise, lower_bound, round_straight_through

TAIL_MASS = 1e-9
"""Probability outside the outer quantiles."""


class FactorisedPrior(nn.Module):
    """Learned independent densities, one for each of C channels.

    Parameters: ``matrices.i`` (``C x f_i+1 x f_i``), ``biases.i`` (``C x f_i+1 x 1``), ``factors.i`` (same, none
    for the last), and ``quantiles`` (``C x 1 x 3``: lower tail, median, upper tail), which only the
    auxiliary loss trains.

    Args:
        channels: C, channels of the hyper-latent.
        filters: hidden widths f of the per-channel stack.
        initial_scale: the density starts about this wide.
    """

    def __init__(self, channels: int, filters: tuple[int, ...] = (3, 3, 3, 3), initial_scale: float = 10.0) -> None:
        super().__init__()
        self.channels = channels
        widths = (1, *filters, 1)
        layers = len(widths) - 1
        scale = initial_scale ** (1 / layers)
        self.matrices = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.factors = nn.ParameterList()
        for i, (width_in, width_out) in enumerate(pairwise(widths)):
            # The inverse of the softplus that keeps the matrices positive.
            start = math.log(math.expm1(1 / scale / width_out))
            self.matrices.append(nn.Parameter(torch.full((channels, width_out, width_in), start)))
            self.biases.append(nn.Parameter(torch.empty(channels, width_out, 1).uniform_(-0.5, 0.5)))
            if i < layers - 1:
                self.factors.append(nn.Parameter(torch.zeros(channels, width_out, 1)))
        self.quantiles = nn.Parameter(torch.tensor([-initial_scale, 0.0, initial_scale]).repeat(channels, 1, 1))

    @property
    def medians(self) -> Tensor:
        """Centre of every channel's symbols, ``C x 1 x 1`` to broadcast over ``B x C x H x W``; no gradient."""
        return self.quantiles[:, 0, 1].detach()[:, None, None]

    def _logits(self, values: Tensor, frozen: bool = False) -> Tensor:
        """Logits of the cumulative distribution at ``C x 1 x K`` values, in their dtype."""
        parameters = [[p.detach() if frozen else p for p in ps] for ps in (self.matrices, self.biases, self.factors)]
        matrices, biases, factors = ([p.to(values.dtype) for p in ps] for ps in parameters)
        for i, (matrix, bias) in enumerate(zip(matrices, biases, strict=True)):
            values = functional.softplus(matrix) @ values + bias
            if i < len(factors):
                values = values + torch.tanh(factors[i]) * torch.tanh(values)
        return values

    def cdf(self, values: Tensor) -> Tensor:
        """Cumulative distribution at ``C x K`` points of every channel, float64, for making coding tables."""
        with torch.no_grad():
            return torch.sigmoid(self._logits(values.double()[:, None]))[:, 0]

    def likelihood(self, values: Tensor) -> Tensor:
        """Probability of the unit bin around every value.

        Args:
            values: ``B x C x H x W``, rounded or with uniform noise added.

        Returns:
            Likelihoods in [1e-9, 1], float32, same shape.
        """
        with torch.autocast(values.device.type, enabled=False):
            columns = values.float().transpose(0, 1)
            flat = columns.flatten(1)[:, None]
            lower, upper = self._logits(flat - 0.5), self._logits(flat + 0.5)
            likelihood = torch.sigmoid(upper) - torch.sigmoid(lower)
            return lower_bound(likelihood.reshape(columns.shape).transpose(0, 1), LIKELIHOOD_BOUND)

    def symbols(self, values: Tensor) -> Tensor:
        """Integer symbols ``round(values - median)`` of ``B x C x H x W`` values, int32."""
        return torch.round(values - self.medians).to(torch.int32)

    def reconstruct(self, symbols: Tensor) -> Tensor:
        """Values ``symbol + median`` of ``B x C x H x W`` symbols."""
        return symbols + self.medians

    def quantise(self, values: Tensor) -> Tensor:
        """Round ``B x C x H x W`` values to their symbols' values; the gradient passes straight through."""
        return round_straight_through(values - self.medians) + self.medians

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(quantised values, likelihoods)``; the likelihoods are those of noisy values while training."""
        quantised = self.quantise(values)
        return quantised, self.likelihood(add_uniform_noise(values) if self.training else quantised)

    def auxiliary_loss(self) -> Tensor:
        """Distance of the quantiles from where the density has its tails and median; its gradient is theirs alone."""
        target = math.log(2 / TAIL_MASS - 1)
        with torch.autocast(self.quantiles.device.type, enabled=False):
            logits = self._logits(self.quantiles.float(), frozen=True)
            return (logits - logits.new_tensor([-target, 0.0, target])).abs().sum()
