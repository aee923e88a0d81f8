"""The integer entropy path with gradients: what quantisation-aware training runs instead of the float networks.

The forward pass computes the very integers of the exported program, carried in floating point as the program carries
them; the backward pass takes every rounding for the identity (Bengio et al. 2013, straight-through estimator) and a
GELU's table for the GELU. Only weights and biases learn; grids stay those of the calibration.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.codec.entropy.integer import Rescale
from shared.codec.entropy.program import LATENT_BITS, SCALE_BITS
from shared.codec.nets.checkerboard import keep_anchors, merge
from shared.codec.nets.entropy_parameters import EntropyParameters
from training.grids import Grids, LayerGrid, whole_weights

UNIT = 1 << LATENT_BITS


@dataclass(frozen=True)
class IntegerTerms:
    """What the integer path makes of a latent; all ``B x M x h x w``, float32.

    Attributes:
        residual: latent minus predicted mean, before rounding; gradients reach the means.
        scales: predicted standard deviations, with gradients; not bounded from below.
        symbols: what is coded: the residual rounded, half a unit up.
        y_hat: the decoded latent, what later contexts see; no gradients.
    """

    residual: Tensor
    scales: Tensor
    symbols: Tensor
    y_hat: Tensor


class FakeQuantised(nn.Module):
    """Entropy parameters on grids.

    Args:
        model: the entropy parameters; trained in place.
        grids: their grids.
    """

    def __init__(self, model: EntropyParameters, grids: Grids) -> None:
        super().__init__()
        self.model, self.grids = model, grids
        tables = {name: grid.gelu_table() for name, grid in grids.layers.items()}
        self._tables = {name: torch.from_numpy(table).float() for name, table in tables.items() if table is not None}

    def hyper(self, z_hat: Tensor) -> Tensor:
        """Hyper parameters ``B x 2M x h x w``, whole numbers, of whole hyper-latents ``B x N x h/4 x w/4``."""
        return self._sequence("hyper_decoder", _apply(self.grids.z_input, z_hat * UNIT))

    def forward(self, y: Tensor, z_hat: Tensor) -> IntegerTerms:
        """Quantise a latent in coding order.

        Args:
            y: latent ``B x M x h x w``, its gain applied.
            z_hat: whole hyper-latent ``B x N x h/4 x w/4``.
        """
        hyper = self.hyper(z_hat)
        fixed = torch.round(y * UNIT)
        results: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        decoded = fixed[:, :0]
        for i, part in enumerate(torch.split(fixed, list(self.model.config.slices), 1)):
            context = [hyper]
            if i:
                context.insert(0, self._sequence(f"channel_context.{i - 1}", _apply(self.grids.y_input, decoded)))
            scales, means = self._sequence(f"anchor_heads.{i}", torch.cat(context, 1)).chunk(2, 1)
            anchors = keep_anchors(_symbols(part, means) * UNIT + means.detach())
            local = self._sequence(f"local_context.{i}", _apply(self.grids.y_input, anchors))
            other = self._sequence(f"nonanchor_heads.{i}", torch.cat((local, *context), 1)).chunk(2, 1)
            scales, means = merge(scales, other[0]), merge(means, other[1])
            symbols = _symbols(part, means)
            y_hat = symbols * UNIT + means.detach()
            decoded = torch.cat((decoded, y_hat), 1)
            results.append(((part - means) / UNIT, scales / (1 << SCALE_BITS), symbols, y_hat / UNIT))
        return IntegerTerms(*(torch.cat(parts, 1) for parts in zip(*results, strict=True)))

    def _sequence(self, name: str, values: Tensor) -> Tensor:
        for child, conv in self.model.get_submodule(name).named_children():
            if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
                place = f"{name}.{child}"
                values = self._layer(conv, place, self.grids.layers[place], values)
        return values

    def _layer(self, conv: nn.Conv2d | nn.ConvTranspose2d, place: str, grid: LayerGrid, values: Tensor) -> Tensor:
        weight, bias, rescaling = whole_weights(conv, grid)
        padding, stride = conv.kernel_size[0] // 2, conv.stride[0]
        # The sums are whole and below 2^24, so float32 holds them exactly whatever the order of summation.
        if isinstance(conv, nn.ConvTranspose2d):
            total = F.conv_transpose2d(values, weight.float(), bias.float(), stride, padding, stride - 1)
        else:
            total = F.conv2d(values, weight.float(), bias.float(), 1, padding)
        out = _apply(rescaling, total)
        if grid.after is None:
            return out
        exact = self._tables[place].to(out.device)[out.detach().long() + 128]
        smooth = F.gelu(out * float(grid.outputs[0])) / grid.after
        return exact + (smooth - smooth.detach())


def _apply(rescaling: Rescale, values: Tensor) -> Tensor:
    """Rescale ``B x C x h x w`` whole numbers as `Rescale` does; the gradient is that of the factor inside the clip."""
    factor = torch.as_tensor(rescaling.multiplier * 2.0 ** -rescaling.shift.astype(float), device=values.device)
    scaled = values.double() * factor[:, None, None]
    smooth = scaled.float()
    with torch.no_grad():
        rounded = torch.floor(scaled + 0.5).float()
    return (rounded + (smooth - smooth.detach())).clamp(rescaling.low, rescaling.high)


def _symbols(fixed: Tensor, means: Tensor) -> Tensor:
    return torch.floor((fixed - means.detach() + UNIT // 2) / UNIT)
