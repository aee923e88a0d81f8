"""Stand-in checkpoints for imports: two rates, a Stable Diffusion in both layouts, photographs, and the command."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tests.training.official_stand_ins import (
    LFGCM_CONFIG,
    OVERRIDES,
    lc_state,
    save_diffusers_folder,
    save_lightning,
    save_original_checkpoint,
    spell_attention_as_of_old,
)
from tests.training.paper_stand_ins import save_photographs

RATES = ("1_2_1", "1_2_16")


class Sources(NamedTuple):
    """What the stand-ins lie in."""

    folder: Path
    checkpoint: Path
    rates: dict[str, Path]
    overrides: Path
    photographs: Path


def with_medians(seed: int, spread: float) -> dict[str, Tensor]:
    """A rate whose latents are ``spread`` wide, and whose hyper-latent is coded around medians that are not whole."""
    state = lc_state(seed)
    state["preprocess_model.entropy_bottleneck.quantiles"][:, 0, 1] = torch.linspace(-2.3, 2.1, LFGCM_CONFIG["N"])
    for leaf in ("weight", "bias"):
        state[f"preprocess_model.encoder.g_a6.{leaf}"] *= spread
        state[f"preprocess_model.hyper_enc.h_a9.{leaf}"] *= 10
    return state


def save_sources(place: Path) -> Sources:
    folder = save_diffusers_folder(place / "sd")
    checkpoint = save_original_checkpoint(place / "v2-1_512.ckpt", folder)
    spell_attention_as_of_old(folder)
    rates = {}
    # The first one is the finer: the bundle has to find their order.
    for seed, (rate, spread) in enumerate(zip(RATES, (30.0, 3.0), strict=True)):
        (place / rate).mkdir()
        rates[rate] = save_lightning(place / rate / "lc.ckpt", with_medians(seed, spread))
    overrides = place / "overrides.json"
    overrides.write_text(json.dumps(OVERRIDES))
    return Sources(folder, checkpoint, rates, overrides, save_photographs(place / "photographs", 4, 256))


def arguments(sources: Sources, output: Path, sd: Path, *more: str) -> list[str]:
    rates = [argument for path in sources.rates.values() for argument in ("--lc", str(path))]
    common = ["--calibrate", str(sources.photographs), "--crops", "4", "--config", str(sources.overrides)]
    return ["bundle", "import-official", "--sd", str(sd), *rates, *common, "-o", str(output), *more]
