"""The count of what training keeps in memory, on the stand-in."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

import training
from tests.training.paper_stand_ins import CONTEXT_WIDTH, SMALL_LFGCM, save_stable_diffusion
from training.config import Config
from training.paper.footprint import Footprint, main, measure
from training.paper.model import PaperCodec
from training.paper.objectives import bits_per_pixel, noise_error
from training.paper.stable_diffusion import load_stable_diffusion
from training.run_stage import read_config

CONFIG = Path(training.__file__).parent / "configs" / "sd21" / "1_2_1.toml"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = save_stable_diffusion(tmp_path_factory.mktemp("sd"))
    lines = [f"model.lfgcm.{name}={value}" for name, value in SMALL_LFGCM.items()]
    lines += [f'model.stable_diffusion="{folder}"', "model.control_ratio=0.5", "data.batch=1", "data.crop=64"]
    return read_config(CONFIG, lines)


def change(config: Config, batch: int = 1, recompute: bool = False) -> Footprint:
    model = dataclasses.replace(config.settings.model, recompute=recompute)
    settings = dataclasses.replace(config.settings, model=model)
    data = dataclasses.replace(config.data, batch=batch)
    return measure(dataclasses.replace(config, settings=settings, data=data))


def test_the_count_is_that_of_a_real_step(config: Config) -> None:
    counted = change(config, batch=2)
    base = load_stable_diffusion(config.settings.model.stable_diffusion)
    model = PaperCodec(config.settings.model, base.unet, torch.zeros(1, 77, CONTEXT_WIDTH)).train()
    assert counted.parameters == sum(p.numel() for p in model.parameters())
    assert counted.frozen == 4 * sum(p.numel() for p in base.parameters())
    assert (counted.trained, counted.optimiser) == (8 * counted.parameters, 12 * counted.parameters)
    weights = {t.untyped_storage().data_ptr() for t in (*base.parameters(), *model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    picture, latent = torch.rand(2, 3, 64, 64), torch.randn(2, 4, 8, 8)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.lfgcm(picture, latent)
        t = torch.tensor([3, 700])
        error = noise_error(model.noise_model(base.unet), latent, output.content, t, torch.randn_like(latent))
        loss = error + (output.content - latent).square().mean() + bits_per_pixel(output.likelihoods, picture)
    assert loss.requires_grad
    real = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)
    assert counted.activations == pytest.approx(real, rel=0.05)


def test_more_pictures_keep_more_and_recomputing_keeps_less(config: Config) -> None:
    one, three, again = change(config), change(config, batch=3), change(config, recompute=True)
    assert one.total == one.frozen + one.trained + one.optimiser + one.activations
    # Some tensors do not shrink with the batch, and allocations are rounded up.
    assert 2.5 < three.activations / one.activations < 3.1
    assert again.activations < 0.8 * one.activations


def test_the_command_prints_it(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = config.settings.model.stable_diffusion
    overrides = [f"model.lfgcm.{name}={value}" for name, value in SMALL_LFGCM.items()]
    overrides += [f'model.stable_diffusion="{folder}"', "data.crop=64"]
    monkeypatch.setattr("sys.argv", ["footprint", str(CONFIG), *(a for o in overrides for a in ("--set", o))])
    main()
    shown = capsys.readouterr().out
    assert "million trained parameters" in shown
    assert shown.count("GiB") == 5
