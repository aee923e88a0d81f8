import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

OFFICIAL_LFGCM: dict[str, Any] = {
    "in_nc": 3,
    "out_nc": 4,
    "enc_mid": [64, 128, 192, 192],
    "N": 192,
    "M": 320,
    "prior_nc": 64,
    "sft_ks": 3,
    "slice_num": 10,
    "slice_ch": [8, 8, 8, 8, 16, 16, 32, 32, 96, 96],
}
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


class Golden:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tensors(self, name: str) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = load_file(self.folder / f"{name}.safetensors")
        return tensors

    def json(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text())


def plain_numbers(name: str, shape: Iterable[int]) -> Tensor:
    """Uniform numbers in [-1, 1) that depend on the name alone, on any machine and with any version of torch."""
    generator = np.random.default_rng(crc32(name.encode()))
    return torch.from_numpy(generator.random(tuple(shape)) * 2 - 1).float()


def fill_plainly(module: nn.Module, name: str) -> None:
    """Set every tensor that starts at random, and move those that start at a constant."""
    for key, value in module.state_dict().items():
        numbers = plain_numbers(f"{name}/{key}", value.shape)
        if "bias" in key:
            value.copy_(0.3 * numbers)
        elif value.ndim > 1 and not key.startswith("prior."):
            value.copy_(numbers * (3 / value[0].numel()) ** 0.5)
        elif key != "strengths":
            value.add_(0.3 * numbers)
