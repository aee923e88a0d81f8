"""Distances in network features: real ST-LPIPS; LPIPS and DISTS with random weights in torch hub's folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from shared.codec.interfaces import Pixels
from shared.errors import PinholeError
from sim.photographs import PHOTOGRAPHS
from training.data import to_tensor
from training.evaluation.metrics import PictureMetric, load_metrics, perceptual
from training.perceptual import StLpips, measure


@pytest.fixture(scope="module")
def coffee() -> Pixels:
    return next(p for p in PHOTOGRAPHS if p.file == "coffee.png").pixels()[:200, :260]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def noisy(pixels: Pixels, scale: float) -> Pixels:
    noise = np.random.default_rng(0).normal(0, 1, pixels.shape)
    return np.clip(pixels + noise * scale, 0, 255).astype(np.uint8)


def random_weights(name: str, file: Path) -> None:
    """Write a checkpoint of the real shapes; the classifier, which no metric looks at, is one stored number."""
    with torch.device("meta"):
        shapes = getattr(torchvision.models, name)().state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, value in shapes.items():
        if key.startswith("features.") and value.ndim == 4:
            fan = value[0].numel()
            state[key] = torch.randn(value.shape, generator=generator) * (2.0 / fan) ** 0.5
        else:
            state[key] = torch.zeros(1).expand(value.shape)
    torch.save(state, file)


def only(name: str) -> PictureMetric:
    loaded = load_metrics([name])
    assert loaded.unavailable == []
    (metric,) = loaded.pictures
    return metric


def check_order(metric: PictureMetric, picture: Pixels, rounding: float = 1e-5) -> None:
    values = [metric.measure(picture, noisy(picture, scale)) for scale in (0, 8, 40)]
    assert values[0] == pytest.approx(0.0, abs=rounding)
    assert None not in values
    assert values == sorted(values, key=lambda v: v or 0.0)
    assert (values[1] or 0.0) > 10 * rounding
    assert metric.measure(picture, noisy(picture, 40)) == values[2]


@pytest.mark.parametrize(("name", "trunk"), [("ST-LPIPS", "vgg"), ("ST-LPIPS (Alex)", "alex")])
def test_st_lpips_is_that_of_its_package(name: str, trunk: str, coffee: Pixels) -> None:
    metric = only(name)
    first, second = coffee[:128, :160], coffee[40:168, 60:220]
    check_order(metric, first)
    reference = StLpips("vgg" if trunk == "vgg" else "alex")
    for one, other in ((first, second), (second, first), (first, second)):
        expected = measure(reference, to_tensor(one[None]), to_tensor(other[None]))
        assert metric.measure(one, other) == pytest.approx(expected, rel=1e-5)


def test_tiles_come_to_the_same_as_the_whole(coffee: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = only("ST-LPIPS (Alex)")
    large = np.tile(coffee, (2, 3, 1))
    whole = metric.measure(large, noisy(large, 20))
    sizes = []
    monkeypatch.setattr(perceptual, "LARGEST_WHOLE", 1000)
    monkeypatch.setattr(perceptual, "CORE", 256)
    network = metric._network  # type: ignore[attr-defined]
    handle = network.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[2:]))
    tiled = metric.measure(large, noisy(large, 20))
    handle.remove()
    assert len(sizes) == 2 * 4
    assert max(max(size) for size in sizes) <= 256 + 2 * perceptual.HALO
    assert tiled == pytest.approx(whole, rel=2e-3)
    assert tiled != whole
    monkeypatch.undo()
    assert metric.measure(large, noisy(large, 20)) == whole


def test_many_decodes_of_one_original_look_at_it_once(coffee: Pixels) -> None:
    metric = only("ST-LPIPS (Alex)")
    seen = []
    trunk = metric._network.net.trunk  # type: ignore[attr-defined]
    trunk.slice1[0].register_forward_pre_hook(lambda module, inputs: seen.append(1))
    values = [metric.measure(coffee, noisy(coffee, scale)) for scale in (5, 10, 15)]
    assert len(seen) == 1 + 3
    other = noisy(coffee, 5)
    backwards = metric.measure(other, coffee)
    assert len(seen) == 1 + 3 + 2
    assert backwards == pytest.approx(values[0], rel=1e-5)


def test_lpips_with_weights_from_the_hub_folder(hub: Path, coffee: Pixels) -> None:
    random_weights("alexnet", hub / Path(torchvision.models.AlexNet_Weights.DEFAULT.url).name)
    metric = only("lpips")
    check_order(metric, coffee)
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

    other = noisy(coffee, 20)
    expected = learned_perceptual_image_patch_similarity(
        to_tensor(other[None]), to_tensor(coffee[None]), net_type="alex"
    )
    assert metric.measure(coffee, other) == pytest.approx(float(expected), rel=1e-5)


def test_dists_with_weights_from_the_hub_folder(hub: Path, coffee: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    random_weights("vgg16", hub / Path(torchvision.models.VGG16_Weights.DEFAULT.url).name)
    metric = only("DISTS")
    check_order(metric, coffee[:128, :128], rounding=1e-4)
    monkeypatch.setattr(perceptual, "LARGEST_DISTS", 128 * 128)
    assert metric.measure(coffee[:128, :129], coffee[:128, :129]) is None


def test_a_damaged_file_is_named_and_the_metric_left_out(hub: Path) -> None:
    file = hub / Path(torchvision.models.AlexNet_Weights.DEFAULT.url).name
    torch.save({"features.0.weight": torch.zeros(3)}, file)
    for data in (file.read_bytes(), b"", b"no weights at all"):
        file.write_bytes(data)
        loaded = load_metrics(["LPIPS", "PSNR"])
        assert [m.name for m in loaded.pictures] == ["PSNR"]
        (line,) = loaded.unavailable
        assert line.startswith("LPIPS left out: ")
        assert str(file) in line
        assert "delete the file" in line
        assert "\n" not in line


def test_sizes_that_cannot_be_measured(coffee: Pixels) -> None:
    metric = only("ST-LPIPS (Alex)")
    assert metric.measure(coffee[:63], coffee[:63]) is None
    assert metric.measure(coffee[:64, :64], coffee[:64, :64]) == 0.0
    with pytest.raises(PinholeError, match="compared"):
        metric.measure(coffee, coffee[1:])
