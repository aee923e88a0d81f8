"""Checkpoints of the official sizes and layouts with random weights: what ``benchmarks.full_size`` imports.

Weights are uniform with the variance that keeps activations finite. The compression module's are scaled on a picture so
that latents need about as many bits as those of a trained one: a benchmark of entropy coding wants something to code.
"""

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from safetensors.torch import save_file
from torch import Tensor, nn

from shared.codec.nets.control import ControlConfig, ControlModule, control_keys
from shared.codec.nets.ddpm import FIRST_BETA, LAST_BETA
from shared.codec.nets.factorised_prior import FactorisedPrior
from shared.codec.nets.lfgcm import Lfgcm, LfgcmConfig
from shared.codec.nets.lfgcm_keys import derived_entries, official_keys
from shared.codec.nets.unet_keys import unet_keys
from shared.codec.nets.vae_keys import vae_keys
from training.official import build_control

OFFICIAL_CONTROL: dict[str, Any] = {
    "model_channels": 320,
    "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attention_resolutions": [4, 2, 1],
    "context_dim": 1024,
    "control_model_ratio": 0.2,
    "num_head_channels_base": 64,
    "num_head_channels_control": 16,
    "use_linear_in_transformer": True,
    "transformer_depth": 1,
}
OFFICIAL_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
TOKENS = 77
LATENT_SPREAD, HYPER_SPREAD = 0.2, 0.5
"""Standard deviations that latent and hyper-latent get on the picture: about 0.1 bit per pixel."""
LAYOUTS = ("single", "diffusers")


def make_checkpoints(work: Path, layout: str, dtype: torch.dtype, picture: Tensor) -> tuple[Path, Path, Path]:
    """Write a Stable Diffusion, an ``lc.ckpt`` and an empty prompt.

    Args:
        work: folder to write to.
        layout: one of `LAYOUTS`: the original single file, or a folder in the diffusers layout.
        dtype: of Stable Diffusion's weights in the file.
        picture: ``1 x 3 x H x W`` in [-1, 1] that the compression module is scaled on.

    Returns:
        Paths of the three.
    """
    torch.manual_seed(4)
    work.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        unet, _ = build_control(OFFICIAL_CONTROL)
        make: Any = AutoencoderKL
        vae = make(**OFFICIAL_VAE)
    if layout == "diffusers":
        base = work / "stable-diffusion"
        for folder, model in (("unet", unet), ("vae", vae)):
            (base / folder).mkdir(parents=True, exist_ok=True)
            model.save_config(base / folder)
            save_file(_random_state(model, dtype), base / folder / "diffusion_pytorch_model.safetensors")
        schedule: Any = DDPMScheduler
        schedule(beta_start=FIRST_BETA, beta_end=LAST_BETA, beta_schedule="scaled_linear").save_pretrained(
            base / "scheduler"
        )
    else:
        base = work / "v2-1_512-random.ckpt"
        state: dict[str, Tensor] = {}
        for prefix, model, keys in (
            ("model.diffusion_model.", unet, unet_keys(unet)),
            ("first_stage_model.", vae, vae_keys(vae)),
        ):
            own = _random_state(model, dtype)
            state |= {f"{prefix}{theirs}": _as_ldm(theirs, own[ours]) for theirs, ours in keys.items()}
        torch.save({"state_dict": state, "global_step": 0}, base)
    torch.save({"state_dict": _lc_state(unet, picture)}, work / "lc.ckpt")
    save_file({"context": torch.randn(1, TOKENS, OFFICIAL_CONTROL["context_dim"])}, work / "empty_prompt.safetensors")
    return base, work / "lc.ckpt", work / "empty_prompt.safetensors"


def _lc_state(unet: Any, picture: Tensor) -> dict[str, Tensor]:
    lfgcm = Lfgcm(LfgcmConfig())
    lfgcm.prior = FactorisedPrior(lfgcm.config.hyper_channels, initial_scale=2 * HYPER_SPREAD)
    nn.init.uniform_(lfgcm.prior.quantiles[:, :, 1], -0.5, 0.5)
    lfgcm.eval().requires_grad_(False)
    guidance = torch.randn(1, 4, picture.shape[2] // 8, picture.shape[3] // 8)
    for convolution, spread in ((lfgcm.analysis.project, LATENT_SPREAD), (lfgcm.hyper_analysis.project, HYPER_SPREAD)):
        y = lfgcm.analysis((picture + 1) / 2, guidance)
        values = y if convolution is lfgcm.analysis.project else lfgcm.hyper_analysis(y, guidance)
        convolution.weight.mul_(spread / values.std())
        if convolution.bias is not None:
            convolution.bias.zero_()
    for head in (*lfgcm.entropy_parameters.anchor_heads, *lfgcm.entropy_parameters.nonanchor_heads):
        last = list(head)[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        last.bias[: len(last.bias) // 2] = LATENT_SPREAD
    own = lfgcm.state_dict()
    state = {f"preprocess_model.{theirs}": own[ours] for theirs, ours in official_keys(lfgcm).items()}
    empty = torch.zeros(0, dtype=torch.int32)
    state |= {f"preprocess_model.{k}": empty if v is None else v.clone() for k, v in derived_entries().items()}
    config = ControlConfig.for_unet(unet)
    with torch.device("meta"):
        control = ControlModule(unet, config)
    weights = _random_state(control, torch.float32)
    return state | {f"control_model.{theirs}": weights[ours] for theirs, ours in control_keys(control).items()}


def _random_state(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights for a network on the "meta" device: uniform by fan-in, one for norms and strengths, zero for biases."""
    state = {}
    for name, value in model.state_dict().items():
        if value.ndim < 2:
            constant = 0.0 if name.endswith("bias") else 1.0
            state[name] = torch.full(value.shape, constant, dtype=dtype)
        else:
            bound = 1 / math.sqrt(value[0].numel())
            state[name] = torch.empty(value.shape).uniform_(-bound, bound).to(dtype)
    return state


def _as_ldm(name: str, value: Tensor) -> Tensor:
    """The autoencoder's attention is made of pointwise convolutions there."""
    is_attention = ".attn_1." in name and value.ndim == 2
    return value[..., None, None] if is_attention else value
