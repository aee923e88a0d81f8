"""Checkpoints of our own training at the paper's scale, brought into the official layout: one way in serves both."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from shared.codec.nets.control import ControlConfig, ControlModule, control_keys
from shared.codec.nets.lfgcm import Lfgcm, LfgcmConfig
from shared.codec.nets.lfgcm_keys import derived_entries, official_keys
from shared.errors import PinholeError
from training.checkpoints import FILE
from training.official_config import CONTROL, LFGCM

STAGE = "paper_codec"
CONTEXT = "context"
"""The empty prompt's embedding that it was trained with; the bundle takes that of Stable Diffusion."""
_SLICES = "lfgcm.entropy_parameters.local_context."
_SHOWN = 4


def own_checkpoint(path: Path) -> Mapping[str, Any] | None:
    """Return the content of a checkpoint of stage ``paper_codec``, a file or the stage's folder; None of anything else.

    No code in it is run. What cannot be read is left to whoever reads official checkpoints, and says what is wrong.
    """
    try:
        loaded = torch.load(path / FILE if path.is_dir() else path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch raises a dozen kinds, and none of them is news here
        return None
    if not isinstance(loaded, dict) or loaded.get("stage") != STAGE or not isinstance(loaded.get("average"), dict):
        return None
    return loaded


def official_layout(weights: Mapping[str, Tensor], unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """Name averaged weights of stage ``paper_codec`` as an official ``lc.ckpt`` does.

    Args:
        weights: ``lfgcm.*``, ``control.*`` and the context.
        unet: the base that the control steers; only its structure is looked at.

    Raises:
        PinholeError: if weights are missing or left over, as with the ablations' modules.
    """
    count = len({name.removeprefix(_SLICES).partition(".")[0] for name in weights if name.startswith(_SLICES)})
    # Names follow from the structure alone; widths are read from the shapes later, as from official files.
    with torch.device("meta"):
        lfgcm = Lfgcm(LfgcmConfig(latent_channels=max(1, count), slices=(1,) * max(1, count)))
        control = ControlModule(unet, ControlConfig.for_unet(unet))
    names = {f"lfgcm.{ours}": f"{LFGCM}{theirs}" for theirs, ours in official_keys(lfgcm).items()}
    names |= {f"control.{ours}": f"{CONTROL}{theirs}" for theirs, ours in control_keys(control).items()}
    problems = {"missing": names.keys() - weights.keys(), "unknown": weights.keys() - names.keys() - {CONTEXT}}
    if any(problems.values()):
        said = "; ".join(f"{kind} {', '.join(sorted(n)[:_SHOWN])}" for kind, n in problems.items() if n)
        raise PinholeError(f"not the paper's modules on this Stable Diffusion ({said}); give the one it was trained on")
    state = {theirs: weights[ours] for ours, theirs in names.items()}
    empty = torch.zeros(0, dtype=torch.int32)
    return state | {f"{LFGCM}{name}": empty if value is None else value for name, value in derived_entries().items()}
