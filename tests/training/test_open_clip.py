"""The text tower of an original checkpoint against a forward pass of our own in OpenCLIP's terms."""

import builtins
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared.errors import PinholeError
from training.paper import open_clip

WORDS, LENGTH, WIDTH, HEADS, HIDDEN, LAYERS = 11, 9, 12, 3, 20, 3
OVERRIDES = {"text": {"num_attention_heads": HEADS}}
PREFIX = "cond_stage_model.model."


class Block(nn.Module):
    """OpenCLIP's residual attention block, attention by torch."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(WIDTH, HIDDEN), "c_proj": nn.Linear(HIDDEN, WIDTH)})

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        seen = self.ln_1(x)
        x = x + self.attn(seen, seen, seen, attn_mask=mask, need_weights=False)[0]
        out: Tensor = x + self.mlp["c_proj"](nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x))))
        return out


class Tower(nn.Module):
    """OpenCLIP's text tower as latent diffusion uses it: last but one layer, then the final norm."""

    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(WORDS, WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(Block() for _ in range(LAYERS))})
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.randn(WIDTH, WIDTH))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("attn_mask", torch.full((LENGTH, LENGTH), float("-inf")).triu(1))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token_embedding(tokens) + self.positional_embedding
        blocks: Any = self.transformer["resblocks"]
        for block in list(blocks)[:-1]:
            x = block(x, self.attn_mask)
        out: Tensor = self.ln_final(x)
        return out


@pytest.fixture(scope="module")
def tower() -> Tower:
    pytest.importorskip("transformers")
    torch.manual_seed(3)
    made = Tower()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    made.eval()
    return made


@pytest.fixture
def state(tower: Tower) -> dict[str, Tensor]:
    return {f"{PREFIX}{name}": value for name, value in tower.state_dict().items()}


def test_the_empty_prompt_is_what_open_clip_gives(tower: Tower, state: dict[str, Tensor]) -> None:
    tokens = torch.zeros(1, LENGTH, dtype=torch.int64)
    tokens[0, :2] = torch.tensor([WORDS - 2, WORDS - 1])
    with torch.no_grad():
        expected = tower(tokens)
    others = {"model.diffusion_model.out.0.bias": torch.zeros(3), "betas": torch.zeros(2)}
    made = open_clip.encode_empty_prompt(state | others, OVERRIDES)
    assert made.shape == (1, LENGTH, WIDTH)
    assert made.dtype == torch.float32
    assert not made.requires_grad
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)
    halved = open_clip.encode_empty_prompt({name: value.half() for name, value in state.items()}, OVERRIDES)
    torch.testing.assert_close(halved, expected, rtol=1e-2, atol=1e-2)
    # One head of 12 channels, as the width alone says, is another model.
    assert (open_clip.encode_empty_prompt(state) - expected).abs().max() > 1e-3


def test_the_last_layer_projection_and_temperature_do_not_count(state: dict[str, Tensor]) -> None:
    changed = {
        name: value + 1 if "resblocks.2" in name or "text_projection" in name or "logit_scale" in name else value
        for name, value in state.items()
    }
    made = [open_clip.encode_empty_prompt(s, OVERRIDES) for s in (state, changed)]
    assert torch.equal(*made)
    for name in ("text_projection", "logit_scale", "attn_mask"):
        del changed[f"{PREFIX}{name}"]
    assert torch.equal(made[0], open_clip.encode_empty_prompt(changed, OVERRIDES))


@pytest.mark.parametrize(
    "name",
    [
        "positional_embedding",
        "ln_final.bias",
        "transformer.resblocks.0.attn.in_proj_weight",
        "transformer.resblocks.1.mlp.c_fc.bias",
        "transformer.resblocks.2.ln_2.weight",
    ],
)
def test_what_is_missing_or_misshapen_is_named(state: dict[str, Tensor], name: str) -> None:
    damaged = dict(state)
    del damaged[f"{PREFIX}{name}"]
    with pytest.raises(PinholeError, match=rf"text encoder: keys .*1 missing \({name}\)"):
        open_clip.encode_empty_prompt(damaged, OVERRIDES)
    with pytest.raises(PinholeError, match=rf"of another shape \(.*{name} "):
        open_clip.encode_empty_prompt(state | {f"{PREFIX}{name}": torch.zeros(2, 7)}, OVERRIDES)


def test_what_is_unknown_or_no_tower_is_named(state: dict[str, Tensor]) -> None:
    with pytest.raises(PinholeError, match=r"1 unknown \(visual\.conv1\)"):
        open_clip.encode_empty_prompt(state | {f"{PREFIX}visual.conv1": torch.zeros(1)}, OVERRIDES)
    with pytest.raises(PinholeError, match="no OpenCLIP text tower"):
        open_clip.encode_empty_prompt({"cond_stage_model.transformer.x": torch.zeros(1)}, OVERRIDES)
    with pytest.raises(PinholeError, match="5 heads do not share 12 channels"):
        open_clip.encode_empty_prompt(state, {"text": {"num_attention_heads": 5}})
    assert open_clip.has_text_tower(state)
    assert not open_clip.has_text_tower({"betas": torch.zeros(1)})


def test_without_transformers_the_mend_is_named(state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    importing = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return importing(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PinholeError, match="pip install transformers"):
        open_clip.encode_empty_prompt(state, OVERRIDES)
