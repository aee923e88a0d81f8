from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from pinhole.bundle_command import _training
from shared.errors import PinholeError
from tests.training.official_stand_ins import CONTROL_CONFIG, LFGCM_CONFIG, OVERRIDES, save_lc_checkpoint
from tests.training.paper_stand_ins import save_photographs
from training.checkpoints import save_checkpoint
from training.importing import probe
from training.importing import run as importing
from training.importing.own_training import official_layout, own_checkpoint
from training.importing.photographs import cut_crops
from training.importing.rates import RateSource, load_rate, rate_sources
from training.official import build_control, build_lfgcm


def test_a_missing_package_names_the_extra() -> None:
    with (
        pytest.raises(PinholeError, match=r"bundle import-official needs diffusers: install pinhole-link\[train\]"),
        _training("import-official"),
    ):
        raise ModuleNotFoundError(name="diffusers")
    with pytest.raises(ModuleNotFoundError), _training("import-official"):
        raise ModuleNotFoundError(name="training.importing.nothing")


def test_rates_are_named_by_argument_folder_or_file() -> None:
    sources = rate_sources(["x/1_2_4/lc.ckpt", "weights/fine.ckpt", "best=a/lc.ckpt", "odd=name/1_2_8.ckpt"])
    assert [source.name for source in sources] == ["1_2_4", "fine", "best", "odd"]
    assert sources[3].path == Path("name/1_2_8.ckpt")
    for wrong, said in ((["a/x.ckpt", "b/x.ckpt"], "would be called x"), ([], "add --lc"), (["ä ö.ckpt"], "no name")):
        with pytest.raises(Exception, match=said):
            rate_sources(wrong)


@pytest.mark.parametrize("count", range(1, 13))
def test_every_slice_has_its_layer(count: int) -> None:
    layers = importing.layer_slices((8,) * count)
    assert sum(layers) == count
    assert len(layers) == min(4, count)
    assert sorted(layers, reverse=True) == list(layers)
    assert max(layers) - min(layers) <= 1
    assert importing.layer_slices((8, 8, 8, 8, 16, 16, 32, 32, 96, 96)) == (4, 2, 2, 2)


def test_crops_are_the_same_again_and_of_other_photographs(tmp_path: Path) -> None:
    folder = save_photographs(tmp_path / "photographs", 8, 320)
    crops, again = cut_crops(folder, 12), cut_crops(folder, 12)
    assert (len(crops.fitted), len(crops.measured), crops.photographs) == (9, 3, 8)
    pairs = zip((*crops.fitted, *crops.measured), (*again.fitted, *again.measured), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)
    sides = {crop.shape[0] for crop in (*crops.fitted, *crops.measured)}
    assert sides == {256, 320}
    alone = cut_crops(save_photographs(tmp_path / "one", 1, 256), 2)
    assert (len(alone.fitted), len(alone.measured), alone.photographs) == (1, 1, 1)


class Echo(torch.nn.Module):
    """Gives its input times a factor for a noise estimate."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.config = factor, {"in_channels": 4}

    def forward(self, x: Tensor, *_: Any) -> Any:
        class Output(NamedTuple):
            sample: Tensor

        return Output(x * self.factor)


@pytest.mark.parametrize(("factor", "correlation"), [(0.9, 1.0), (-0.1, -1.0), (0.0, 0.0)])
def test_the_probe_tells_a_noise_estimate(monkeypatch: pytest.MonkeyPatch, factor: float, correlation: float) -> None:
    monkeypatch.setattr(probe, "meta_unet", lambda config: Echo(factor))
    assert probe.noise_correlation({}, {}, torch.zeros(1, 5, 12)) == pytest.approx(correlation, abs=1e-4)


def test_a_run_of_our_own_training_is_a_rate_too(tmp_path: Path) -> None:
    torch.manual_seed(4)
    lfgcm = build_lfgcm(LFGCM_CONFIG)
    unet, control = build_control(CONTROL_CONFIG)
    for parameter in control.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    weights = {f"lfgcm.{name}": value for name, value in lfgcm.state_dict().items()}
    weights |= {f"control.{name}": value for name, value in control.state_dict().items()}
    weights["context"] = torch.zeros(1, 2, 3)
    run = tmp_path / "1_2_8"
    run.mkdir()
    save_checkpoint(run, {"stage": "paper_codec", "model": {}, "average": weights, "step": 3})
    (source,) = rate_sources([str(run)])
    assert source.name == "1_2_8"
    for path in (run, run / "checkpoint.pt"):
        loaded = load_rate(RateSource("x", path), unet, OVERRIDES)
        for module, expected in ((loaded.lfgcm, lfgcm), (loaded.control, control)):
            assert module.state_dict().keys() == expected.state_dict().keys()
            assert all(torch.equal(value, expected.state_dict()[name]) for name, value in module.state_dict().items())
    weights["lfgcm.analysis.project.bias"] = torch.full((LFGCM_CONFIG["M"],), torch.nan)
    save_checkpoint(run, {"stage": "paper_codec", "average": weights})
    with pytest.raises(PinholeError, match=r"1_2_8: .*lfgcm\.analysis\.project\.bias holds NaN"):
        load_rate(source, unet, OVERRIDES)
    del weights["lfgcm.analysis.project.bias"]
    with pytest.raises(PinholeError, match=r"missing lfgcm\.analysis\.project\.bias"):
        official_layout(weights | {}, unet)
    with pytest.raises(PinholeError, match=r"missing .*; unknown control\.surprise"):
        official_layout(weights | {"control.surprise": torch.zeros(1)}, unet)


def test_other_files_are_no_runs_of_our_own(tmp_path: Path) -> None:
    assert own_checkpoint(save_lc_checkpoint(tmp_path / "lc.ckpt")) is None
    assert own_checkpoint(tmp_path / "nothing.pt") is None
    assert own_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, {"stage": "codec", "average": {}})
    assert own_checkpoint(tmp_path) is None
