"""Official checkpoints of a few thousand weights, written on the spot in the real layouts.

One Stable Diffusion is written as a folder in the diffusers layout and, with the same weights, as an original file with
everything that a PyTorch Lightning checkpoint has beside them; ``lc.ckpt`` is written for several rates. What shapes
cannot tell differs from the official numbers, so whatever reads the files must be given `OVERRIDES`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shared.codec.nets.control import control_keys
from shared.codec.nets.ddpm import training_alphas_cumprod
from shared.codec.nets.lfgcm_keys import derived_entries, official_keys
from shared.codec.nets.unet_keys import unet_keys
from shared.codec.nets.vae_keys import vae_keys
from tests.training.paper_stand_ins import CONTEXT_WIDTH, TOKENS, save_text_encoder
from training.official import build_control, build_lfgcm
from training.official_config import unet_config

LFGCM_CONFIG: dict[str, Any] = {
    "in_nc": 3,
    "out_nc": 4,
    "enc_mid": [8, 8, 12, 12],
    "N": 8,
    "M": 12,
    "prior_nc": 4,
    "sft_ks": 3,
    "slice_num": 2,
    "slice_ch": [4, 8],
}
CONTROL_CONFIG: dict[str, Any] = {
    "model_channels": 16,
    "channel_mult": [1, 1, 2, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [4, 2, 1],
    "context_dim": CONTEXT_WIDTH,
    "control_model_ratio": 0.5,
    "num_head_channels_base": 8,
    "num_head_channels_control": 4,
    "use_linear_in_transformer": True,
    "transformer_depth": 1,
    "norm_num_groups": 4,
}
VAE_CONFIG: dict[str, Any] = {
    "block_out_channels": (8, 8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "scaling_factor": 0.5,
}
OVERRIDES: dict[str, dict[str, Any]] = {
    "control": {"num_head_channels_base": 8, "num_head_channels_control": 4, "norm_num_groups": 4},
    "vae": {"norm_num_groups": 4, "scaling_factor": 0.5},
    "text": {"num_attention_heads": 2},
}
"""What the stand-ins' shapes cannot tell; written as JSON it is what a user gives."""
RATES = ("1_2_1", "1_2_4", "1_2_16")


def save_diffusers_folder(folder: Path, text_encoder: bool = True, seed: int = 8, **options: Any) -> Path:
    """Options are those of ``save_pretrained``: ``variant="fp16"``, ``max_shard_size="50KB"`` and so on."""
    torch.manual_seed(seed)
    make: Any = AutoencoderKL
    make(**VAE_CONFIG).save_pretrained(folder / "vae", **options)
    UNet2DConditionModel(**unet_config(CONTROL_CONFIG)).save_pretrained(folder / "unet", **options)
    schedule: Any = DDPMScheduler
    schedule(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")
    if text_encoder:
        save_text_encoder(folder)
        _text_model(seed).save_pretrained(folder / "text_encoder")
    return folder


def spell_attention_as_of_old(folder: Path) -> None:
    """Give the autoencoder's attention the names that Stable Diffusion 2.1's published one has."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    for new, name in old.items():
        state = {key.replace(f".attentions.0.{new}.", f".attentions.0.{name}."): value for key, value in state.items()}
    save_file(state, path, {"format": "pt"})


def original_state(folder: Path, seed: int = 8) -> dict[str, Tensor]:
    """The same weights as a folder's (with its seed), in LDM's layout, with all that stands beside them."""
    load: Any = AutoencoderKL.from_pretrained
    vae = load(folder / "vae")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    unet_state, vae_state = unet.state_dict(), vae.state_dict()
    state = {f"model.diffusion_model.{ldm}": unet_state[ours] for ldm, ours in unet_keys(unet).items()}
    for ldm, ours in vae_keys(vae).items():
        value = vae_state[ours]
        is_convolution = ".attn_1." in ldm and value.ndim == 2
        state[f"first_stage_model.{ldm}"] = value[..., None, None] if is_convolution else value
    state |= {f"cond_stage_model.model.{name}": value for name, value in open_clip_state(_text_model(seed)).items()}
    shares = torch.from_numpy(training_alphas_cumprod())
    before = torch.cat((torch.ones(1, dtype=torch.float64), shares[:-1]))
    state |= {"betas": (1 - shares / before).float(), "alphas_cumprod": shares.float()}
    state |= {"sqrt_alphas_cumprod": shares.sqrt().float(), "log_one_minus_alphas_cumprod": (1 - shares).log().float()}
    return state | {
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(3),
        "model_ema.diffusion_modeltime_embed0bias": torch.zeros(4),
    }


def open_clip_state(text: Any) -> dict[str, Tensor]:
    """A transformers text model in OpenCLIP's layout, one more layer at its end, and what else OpenCLIP stores."""
    own = {name.removeprefix("text_model."): value for name, value in text.state_dict().items()}
    width, layers = text.config.hidden_size, text.config.num_hidden_layers
    state = {
        "positional_embedding": own["embeddings.position_embedding.weight"],
        "token_embedding.weight": own["embeddings.token_embedding.weight"],
        "ln_final.weight": own["final_layer_norm.weight"],
        "ln_final.bias": own["final_layer_norm.bias"],
        "text_projection": torch.randn(width, width),
        "logit_scale": torch.tensor(1.0),
        "attn_mask": torch.full((TOKENS, TOKENS), float("-inf")).triu(1),
    }
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    parts |= {"attn.out_proj": "self_attn.out_proj"}
    for i in range(layers + 1):
        # Nobody looks at the last layer, so any numbers do.
        ours = f"encoder.layers.{min(i, layers - 1)}"
        for leaf in ("weight", "bias"):
            for theirs, name in parts.items():
                state[f"transformer.resblocks.{i}.{theirs}.{leaf}"] = own[f"{ours}.{name}.{leaf}"] + (i == layers)
            joint = torch.cat([own[f"{ours}.self_attn.{x}_proj.{leaf}"] for x in "qkv"])
            state[f"transformer.resblocks.{i}.attn.in_proj_{leaf}"] = joint
    return state


def save_original_checkpoint(path: Path, folder: Path, seed: int = 8, legacy: bool = False) -> Path:
    """Write a folder's weights (made with that seed) as ``.safetensors`` or as a Lightning checkpoint."""
    state = {name: value.contiguous() for name, value in original_state(folder, seed).items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        save_lightning(path, state, legacy)
    return path


def save_lightning(path: Path, state: dict[str, Tensor], legacy: bool = False) -> Path:
    with fake_lightning() as (callback, attributes):
        extras = {
            "epoch": 3,
            "global_step": 220000,
            "pytorch-lightning_version": "1.4.2",
            "callbacks": {callback: {"best_model_score": torch.tensor(0.1), "best_model_path": "here.ckpt"}},
            "hyper_parameters": attributes(base_learning_rate=1e-4),
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
        }
        torch.save({"state_dict": state, **extras}, path, _use_new_zipfile_serialization=not legacy)
    return path


@contextmanager
def fake_lightning() -> Iterator[tuple[type, type]]:
    """Classes that pickle as Lightning's, a callback and a dictionary; gone afterwards."""
    callback = type("ModelCheckpoint", (), {"__module__": "pytorch_lightning.callbacks.model_checkpoint"})
    attributes = type("AttributeDict", (dict,), {"__module__": "pytorch_lightning.utilities.parsing"})
    modules: dict[str, ModuleType] = {}
    for made in (callback, attributes):
        parts = made.__module__.split(".")
        for depth in range(1, len(parts) + 1):
            name = ".".join(parts[:depth])
            modules.setdefault(name, ModuleType(name))
        setattr(modules[made.__module__], made.__name__, made)
    kept = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield callback, attributes
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(kept)


def lc_state(seed: int = 0) -> dict[str, Tensor]:
    """Compression module and control in the official layout, unlike at every seed."""
    torch.manual_seed(100 + seed)
    lfgcm = build_lfgcm(LFGCM_CONFIG)
    _, control = build_control(CONTROL_CONFIG)
    _stir(control)
    own, steering = lfgcm.state_dict(), control.state_dict()
    state = {theirs: own[ours] for theirs, ours in official_keys(lfgcm).items()}
    empty = torch.zeros(0, dtype=torch.int32)
    state |= {name: empty if value is None else value for name, value in derived_entries().items()}
    state = {f"preprocess_model.{name}": value for name, value in state.items()}
    return state | {f"control_model.{theirs}": steering[ours] for theirs, ours in control_keys(control).items()}


def save_lc_checkpoint(path: Path, seed: int = 0) -> Path:
    return save_lightning(path, lc_state(seed))


def save_lc_checkpoints(folder: Path) -> dict[str, Path]:
    """One ``lc.ckpt`` for every one of `RATES`, in folders of their names as the authors give them out."""
    paths = {}
    for seed, rate in enumerate(RATES):
        (folder / rate).mkdir(parents=True)
        paths[rate] = save_lc_checkpoint(folder / rate / "lc.ckpt", seed)
    return paths


@torch.no_grad()
def _stir(control: nn.Module) -> None:
    # Connections start at zero, and so would steer nothing.
    for parameter in control.parameters():
        if not parameter.any():
            parameter.normal_(std=0.05)


def _text_model(seed: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed + 1)
    config = CLIPTextConfig(
        vocab_size=4,
        hidden_size=CONTEXT_WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        hidden_act="gelu",
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    model: Any = CLIPTextModel(config)
    return model.eval()
