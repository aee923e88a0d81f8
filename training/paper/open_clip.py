"""The text tower of an original Stable Diffusion 2 checkpoint: OpenCLIP's weights in transformers' CLIP text model.

The condition is what OpenCLIP's last layer but one gives, after the final norm. So the model is built with one layer
fewer, and that layer's weights, the projection to the joint space and the temperature are left out by name.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from shared.errors import PinholeError
from training.official_config import PROMPT, Overrides, check_overrides
from training.official_files import check_shapes

PREFIX = f"{PROMPT}model."
HEAD = 64
"""Channels of an attention head in every published OpenCLIP text tower."""
_UNUSED = {"attn_mask", "logit_scale", "text_projection"}
_WHOLE = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def has_text_tower(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint holds an OpenCLIP text tower (``cond_stage_model.model.``)."""
    return any(name.startswith(PREFIX) for name in state)


def text_model_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a text tower's tensors to those of transformers' ``CLIPTextModel`` with one layer fewer.

    Args:
        state: tensors with ``cond_stage_model.model.``; other parts may stand beside.

    Returns:
        Tensors by name without ``text_model.``; the layers' joint query, key and value weights are split.

    Raises:
        PinholeError: if tensors are missing, unknown or of other shapes than such a tower has.
    """
    tower = {
        name.removeprefix(PREFIX): value
        for name, value in state.items()
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in _UNUSED
    }
    layers = len({name.split(".")[2] for name in tower if name.startswith("transformer.resblocks.")})
    if layers < 2 or "token_embedding.weight" not in tower:
        raise PinholeError(f"text encoder: {PREFIX} is no OpenCLIP text tower; give the original checkpoint")
    check_shapes(tower, _shapes(tower, layers), "text encoder")
    renamed = {ours: tower[theirs] for theirs, ours in _WHOLE.items()}
    for i in range(layers - 1):
        theirs, ours = f"transformer.resblocks.{i}", f"encoder.layers.{i}"
        for leaf in ("weight", "bias"):
            renamed |= {f"{ours}.{new}.{leaf}": tower[f"{theirs}.{old}.{leaf}"] for old, new in _LAYER.items()}
            joint = tower[f"{theirs}.attn.in_proj_{leaf}"].chunk(3)
            renamed |= {f"{ours}.self_attn.{x}_proj.{leaf}": part for x, part in zip("qkv", joint, strict=True)}
    return renamed


@torch.no_grad()
def encode_empty_prompt(state: Mapping[str, Tensor], overrides: Overrides | None = None) -> Tensor:
    """Run the text tower of a checkpoint on the empty prompt, which needs no vocabulary.

    Its tokens are the start (last but one of the vocabulary), the end (the last) and zeros up to the tower's length, 77
    in Stable Diffusion.

    Args:
        state: tensors with ``cond_stage_model.model.``; other parts may stand beside.
        overrides: of table "text", num_attention_heads; without it heads have 64 channels.

    Returns:
        ``1 x tokens x width``, float32.

    Raises:
        PinholeError: if the tower is incomplete or transformers is not installed.
    """
    try:
        from transformers import CLIPTextConfig, CLIPTextModel
    except ImportError as error:
        raise PinholeError("no transformers to encode the empty prompt; pip install transformers") from error
    check_overrides(overrides or {})
    weights = text_model_state(state)
    words, width = weights["embeddings.token_embedding.weight"].shape
    length = len(weights["embeddings.position_embedding.weight"])
    heads = int((overrides or {}).get("text", {}).get("num_attention_heads", max(1, width // HEAD)))
    if heads < 1 or width % heads or words < 3 or length < 2:
        raise PinholeError(f"text encoder: {heads} heads do not share {width} channels; mend the overrides' table text")
    config: Any = CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=len(weights["encoder.layers.0.mlp.fc1.weight"]),
        num_hidden_layers=sum(name.endswith(".mlp.fc1.weight") for name in weights),
        num_attention_heads=heads,
        max_position_embeddings=length,
        hidden_act="gelu",
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=0,
    )
    model: Any = CLIPTextModel(config)
    # Older versions of transformers have one more level of names.
    level = "text_model." if any(name.startswith("text_model.") for name in model.state_dict()) else ""
    model.load_state_dict({f"{level}{name}": value.float() for name, value in weights.items()})
    tokens = torch.zeros(1, length, dtype=torch.int64)
    tokens[0, :2] = torch.tensor([words - 2, words - 1])
    context: Tensor = model.float().eval()(tokens).last_hidden_state
    return context


def _shapes(tower: Mapping[str, Tensor], layers: int) -> dict[str, tuple[int, ...]]:
    words, width = tower["token_embedding.weight"].shape
    length = len(tower.get("positional_embedding", ()))
    hidden = len(tower.get("transformer.resblocks.0.mlp.c_fc.bias", ()))
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (length, width),
        "token_embedding.weight": (words, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
    }
    for i in range(layers):
        block = f"transformer.resblocks.{i}"
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{block}.{norm}.weight": (width,), f"{block}.{norm}.bias": (width,)}
        matrices = {
            "attn.in_proj_": (3 * width, width),
            "attn.out_proj.": (width, width),
            "mlp.c_fc.": (hidden, width),
            "mlp.c_proj.": (width, hidden),
        }
        for name, (out, inputs) in matrices.items():
            shapes |= {f"{block}.{name}weight": (out, inputs), f"{block}.{name}bias": (out,)}
    return shapes
