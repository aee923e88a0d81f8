"""Names of the official LFGCM checkpoint and ours, one to one.

The official names are found by walking our modules: each class knows what the official code calls its children.
"""

import math
import re

import torch
from torch import Tensor, nn

from shared.codec.nets.blocks import ResidualDown, ResidualUp
from shared.codec.nets.entropy_parameters import (
    ChannelContext,
    EntropyParameters,
    LocalContext,
    ParameterHead,
)
from shared.codec.nets.factorised_prior import TAIL_MASS
from shared.codec.nets.lfgcm import Analysis, HyperAnalysis, Lfgcm, Synthesis
from shared.codec.nets.likelihood import LIKELIHOOD_BOUND, SCALE_BOUND
from shared.codec.nets.sft import SftResidual, SpatialFeatureTransform

_CHILDREN: dict[type[nn.Module], dict[str, str]] = {
    Lfgcm: {
        "analysis": "encoder",
        "hyper_analysis": "hyper_enc",
        "prior": "entropy_bottleneck",
        "entropy_parameters": "",
        "reference_decoder": "f_c",
        "synthesis": "decoder",
    },
    Analysis: {
        "reference8": "sft_1_8",
        "reference16": "sft_1_16",
        "reference16_fine": "sft_1_16_2",
        "to_eighth": "g_a1",
        "guide8": "g_a1_ref",
        "to_sixteenth": "g_a2",
        "guide16": "g_a2_ref",
        "blend": "g_a3",
        "guided1": "g_a4",
        "guided2": "g_a5",
        "project": "g_a6",
    },
    HyperAnalysis: {
        "guidance16": "sft_feature",
        "reference16": "sft_feature_h1",
        "reference32": "sft_feature_h2",
        "reference64": "sft_feature_h3",
        "conv16": "h_a0",
        "guide16": "h_a1",
        "conv32": "h_a3",
        "guide32": "h_a4",
        "conv64": "h_a6",
        "guided1": "h_a7",
        "guided2": "h_a8",
        "project": "h_a9",
    },
    Synthesis: {
        "reference16": "sft_feature_gs1",
        "reference16_fine": "sft_feature_gs2",
        "reference8": "sft_feature_gs3",
        "guided1": "g_s0",
        "guided2": "g_s1",
        "at_sixteenth": "g_s2",
        "guide16": "g_s2_ref",
        "to_eighth": "g_s3",
        "guide8": "g_s3_ref",
        "project": "g_s4",
    },
    EntropyParameters: {
        "hyper_decoder": "hyper_dec.hyper_dec",
        "anchor_heads": "entropy_parameters_anchor",
        "nonanchor_heads": "entropy_parameters_nonanchor",
    },
    LocalContext: {"0": ""},
    ChannelContext: {str(i): f"fushion.{i}" for i in range(5)},
    ParameterHead: {str(i): f"fusion.{i}" for i in range(5)},
    ResidualDown: {"skip": "downsample"},
    ResidualUp: {"expand": "subpel_conv", "skip": "upsample"},
    SpatialFeatureTransform: {"shared": "mlp_shared", "gamma": "mlp_gamma", "beta": "mlp_beta"},
    SftResidual: {"sft1": "norm_0", "conv1": "conv_0", "sft2": "norm_1", "conv2": "conv_1"},
}


def _official_name(model: Lfgcm, name: str) -> str:
    module: nn.Module = model
    parts: list[str] = []
    *path, leaf = name.split(".")
    for part in path:
        parts.append(_CHILDREN.get(type(module), {}).get(part, part))
        module = module.get_submodule(part)
    official = ".".join(part for part in (*parts, leaf) if part)
    # The official list has a None for slice 0, ours has no entry for it.
    return re.sub(r"^channel_context\.(\d+)", lambda m: f"channel_context.{int(m[1]) + 1}", official)


def official_keys(model: Lfgcm) -> dict[str, str]:
    """Map the official name of every learned tensor (no ``preprocess_model.`` prefix) to its name in ``model``."""
    return {_official_name(model, name): name for name in model.state_dict()}


def modern_key(official: str) -> str:
    """Spell a key of the factorised prior as CompressAI does since 1.2.5; other keys are returned as they are.

    The official code pins CompressAI 1.2.4, whose prior has ``_matrix0``, ``_bias0`` and ``_factor0``.
    """
    plurals = {"matrix": "matrices", "bias": "biases", "factor": "factors"}
    return re.sub(
        r"^entropy_bottleneck\._(matrix|bias|factor)(\d+)$",
        lambda m: f"entropy_bottleneck.{plurals[m[1]]}.{m[2]}",
        official,
    )


def derived_entries() -> dict[str, Tensor | None]:
    """Official entries that are not learned, with the values that our code takes for granted.

    None stands for the integer tables: the official code makes them anew at every load, and so does the making of a
    bundle. An entry that was never filled is saved as an empty tensor.
    """
    tail = math.log(2 / TAIL_MASS - 1)
    return {
        "entropy_bottleneck._offset": None,
        "entropy_bottleneck._quantized_cdf": None,
        "entropy_bottleneck._cdf_length": None,
        "entropy_bottleneck.target": torch.tensor([-tail, 0.0, tail]),
        "entropy_bottleneck.likelihood_lower_bound.bound": torch.tensor([LIKELIHOOD_BOUND]),
        "gaussian_conditional._offset": None,
        "gaussian_conditional._quantized_cdf": None,
        "gaussian_conditional._cdf_length": None,
        "gaussian_conditional.scale_table": torch.linspace(math.log(SCALE_BOUND), math.log(256.0), 64).exp(),
        "gaussian_conditional.scale_bound": torch.tensor([SCALE_BOUND]),
        "gaussian_conditional.likelihood_lower_bound.bound": torch.tensor([LIKELIHOOD_BOUND]),
        "gaussian_conditional.lower_bound_scale.bound": torch.tensor([SCALE_BOUND]),
    }
