"""A Stable Diffusion of a few thousand weights in the real layout, and photographs to train on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file

CONTEXT_WIDTH, TOKENS = 12, 5
SMALL_LFGCM = {
    "analysis_widths": [8, 8, 12, 12],
    "hyper_channels": 8,
    "latent_channels": 12,
    "reference_channels": 4,
    "slices": [4, 8],
}


def save_stable_diffusion(folder: Path, prompt: bool = True) -> Path:
    torch.manual_seed(8)
    make: Any = AutoencoderKL
    vae = make(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
    )
    vae.save_pretrained(folder / "vae")
    unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=CONTEXT_WIDTH,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
    )
    unet.save_pretrained(folder / "unet")
    schedule: Any = DDPMScheduler
    scheduler = schedule(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler.save_pretrained(folder / "scheduler")
    if prompt:
        save_file({"context": torch.randn(1, TOKENS, CONTEXT_WIDTH)}, folder / "empty_prompt.safetensors")
    return folder


def save_text_encoder(folder: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    words = ["!", "a</w>", "<|startoftext|>", "<|endoftext|>"]
    place = folder / "tokenizer"
    place.mkdir(parents=True)
    (place / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "pad_token": "!"}
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=CONTEXT_WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    torch.manual_seed(9)
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")


def save_photographs(folder: Path, count: int = 8, side: int = 96) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(6)
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((side + 32, side), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder
