"""Loading Stable Diffusion's frozen parts: what comes back, and what is said when something is wrong."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._subclasses import FakeTensorMode

from shared.codec.nets.lfgcm import LfgcmConfig
from shared.errors import PinholeError
from tests.training.paper_stand_ins import CONTEXT_WIDTH, TOKENS, save_stable_diffusion, save_text_encoder
from training.paper import prompt
from training.paper.model import PaperCodec
from training.paper.settings import LossSettings, ModelSettings
from training.paper.stable_diffusion import build_stable_diffusion, load_stable_diffusion


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("sd"))


def change(folder: Path, file: str, **values: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_frozen_parts_encode_and_decode(folder: Path) -> None:
    base = load_stable_diffusion(str(folder)).train()
    assert not base.unet.training
    assert not any(p.requires_grad for p in base.parameters())
    picture = torch.rand(1, 3, 64, 96) * 2 - 1
    mean = base.encode(picture, sample=False)
    assert mean.shape == (1, 4, 8, 12)
    torch.testing.assert_close(mean, 0.5 * base.vae.encode(picture).latent_dist.mean)
    assert torch.equal(mean, base.encode(picture, sample=False))
    assert not torch.equal(base.encode(picture, sample=True), base.encode(picture, sample=True))
    latent = mean.clone().requires_grad_()
    decoded = base.decode(latent)
    assert decoded.shape == picture.shape
    torch.testing.assert_close(decoded.detach(), base.vae.decode(mean / 0.5).sample)
    assert torch.autograd.grad(decoded.sum(), latent)[0].abs().max() > 0


def test_configs_alone_build_the_same_shapes(folder: Path) -> None:
    loaded = load_stable_diffusion(str(folder)).state_dict()
    with FakeTensorMode():
        built = build_stable_diffusion(str(folder)).state_dict()
    assert {name: value.shape for name, value in built.items()} == {n: v.shape for n, v in loaded.items()}


def test_a_folder_without_parts_is_named(tmp_path: Path) -> None:
    with pytest.raises(PinholeError, match=r"cannot load scheduler/ of .*set model.stable_diffusion"):
        load_stable_diffusion(str(tmp_path))
    save_stable_diffusion(tmp_path)
    (tmp_path / "unet" / "config.json").unlink()
    with pytest.raises(PinholeError, match="cannot load unet/ of"):
        load_stable_diffusion(str(tmp_path))


def test_a_unet_that_predicts_something_else_is_refused(tmp_path: Path) -> None:
    save_stable_diffusion(tmp_path)
    change(tmp_path, "scheduler/scheduler_config.json", prediction_type="v_prediction")
    with pytest.raises(PinholeError, match=r"prediction_type is v_prediction, but must be epsilon"):
        load_stable_diffusion(str(tmp_path))
    change(tmp_path, "scheduler/scheduler_config.json", prediction_type="epsilon", beta_end=0.02)
    with pytest.raises(PinholeError, match=r"beta_end is 0.02, but must be 0.012"):
        load_stable_diffusion(str(tmp_path))


def test_the_prompt_comes_from_its_file(folder: Path, tmp_path: Path) -> None:
    stored = load_file(folder / prompt.FILE)["context"]
    assert torch.equal(prompt.empty_prompt(str(folder), "", CONTEXT_WIDTH), stored)
    elsewhere = tmp_path / "prompt.safetensors"
    save_file({"context": (2 * stored).half()}, elsewhere)
    read = prompt.empty_prompt(str(folder), str(elsewhere), CONTEXT_WIDTH)
    assert read.dtype == torch.float32
    torch.testing.assert_close(read, 2 * stored, rtol=1e-3, atol=1e-3)
    with pytest.raises(PinholeError, match=r"is \(1, 5, 12\), but the UNet wants \(1, tokens, 1024\)"):
        prompt.empty_prompt(str(folder), "", 1024)
    with pytest.raises(PinholeError, match=r"nowhere.safetensors does not exist"):
        prompt.empty_prompt(str(folder), "nowhere.safetensors", CONTEXT_WIDTH)
    elsewhere.write_bytes(b"no tensors")
    with pytest.raises(PinholeError, match="is no safetensors file"):
        prompt.empty_prompt(str(folder), str(elsewhere), CONTEXT_WIDTH)
    save_file({"other": stored}, elsewhere)
    with pytest.raises(PinholeError, match="holds no 'context'"):
        prompt.empty_prompt(str(folder), str(elsewhere), CONTEXT_WIDTH)


def test_the_prompt_comes_from_the_text_encoder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    with pytest.raises(PinholeError, match=r"cannot load tokenizer/ and text_encoder/ .*empty_prompt.safetensors"):
        prompt.empty_prompt(str(tmp_path), "", CONTEXT_WIDTH)
    save_text_encoder(tmp_path)
    made = prompt.empty_prompt(str(tmp_path), "", CONTEXT_WIDTH)
    assert made.shape == (1, TOKENS, CONTEXT_WIDTH)
    # Start, end, then padding by "!": that is what Stable Diffusion 2.1 is given for an empty prompt.
    encoder = transformers.CLIPTextModel.from_pretrained(tmp_path / "text_encoder").eval()
    with torch.no_grad():
        expected = encoder(torch.tensor([[2, 3, 0, 0, 0]])).last_hidden_state
    torch.testing.assert_close(made, expected)
    monkeypatch.setattr("sys.argv", ["prompt", str(tmp_path)])
    prompt.main()
    assert prompt.FILE in capsys.readouterr().out
    torch.testing.assert_close(load_file(tmp_path / prompt.FILE)["context"], made)


def test_a_content_variable_of_other_channels_is_refused(folder: Path) -> None:
    base = load_stable_diffusion(str(folder))
    settings = ModelSettings(lfgcm=LfgcmConfig(content_channels=8))
    with pytest.raises(PinholeError, match=r"content_channels is 8, but the latent of .* has 4"):
        PaperCodec(settings, base.unet, torch.zeros(1, TOKENS, CONTEXT_WIDTH))


@pytest.mark.parametrize(
    ("settings", "values", "message"),
    [
        (ModelSettings, {"control_ratio": 1.5}, "control_ratio is 1.5"),
        (ModelSettings, {"head_channels": 0}, "head_channels is 0"),
        (LossSettings, {"alignment": -1.0}, "alignment is -1.0"),
        (LossSettings, {"start": 1000}, "start is 1000"),
        (LossSettings, {"steps": (400,)}, r"steps is \[400\]"),
    ],
)
def test_numbers_out_of_range_are_named(settings: type, values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**values)
