"""Post-training quantisation of the entropy parameters to the integer entropy program.

Activation ranges come from calibration photographs. Inputs of the parameter heads are concatenations of maps with
different grids; their scales are folded into the weights, so no common grid is needed.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.codec.entropy.integer import EXACT, MULTIPLIER_LIMIT, WEIGHT_LIMIT, IntegerLayer, Rescale
from shared.codec.entropy.program import LATENT_BITS, SCALE_BITS, EntropyProgram, Layers, SliceProgram
from shared.codec.nets.entropy_parameters import EntropyParameters

Vector = NDArray[np.float64]
PERCENTILE = 0.9999
"""Share of activations that the 8-bit grid must reach; the rare rest is clipped."""
GELU_FLOOR = 3.0
"""Inputs below minus this need no grid of their own: GELU is zero there to within a thousandth."""


class Ranges:
    """Largest activations seen at the input of named places during calibration."""

    def __init__(self) -> None:
        self._low: dict[str, float] = {}
        self._high: dict[str, float] = {}

    def see(self, name: str, values: Tensor) -> None:
        """Take one calibration tensor into account."""
        flat = values.detach().float().flatten()
        if flat.numel() > 200_000:
            flat = flat[torch.randint(flat.numel(), (200_000,))]
        low, high = torch.quantile(flat, torch.tensor([1 - PERCENTILE, PERCENTILE])).tolist()
        self._low[name] = min(self._low.get(name, 0.0), low)
        self._high[name] = max(self._high.get(name, 0.0), high)

    def symmetric(self, name: str) -> float:
        """Largest magnitude at this place."""
        return max(-self._low[name], self._high[name], 1e-3)

    def before_gelu(self, name: str) -> float:
        """Range that the grid before a GELU needs."""
        return max(min(-self._low[name], GELU_FLOOR), self._high[name], 1e-3)


@torch.no_grad()
def calibrate(model: EntropyParameters, latents: Iterable[tuple[Tensor, Tensor]]) -> Ranges:
    """Run the float network over ``(y, z_hat)`` pairs and record the ranges of all activations."""
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


def quantise(model: EntropyParameters, ranges: Ranges) -> EntropyProgram:
    """Turn the float entropy parameters into integer layers.

    Raises:
        PinholeError: if a layer cannot be kept within float32's exact integers.
    """
    z_step, y_step = _latent_step(ranges.symmetric("z")), _latent_step(ranges.symmetric("y"))
    z_channels = model.config.hyper_channels
    hyper, hyper_step = _sequence(model.hyper_decoder, "hyper_decoder", np.full(z_channels, z_step), ranges)
    hyper_steps = np.full(2 * model.config.latent_channels, hyper_step)
    parts = []
    for i, width in enumerate(model.config.slices):
        channel: Layers = ()
        channel_steps = np.zeros(0)
        if i:
            module, name = model.channel_context[i - 1], f"channel_context.{i - 1}"
            channel, step = _sequence(module, name, np.full(model.config.offsets[i], y_step), ranges)
            channel_steps = np.full(2 * width, step)
        local, step = _sequence(model.local_context[i], f"local_context.{i}", np.full(width, y_step), ranges)
        local_steps = np.full(2 * width, step)
        outputs = np.repeat([2.0**-SCALE_BITS, 2.0**-LATENT_BITS], width)
        anchor, _ = _sequence(
            model.anchor_heads[i], f"anchor_heads.{i}", np.concatenate((channel_steps, hyper_steps)), ranges, outputs
        )
        nonanchor, _ = _sequence(
            model.nonanchor_heads[i],
            f"nonanchor_heads.{i}",
            np.concatenate((local_steps, channel_steps, hyper_steps)),
            ranges,
            outputs,
        )
        parts.append(SliceProgram(channel, local, anchor, nonanchor))
    program = EntropyProgram(
        tuple(model.config.slices),
        _rescale(np.array([2.0**-LATENT_BITS / z_step]), -127, 127),
        _rescale(np.array([2.0**-LATENT_BITS / y_step]), -127, 127),
        hyper,
        tuple(parts),
    )
    program.check_exact()
    return program


def _latent_step(largest: float) -> float:
    """Grid step of latents as activations: no finer than their own 2^-4."""
    return max(2.0**-LATENT_BITS, largest / 127)


def _sequence(
    module: nn.Module, name: str, steps: Vector, ranges: Ranges, outputs: Vector | None = None
) -> tuple[Layers, float]:
    """Quantise convolutions with GELUs between them.

    Args:
        module: ``nn.Sequential`` of convolutions and GELUs.
        name: its name in the calibration ranges.
        steps: grid step of every input channel.
        ranges: calibration ranges.
        outputs: grid step of every output channel; None takes 8 bits over the calibrated range.

    Returns:
        The layers and the grid step of the outputs (0 where ``outputs`` was given).
    """
    assert isinstance(module, nn.Sequential)
    children = list(module)
    layers: list[IntegerLayer] = []
    step = 0.0
    for i, conv in enumerate(children):
        if not isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
            continue
        place = f"{name}.{i}"
        if i + 1 < len(children):
            before = ranges.before_gelu(place) / 127
            after = max(ranges.before_gelu(place), 0.2) / 127
            table = _gelu_table(before, after)
            layers.append(_layer(conv, steps, np.full(conv.out_channels, before), -128, 127, table))
            step = after
            steps = np.full(conv.out_channels, after)
        elif outputs is None:
            step = ranges.symmetric(place) / 127
            layers.append(_layer(conv, steps, np.full(conv.out_channels, step), -127, 127, None))
        else:
            # Scales reach 256 in units of 2^-8; means are clipped far beyond any latent.
            layers.append(_layer(conv, steps, outputs, -(1 << 17), 1 << 17, None))
            step = 0.0
    return tuple(layers), step


def _gelu_table(before: float, after: float) -> NDArray[np.int16]:
    inputs = torch.arange(-128, 128, dtype=torch.float64) * before
    values = nn.functional.gelu(inputs).numpy() / after
    table: NDArray[np.int16] = np.clip(np.rint(values), -128, 127).astype(np.int16)
    return table


def _layer(
    conv: nn.Conv2d | nn.ConvTranspose2d,
    steps: Vector,
    outputs: Vector,
    low: int,
    high: int,
    table: NDArray[np.int16] | None,
) -> IntegerLayer:
    transposed = isinstance(conv, nn.ConvTranspose2d)
    weight = conv.weight.detach().double().cpu().numpy()
    weight = weight.transpose(1, 0, 2, 3) if transposed else weight
    weight = weight * steps[None, :, None, None]
    assert conv.bias is not None
    bias = conv.bias.detach().double().cpu().numpy()
    largest = np.abs(weight).max(axis=(1, 2, 3))
    scale = np.maximum(largest, 1e-12) / WEIGHT_LIMIT
    # A channel whose sums could leave float32's exact integers, or whose rescaling would not fit, gets a coarser grid.
    for _ in range(24):
        whole = np.rint(weight / scale[:, None, None, None])
        whole_bias = np.rint(bias / scale)
        bound = np.abs(whole).sum(axis=(1, 2, 3)) * 128 + np.abs(whole_bias)
        bad = (bound >= EXACT) | (scale / outputs < 2.0**-24)
        if not bad.any():
            break
        scale = np.where(bad, scale * 2, scale)
    integers = whole.astype(np.int8)
    return IntegerLayer(
        np.ascontiguousarray(integers.transpose(1, 0, 2, 3)) if transposed else integers,
        whole_bias.astype(np.int32),
        _rescale(scale / outputs, low, high),
        conv.stride[0],
        transposed,
        table,
    )


def _rescale(ratio: Vector, low: int, high: int) -> Rescale:
    """The multiplier and shift closest to ``ratio``, with as many of the 15 bits as 40 places allow."""
    shift = np.clip(np.floor(np.log2(MULTIPLIER_LIMIT / ratio)), 1, 40).astype(np.int64)
    multiplier = np.minimum(np.rint(ratio * 2.0**shift), MULTIPLIER_LIMIT).astype(np.int64)
    return Rescale(multiplier, shift, low, high)
