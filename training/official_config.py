"""Find the architecture of an official checkpoint in the names and shapes of its tensors.

Checkpoints hold no configuration. Widths, depths and kernels can be read off the shapes; what cannot (channels of an
attention head, groups of a normalisation, scale of the latent) is taken to be the official number unless overridden.
Shapes on the "meta" device do as well as real tensors.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from shared.codec.nets.control import ControlConfig
from shared.errors import PinholeError

LFGCM, UNET, CONTROL, VAE = "preprocess_model.", "model.diffusion_model.", "control_model.", "first_stage_model."
PROMPT, EMA = "cond_stage_model.", "model_ema."
"""Prefixes of the parts of a checkpoint; the last is a second copy of the UNet that only training needs."""
SCHEDULE = ("alphas_cumprod", "betas", "log_one_minus_", "logvar", "lvlb_weights", "posterior_", "sqrt_")
"""Beginnings of the names of the buffers of LDM's training schedule, which `SpacedDdpm` computes."""
BASE_HEAD, CONTROL_HEAD = 64, 16
"""Channels of an attention head in Stable Diffusion 2.1's UNet and in DiffEIC's control module."""
NORM_GROUPS = 32
SCALING_FACTOR = 0.18215
"""Factor that brings Stable Diffusion's latent to about unit variance."""

Overrides = Mapping[str, Mapping[str, Any]]
"""Entries that take the place of what was found, in the tables of `TABLES`."""
TABLES: dict[str, frozenset[str]] = {
    "lfgcm": frozenset({"in_nc", "out_nc", "enc_mid", "N", "M", "prior_nc", "sft_ks", "slice_num", "slice_ch"}),
    "control": frozenset(
        {
            "model_channels",
            "channel_mult",
            "num_res_blocks",
            "attention_resolutions",
            "context_dim",
            "control_model_ratio",
            "num_head_channels_base",
            "num_head_channels_control",
            "use_linear_in_transformer",
            "transformer_depth",
            "in_channels",
            "norm_num_groups",
        }
    ),
    "vae": frozenset({"norm_num_groups", "scaling_factor"}),
    "text": frozenset({"num_attention_heads"}),
}
"""Tables of the overrides and their entries: those of the official configurations of compression module and control
(and UNet), of diffusers for the autoencoder, of transformers for the text encoder."""


def read_overrides(path: Path | str) -> dict[str, dict[str, Any]]:
    """Read overrides from a JSON file, for example ``{"vae": {"norm_num_groups": 4}}``.

    Raises:
        PinholeError: if the file cannot be read or has tables or entries that there are not.
    """
    try:
        overrides = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PinholeError(f"cannot read the overrides {path} ({error}); give a JSON file with tables") from error
    check_overrides(overrides)
    result: dict[str, dict[str, Any]] = overrides
    return result


def check_overrides(overrides: object) -> None:
    """Make sure that overrides have no other tables and entries than `TABLES`.

    Raises:
        PinholeError: if they do.
    """
    if not isinstance(overrides, Mapping):
        raise PinholeError(f"overrides: not a table of tables; give some of {', '.join(TABLES)}")
    for table, entries in overrides.items():
        if table not in TABLES or not isinstance(entries, Mapping):
            raise PinholeError(f"overrides: {table!r} is no table that there is; give some of {', '.join(TABLES)}")
        unknown = sorted(str(name) for name in entries.keys() - TABLES[table])
        if unknown:
            raise PinholeError(
                f"overrides: {table} has no {', '.join(unknown)}; give {', '.join(sorted(TABLES[table]))}"
            )


def infer_lfgcm_config(state: Mapping[str, Tensor], overrides: Overrides | None = None) -> dict[str, Any]:
    """Find the official configuration of the compression module, as `training.official.build_lfgcm` takes it.

    Args:
        state: official tensors, with or without ``preprocess_model.``; other parts may stand beside.
        overrides: table "lfgcm".

    Raises:
        PinholeError: if tensors are missing that tell the widths.
    """
    shapes = _Shapes(state, LFGCM, "compression module")
    slices = [shapes(f"local_context.{i}.weight", 4)[1] for i in range(shapes.count("local_context.{}.weight"))]
    found = {
        "in_nc": shapes("encoder.g_a1.0.conv1.weight", 4)[1],
        "out_nc": shapes("encoder.sft_1_8.0.weight", 4)[1],
        "enc_mid": [shapes(f"encoder.{name}.conv1.weight", 4)[0] for name in ("g_a1.0", "g_a1.4", "g_a1.8", "g_a2.0")],
        "N": shapes("hyper_enc.h_a9.weight", 4)[0],
        "M": shapes("encoder.g_a6.weight", 4)[0],
        "prior_nc": shapes("encoder.sft_1_8.0.weight", 4)[0],
        "sft_ks": shapes("encoder.g_a1_ref.mlp_shared.0.weight", 4)[2],
        "slice_num": len(slices),
        "slice_ch": slices,
    }
    return found | _table(overrides, "lfgcm")


def infer_control_config(state: Mapping[str, Tensor], overrides: Overrides | None = None) -> dict[str, Any]:
    """Find the official configuration of UNet and control module, as `training.official.build_control` takes it.

    Args:
        state: official tensors of both, with ``model.diffusion_model.`` and ``control_model.``; other parts may stand
            beside.
        overrides: table "control".

    Raises:
        PinholeError: if tensors are missing that tell the widths, or no such network has those widths.
    """
    found = _base_config(state)
    widths = [found["model_channels"] * multiple for multiple in found["channel_mult"]]
    control = _Blocks.of(_Shapes(state, CONTROL, "control module"), "control_model.")
    exact = control.first / found["model_channels"]
    # Widths are rounded down, and a quotient may be a hair too small to give its own numerator back.
    ratios = (exact, math.nextafter(exact, math.inf))
    ratio = next((r for r in ratios if [int(width * r) for width in widths] == control.widths), None)
    if ratio is None:
        raise PinholeError(
            f"control module: widths {control.widths} are no constant part of the UNet's {widths}; "
            "give checkpoints that belong together"
        )
    found |= {"control_model_ratio": ratio, "num_head_channels_control": CONTROL_HEAD}
    return found | _table(overrides, "control")


def infer_control_widths(
    state: Mapping[str, Tensor], unet_config: Mapping[str, Any], overrides: Overrides | None = None
) -> ControlConfig:
    """Find the shape of a control module beside a UNet that came from elsewhere.

    Args:
        state: official tensors with ``control_model.``; other parts may stand beside.
        unet_config: diffusers' configuration of the UNet.
        overrides: of table "control", num_head_channels_control.

    Raises:
        PinholeError: if tensors are missing that tell the widths, or they do not go with the UNet.
    """
    control = _Blocks.of(_Shapes(state, CONTROL, "control module"), "control_model.")
    levels, channels = len(unet_config["block_out_channels"]), int(unet_config["in_channels"])
    if len(control.widths) != levels or control.inputs <= channels:
        raise PinholeError(
            f"control module has {len(control.widths)} levels and {control.inputs} input channels, but the UNet "
            f"{levels} and {channels}; give checkpoints that belong together"
        )
    head = _table(overrides, "control").get("num_head_channels_control", CONTROL_HEAD)
    return ControlConfig(tuple(control.widths), control.inputs - channels, int(head))


def infer_unet_config(state: Mapping[str, Tensor], overrides: Overrides | None = None) -> dict[str, Any]:
    """Find diffusers' configuration of a UNet in LDM's layout.

    Args:
        state: tensors, with or without ``model.diffusion_model.``; other parts may stand beside.
        overrides: table "control", of which the control's own entries are not looked at.

    Raises:
        PinholeError: if tensors are missing that tell the widths, or no such network has those widths.
    """
    return unet_config(_base_config(state) | _table(overrides, "control"))


def infer_vae_config(state: Mapping[str, Tensor], overrides: Overrides | None = None) -> dict[str, Any]:
    """Find diffusers' configuration of an autoencoder in LDM's layout.

    Args:
        state: tensors, with or without ``first_stage_model.``; other parts may stand beside.
        overrides: table "vae".

    Raises:
        PinholeError: if tensors are missing that tell the widths.
    """
    shapes = _Shapes(state, VAE, "autoencoder")
    levels = shapes.count("encoder.down.{}.block.0.conv1.weight")
    found = {
        "in_channels": shapes("encoder.conv_in.weight", 4)[1],
        "out_channels": shapes("decoder.conv_out.weight", 4)[0],
        "latent_channels": shapes("post_quant_conv.weight", 4)[0],
        "block_out_channels": [shapes(f"encoder.down.{i}.block.0.conv1.weight", 4)[0] for i in range(levels)],
        "layers_per_block": shapes.count("encoder.down.0.block.{}.conv1.weight"),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "act_fn": "silu",
        "norm_num_groups": NORM_GROUPS,
        "scaling_factor": SCALING_FACTOR,
    }
    return found | _table(overrides, "vae")


def unet_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the official configuration of a UNet into diffusers' one.

    Args:
        config: as `training.official.build_control` takes it.

    Raises:
        KeyError, TypeError, ValueError: if an entry is absent or no number.
    """
    widths = [int(config["model_channels"]) * int(m) for m in config["channel_mult"]]
    attention = [2**level in config["attention_resolutions"] for level in range(len(widths))]
    head = int(config["num_head_channels_base"])
    channels = int(config.get("in_channels", 4))
    return {
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": widths,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)],
        "layers_per_block": int(config["num_res_blocks"]),
        "cross_attention_dim": int(config["context_dim"]),
        # In diffusers this parameter is the number of heads, whatever its name says.
        "attention_head_dim": [max(1, width // head) for width in widths],
        "use_linear_projection": bool(config["use_linear_in_transformer"]),
        "transformer_layers_per_block": int(config["transformer_depth"]),
        "norm_num_groups": int(config.get("norm_num_groups", NORM_GROUPS)),
    }


class _Shapes:
    """Shapes of one part of a checkpoint, by name without the part's prefix."""

    def __init__(self, state: Mapping[str, Tensor], prefix: str, part: str) -> None:
        under = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        self._part = part
        self._shapes = {name: tuple(value.shape) for name, value in (under or state).items()}

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def __call__(self, name: str, *axes: int) -> tuple[int, ...]:
        """Return a tensor's shape, which must have one of these numbers of axes."""
        shape = self._shapes.get(name)
        if shape is None or len(shape) not in axes:
            problem = "is missing" if shape is None else f"has the shape {shape}"
            raise PinholeError(f"{self._part}: {name} {problem}; give a checkpoint that has this part in LDM's layout")
        return shape

    def count(self, pattern: str) -> int:
        """Return how many of 0, 1, 2 ... in the pattern's braces are there without a gap."""
        number = 0
        while pattern.format(number) in self._shapes:
            number += 1
        return number


@dataclass(frozen=True)
class _Blocks:
    """What the input blocks of a UNet, or of a control encoder, say."""

    inputs: int
    first: int
    widths: list[int]
    residual_blocks: int
    attention: list[bool]

    @classmethod
    def of(cls, shapes: _Shapes, prefix: str = "") -> "_Blocks":
        first, inputs = shapes(f"{prefix}input_blocks.0.0.weight", 4)[:2]
        levels: list[set[tuple[int, bool]]] = [set()]
        counts = [0]
        number = 1
        while True:
            block = f"{prefix}input_blocks.{number}"
            if f"{block}.0.in_layers.2.weight" in shapes:
                levels[-1].add((shapes(f"{block}.0.in_layers.2.weight", 4)[0], f"{block}.1.norm.weight" in shapes))
                counts[-1] += 1
            elif f"{block}.0.op.weight" in shapes:
                levels.append(set())
                counts.append(0)
            else:
                break
            number += 1
        if len(set(counts)) != 1 or any(len(level) != 1 for level in levels):
            raise PinholeError(
                f"UNet: {prefix}input_blocks are no levels of equal blocks ({counts} at each); give a whole checkpoint"
            )
        blocks = [next(iter(level)) for level in levels]
        return cls(inputs, first, [width for width, _ in blocks], counts[0], [attends for _, attends in blocks])


def _base_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    shapes = _Shapes(state, UNET, "UNet")
    blocks = _Blocks.of(shapes)
    if any(width % blocks.first for width in blocks.widths):
        raise PinholeError(f"UNet: widths {blocks.widths} are no multiples of {blocks.first}; give Stable Diffusion's")
    attention = "middle_block.1"
    found = {
        "model_channels": blocks.first,
        "channel_mult": [width // blocks.first for width in blocks.widths],
        "num_res_blocks": blocks.residual_blocks,
        "attention_resolutions": [2**i for i in reversed(range(len(blocks.widths))) if blocks.attention[i]],
        "context_dim": shapes(f"{attention}.transformer_blocks.0.attn2.to_k.weight", 2)[1],
        "num_head_channels_base": BASE_HEAD,
        "use_linear_in_transformer": len(shapes(f"{attention}.proj_in.weight", 2, 4)) == 2,
        "transformer_depth": shapes.count(attention + ".transformer_blocks.{}.norm1.weight"),
    }
    # Four channels go without saying in official configurations.
    return found if blocks.inputs == 4 else found | {"in_channels": blocks.inputs}


def _table(overrides: Overrides | None, table: str) -> dict[str, Any]:
    check_overrides(overrides or {})
    return dict((overrides or {}).get(table, {}))
