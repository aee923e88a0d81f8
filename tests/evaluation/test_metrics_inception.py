"""FID and KID: which patches are taken, and what is made of their features."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_fidelity import feature_extractor_inceptionv3 as fidelity

from shared.codec.interfaces import Pixels
from shared.errors import CorruptDataError, PinholeError
from sim.photographs import PHOTOGRAPHS
from training.evaluation.metrics import inception, load_metrics
from training.evaluation.metrics.inception import Floats, InceptionDistances, LastRemembered
from training.evaluation.metrics.patches import patches


def test_a_kodak_picture_gives_six_and_two_patches() -> None:
    assert len(list(patches(np.zeros((512, 768, 3), np.uint8)))) == 6 + 2
    assert len(list(patches(np.zeros((768, 768, 3), np.uint8)))) == 9 + 4
    assert len(list(patches(np.zeros((256, 383, 3), np.uint8)))) == 1
    assert list(patches(np.zeros((255, 900, 3), np.uint8))) == []


@given(height=st.integers(0, 90), width=st.integers(0, 90), half=st.integers(2, 15))
def test_patches_lie_on_two_grids(height: int, width: int, half: int) -> None:
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows, columns, rows * 0], axis=2).astype(np.uint8)
    size = 2 * half
    corners = []
    for patch in patches(pixels, size):
        top, left = int(patch[0, 0, 0]), int(patch[0, 0, 1])
        np.testing.assert_array_equal(patch, pixels[top : top + size, left : left + size])
        corners.append((top, left))
    assert all((top % size, left % size) in {(0, 0), (half, half)} for top, left in corners)
    assert len(set(corners)) == len(corners)
    shifted = (max(0, height - half) // size) * (max(0, width - half) // size)
    assert len(corners) == (height // size) * (width // size) + shifted


def mean_colours(pixels: Pixels) -> Floats:
    """A stand-in for a network: three features of each 256-pixel patch."""
    return np.array([p.mean(axis=(0, 1)) for p in patches(pixels)], np.float32).reshape(-1, 3)


def pictures(count: int, seed: int = 0) -> list[Pixels]:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(20, 200, (count, 4, 6, 3), np.uint8)
    return [np.kron(c, np.ones((128, 128, 1), np.uint8)) for c in coarse]


def distances() -> InceptionDistances:
    return InceptionDistances(("FID", "KID"), mean_colours, mean_colours)


def test_a_shift_of_all_features_is_its_square_in_fid() -> None:
    metric = distances()
    for picture in pictures(4):
        metric.update(picture, picture + np.uint8(40))
    figures = metric.compute()
    assert figures["FID"] == pytest.approx(3 * 40**2, rel=1e-5)
    assert figures["KID"] > 0
    assert "32 patches" in metric.note
    assert "biased" in metric.note


def test_equal_sets_are_at_no_distance_and_order_does_not_matter() -> None:
    there, back = distances(), distances()
    for picture in pictures(4):
        there.update(picture, picture)
    for picture in reversed(pictures(4)):
        back.update(picture, picture[::-1, ::-1])
    figures = there.compute()
    assert figures["FID"] == pytest.approx(0.0, abs=1e-6)
    assert figures["KID"] <= 0.0  # unbiased, so equal sets come out a little below nothing
    assert back.compute()["FID"] == pytest.approx(0.0, abs=1e-6)


def test_each_curve_point_counts_for_itself_and_goes_on_from_its_state() -> None:
    first, second, third, fourth = pictures(4)
    whole = distances()
    whole.update(first, second)
    half = whole.fresh()
    assert half.compute() == {}
    assert half.state()["original"].shape[0] == 0
    whole.update(third, fourth)
    half.update(first, second)
    resumed = half.fresh()
    resumed.restore(half.state())
    resumed.update(third, fourth)
    assert resumed.compute() == whole.compute()
    with pytest.raises(CorruptDataError, match="damaged"):
        resumed.restore({"original": np.zeros((2, 3))})


def test_kid_over_many_patches_is_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "_KID_SUBSETS", 5)
    generator = np.random.default_rng(3)
    many = {side: generator.normal(0, 1, (1100, 3)).astype(np.float32) for side in ("original", "decoded")}
    metric = InceptionDistances(("KID",), mean_colours, mean_colours)
    metric.restore(many)
    figures = metric.compute()
    assert metric.compute() == figures
    assert list(figures) == ["KID"]
    assert abs(figures["KID"]) < 0.05


def test_pictures_without_patches_and_of_other_shapes() -> None:
    metric = distances()
    small = np.zeros((100, 300, 3), np.uint8)
    metric.update(small, small)
    assert metric.compute() == {}
    with pytest.raises(PinholeError, match="compared"):
        metric.update(small, small[1:])


def test_the_last_picture_is_described_once() -> None:
    calls = []

    def describe(pixels: Pixels) -> Floats:
        calls.append(pixels.shape)
        return mean_colours(pixels)

    remembered = LastRemembered(describe)
    first, second = pictures(2)
    for picture in (first, first.copy(), second, first):
        np.testing.assert_array_equal(remembered(picture), mean_colours(picture))
    assert len(calls) == 3
    first[0, 0, 0] ^= 1  # the same array with other values is another picture
    remembered(first)
    assert len(calls) == 4


def test_the_real_network_with_weights_from_the_hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({}, tmp_path / "empty.pth")
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        network = fidelity.FeatureExtractorInceptionV3(
            "random", ["2048"], feature_extractor_weights_path=str(tmp_path / "empty.pth")
        )
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)  # or nothing arrives at the end
    torch.save({k: v.half() for k, v in network.state_dict().items()}, folder / Path(fidelity.URL_INCEPTION_V3).name)
    loaded = load_metrics(["FID", "KID"])
    assert loaded.unavailable == []
    (metric,) = loaded.sets
    coffee = next(p for p in PHOTOGRAPHS if p.file == "coffee.png").pixels()[:384, :512]
    noise = np.random.default_rng(0).normal(0, 1, coffee.shape)
    found = []
    for scale in (0.0, 30.0):
        point = metric.fresh()
        point.update(coffee, np.clip(coffee + noise * scale, 0, 255).astype(np.uint8))
        found.append(point.compute())
    assert metric.compute() == {}
    assert found[0]["FID"] == pytest.approx(0.0, abs=1e-2 * found[1]["FID"])
    assert found[0]["FID"] < found[1]["FID"]
    assert found[0]["KID"] < found[1]["KID"]
