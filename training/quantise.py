"""Quantisation of the entropy parameters to the integer entropy program."""

import numpy as np
from torch import nn

from shared.codec.entropy.integer import IntegerLayer
from shared.codec.entropy.program import EntropyProgram, Layers, SliceProgram
from shared.codec.nets.entropy_parameters import EntropyParameters
from training.calibration import Ranges, calibrate
from training.grids import Grids, plan_grids, whole_weights

__all__ = ["Ranges", "calibrate", "program_on", "quantise"]


def quantise(model: EntropyParameters, ranges: Ranges) -> EntropyProgram:
    """Turn the float entropy parameters into integer layers on the grids of calibrated ranges.

    Raises:
        PinholeError: if a layer cannot be kept within float32's exact integers.
    """
    return program_on(model, plan_grids(model, ranges))


def program_on(model: EntropyParameters, grids: Grids) -> EntropyProgram:
    """Turn the float entropy parameters into integer layers on given grids.

    Raises:
        PinholeError: if a layer cannot be kept within float32's exact integers.
    """

    def layers(name: str) -> Layers:
        made = []
        for child, conv in model.get_submodule(name).named_children():
            if not isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
                continue
            grid = grids.layers[f"{name}.{child}"]
            weight, bias, rescaling = whole_weights(conv, grid)
            made.append(
                IntegerLayer(
                    weight.detach().cpu().numpy().astype(np.int8),
                    bias.detach().cpu().numpy().astype(np.int32),
                    rescaling,
                    conv.stride[0],
                    isinstance(conv, nn.ConvTranspose2d),
                    grid.gelu_table(),
                )
            )
        return tuple(made)

    parts = (
        SliceProgram(
            layers(f"channel_context.{i - 1}") if i else (),
            layers(f"local_context.{i}"),
            layers(f"anchor_heads.{i}"),
            layers(f"nonanchor_heads.{i}"),
        )
        for i in range(len(model.config.slices))
    )
    program = EntropyProgram(
        tuple(model.config.slices), grids.z_input, grids.y_input, layers("hyper_decoder"), tuple(parts)
    )
    program.check_exact()
    return program
