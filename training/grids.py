"""Grids of the integer entropy path: which step every activation, weight and parameter is a multiple of.

The exported program and the quantisation-aware training both take their grids from here, so what is trained is what
runs. Inputs of the parameter heads are concatenations of maps with different grids; their steps are folded into the
weights, so no common grid is needed, and maps that no GELU follows have one step a channel.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.codec.entropy.integer import EXACT, MULTIPLIER_LIMIT, WEIGHT_LIMIT, Rescale
from shared.codec.entropy.program import LATENT_BITS, SCALE_BITS
from shared.codec.nets.entropy_parameters import EntropyParameters
from shared.codec.nets.likelihood import round_straight_through
from shared.errors import PinholeError
from training.calibration import KEPT_BEFORE_GELU, Ranges, Vector

Convolution = nn.Conv2d | nn.ConvTranspose2d
PARAMETER_LIMIT = 1 << 17
"""Scales reach 512 in units of 2^-8; means are clipped far beyond any latent."""
SMALLEST_RATIO = 2.0**-24
"""A rescaling below this would not fit multiplier and shift."""


@dataclass(frozen=True)
class LayerGrid:
    """Grids around one convolution.

    Attributes:
        inputs: step of every input channel.
        outputs: step of every output channel, before the GELU if there is one.
        low: smallest output in these steps.
        high: largest output in these steps.
        after: step of the activations after the GELU; None where none follows.
    """

    inputs: Vector
    outputs: Vector
    low: int
    high: int
    after: float | None = None

    def gelu_table(self) -> NDArray[np.int16] | None:
        """Activation values for the inputs -128 to 127, in steps of ``after``."""
        if self.after is None:
            return None
        inputs = torch.arange(-128, 128, dtype=torch.float64) * self.outputs[0]
        values = nn.functional.gelu(inputs).numpy() / self.after
        table: NDArray[np.int16] = np.clip(np.rint(values), -128, 127).astype(np.int16)
        return table


@dataclass(frozen=True)
class Grids:
    """Grids of the whole entropy path.

    Attributes:
        z_step: step of the hyper-latent as activations.
        y_step: step of the decoded latent as activations.
        layers: grids of every convolution by its name in the network.
    """

    z_step: float
    y_step: float
    layers: dict[str, LayerGrid]

    @property
    def z_input(self) -> Rescale:
        """From z in units of 2^-4 to activations."""
        return rescale(np.array([2.0**-LATENT_BITS / self.z_step]), -127, 127)

    @property
    def y_input(self) -> Rescale:
        """From decoded y in units of 2^-4 to activations."""
        return rescale(np.array([2.0**-LATENT_BITS / self.y_step]), -127, 127)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        layers = {
            name: {
                "inputs": torch.from_numpy(grid.inputs),
                "outputs": torch.from_numpy(grid.outputs),
                "low": grid.low,
                "high": grid.high,
                "after": grid.after,
            }
            for name, grid in self.layers.items()
        }
        return {"z_step": self.z_step, "y_step": self.y_step, "layers": layers}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Grids":
        """Read what `state` gave.

        Raises:
            PinholeError: if it is something else.
        """
        try:
            layers = {
                name: LayerGrid(g["inputs"].numpy(), g["outputs"].numpy(), int(g["low"]), int(g["high"]), g["after"])
                for name, g in state["layers"].items()
            }
            return cls(float(state["z_step"]), float(state["y_step"]), layers)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise PinholeError(f"checkpoint holds no grids ({error!r}); run the quantise stage again") from error


def plan_grids(
    model: EntropyParameters, ranges: Ranges, y_step: float = 2.0**-LATENT_BITS, kept: float = KEPT_BEFORE_GELU
) -> Grids:
    """Choose all grids from the calibrated ranges.

    Args:
        model: the entropy parameters.
        ranges: of their activations on photographs.
        y_step: step of the decoded latent as activations, at least 2^-4.
        kept: share of the range before a GELU that its grid reaches.
    """
    config = model.config
    # By default the decoded latent keeps its own grid of 2^-4 and is clipped at 8: at low rates its contexts live of
    # fractions, and at high rates a neighbour beyond 8 says no more than one of 8. The hyper-latent is whole (or a
    # whole distance from its medians): a power of two is exact.
    z_step = max(2.0**-LATENT_BITS, 2.0 ** math.ceil(math.log2(ranges.symmetric("z") / 127)))
    layers: dict[str, LayerGrid] = {}

    def sequence(name: str, steps: Vector, outputs: Vector | None = None) -> Vector:
        """Plan convolutions with GELUs between them; return the steps of the outputs."""
        children = list(model.get_submodule(name).named_children())
        for i, (child, conv) in enumerate(children):
            if not isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
                continue
            place = f"{name}.{child}"
            if i + 1 < len(children):
                before = ranges.before_gelu(place, kept) / 127
                after = max(ranges.before_gelu(place, kept), 0.2) / 127
                layers[place] = LayerGrid(steps, np.full(conv.out_channels, before), -128, 127, after)
                steps = np.full(conv.out_channels, after)
            elif outputs is None:
                layers[place] = LayerGrid(steps, ranges.channels(place) / 127, -127, 127)
                steps = layers[place].outputs
            else:
                layers[place] = LayerGrid(steps, outputs, -PARAMETER_LIMIT, PARAMETER_LIMIT)
                steps = outputs
        return steps

    hyper = sequence("hyper_decoder", np.full(config.hyper_channels, z_step))
    for i, width in enumerate(config.slices):
        channel = sequence(f"channel_context.{i - 1}", np.full(config.offsets[i], y_step)) if i else np.zeros(0)
        local = sequence(f"local_context.{i}", np.full(width, y_step))
        parameters = np.repeat([2.0**-SCALE_BITS, 2.0**-LATENT_BITS], width)
        sequence(f"anchor_heads.{i}", np.concatenate((channel, hyper)), parameters)
        sequence(f"nonanchor_heads.{i}", np.concatenate((local, channel, hyper)), parameters)
    return Grids(z_step, y_step, layers)


def whole_weights(conv: Convolution, grid: LayerGrid) -> tuple[Tensor, Tensor, Rescale]:
    """Round a convolution's weights and biases to integers.

    Args:
        conv: the convolution.
        grid: its grids.

    Returns:
        ``(weight, bias, rescaling)``: float64 tensors of whole numbers, the weight laid out like the convolution's,
        gradients passing straight through the rounding; and the rescaling from their sums to the output's grid.
    """
    assert conv.bias is not None
    transposed = isinstance(conv, nn.ConvTranspose2d)
    weight, bias = conv.weight.double(), conv.bias.double()
    inputs, outputs = (torch.as_tensor(steps, device=weight.device) for steps in (grid.inputs, grid.outputs))
    column = (slice(None), None, None, None)
    scaled = weight * (inputs[column] if transposed else inputs[None, :, None, None])
    axes = (0, 2, 3) if transposed else (1, 2, 3)
    with torch.no_grad():
        scale = scaled.abs().amax(axes).clamp_min(1e-12) / WEIGHT_LIMIT
        # A channel whose sums could leave float32's exact integers, or whose rescaling would not fit, gets a coarser
        # grid.
        for _ in range(24):
            step = scale[None, :, None, None] if transposed else scale[column]
            bound = (scaled / step).round().abs().sum(axes) * 128 + (bias / scale).round().abs()
            bad = (bound >= EXACT) | (scale / outputs < SMALLEST_RATIO)
            if not bad.any():
                break
            scale = torch.where(bad, scale * 2, scale)
        step = scale[None, :, None, None] if transposed else scale[column]
        ratio = (scale / outputs).cpu().numpy()
    return (
        round_straight_through(scaled / step),
        round_straight_through(bias / scale),
        rescale(ratio, grid.low, grid.high),
    )


def rescale(ratio: Vector, low: int, high: int) -> Rescale:
    """The multiplier and shift closest to ``ratio``, with as many of the 15 bits as 40 places allow."""
    shift = np.clip(np.floor(np.log2(MULTIPLIER_LIMIT / ratio)), 1, 40).astype(np.int64)
    multiplier = np.minimum(np.rint(ratio * 2.0**shift), MULTIPLIER_LIMIT).astype(np.int64)
    return Rescale(multiplier, shift, low, high)
