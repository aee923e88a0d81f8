"""NIQE: its fits against known distributions, its order on real photographs, and the model file."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy.special import gamma

from shared.codec.interfaces import Pixels
from shared.errors import CorruptDataError, PinholeError
from sim.photographs import PHOTOGRAPHS
from training.evaluation.metrics import fit_niqe, niqe


@pytest.fixture(scope="module")
def photographs() -> list[Pixels]:
    return [p.pixels() for p in PHOTOGRAPHS]


@pytest.fixture(scope="module")
def model() -> niqe.NiqeModel:
    return niqe.NiqeModel.load()


def blurred(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2)))


def noisy(pixels: Pixels) -> Pixels:
    noise = np.random.default_rng(0).normal(0, 20, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def as_jpeg(pixels: Pixels) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=8)
    return np.asarray(Image.open(buffer))


@settings(max_examples=30)
@given(shape=st.floats(0.8, 4.0), left=st.floats(0.3, 3.0), right=st.floats(0.3, 3.0), seed=st.integers(0, 1000))
def test_a_known_asymmetric_gaussian_is_found_again(shape: float, left: float, right: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    count = 200_000
    # Sides are as heavy as their scales; |x / scale| ** shape is gamma distributed.
    goes_left = generator.random(count) < left / (left + right)
    size = generator.gamma(1.0 / shape, 1.0, count) ** (1.0 / shape)
    values = np.where(goes_left, -left * size, right * size)
    found = [float(part[0]) for part in niqe.asymmetric_gaussian(values[None])]
    assert found == pytest.approx([shape, left, right], rel=0.15)


def test_shape_2_is_the_normal_distribution() -> None:
    values = np.random.default_rng(1).normal(0.0, 1.5, (1, 400_000))
    shape, left, right = niqe.asymmetric_gaussian(values)
    assert shape[0] == pytest.approx(2.0, abs=0.05)
    # The scale of the generalised form is the deviation times sqrt(gamma(1/2) / gamma(3/2)) = sqrt 2.
    assert left[0] == pytest.approx(1.5 * np.sqrt(gamma(0.5) / gamma(1.5)), rel=0.02)
    assert right[0] == pytest.approx(left[0], rel=0.02)


def test_normalising_takes_away_mean_and_contrast() -> None:
    grey = np.random.default_rng(2).uniform(0, 100, (120, 130))
    normal, deviation = niqe.normalise(grey)
    moved, other = niqe.normalise(grey + 77.0)
    np.testing.assert_allclose(moved, normal, atol=1e-9)
    np.testing.assert_allclose(other, deviation, atol=1e-9)
    # By hand in one place, with the full 7 x 7 window.
    axis = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    window = np.outer(axis, axis) / axis.sum() ** 2
    piece = grey[47:54, 57:64]
    mean = (window * piece).sum()
    expected = np.sqrt((window * (piece - mean) ** 2).sum())
    assert deviation[50, 60] == pytest.approx(expected)
    assert normal[50, 60] == pytest.approx((grey[50, 60] - mean) / (expected + 1))


def test_only_whole_textured_patches_count(photographs: list[Pixels]) -> None:
    grey = niqe.luminance(photographs[0])[:300, :400]
    features, sharpness = niqe.patch_features(grey)
    assert features.shape == (3 * 4, niqe.FEATURES)
    assert sharpness.shape == (12,)
    again, _ = niqe.patch_features(grey[:288, :384])
    np.testing.assert_array_equal(features, again)
    flat = grey.copy()
    flat[:120, :120] = 255.0
    assert len(niqe.patch_features(flat)[0]) == 11


def test_a_photograph_is_at_no_distance_from_its_own_model(
    photographs: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(niqe, "SHARPNESS", -1.0)
    own = niqe.fit([photographs[0], photographs[0]])
    assert niqe.niqe(photographs[0], own) == pytest.approx(0.0, abs=1e-6)
    assert (niqe.niqe(photographs[1], own) or 0.0) > 0.5


@pytest.mark.parametrize("damage", [blurred, noisy, as_jpeg])
def test_damage_is_less_natural_than_the_photograph(
    photographs: list[Pixels], model: niqe.NiqeModel, damage: Callable[[Pixels], Pixels]
) -> None:
    worse = [(niqe.niqe(damage(p), model) or 0.0) > (niqe.niqe(p, model) or 0.0) for p in photographs]
    assert sum(worse) > len(worse) / 2


def test_the_shipped_model_is_a_distribution(model: niqe.NiqeModel) -> None:
    assert model.patches > 1000
    assert model.photographs > 100
    np.testing.assert_allclose(model.covariance, model.covariance.T)
    assert np.linalg.eigvalsh(model.covariance).min() > 0


def test_pictures_too_small_or_flat_have_no_value(model: niqe.NiqeModel, photographs: list[Pixels]) -> None:
    assert niqe.niqe(photographs[0][:191], model) is None
    assert niqe.niqe(np.full((300, 300, 3), 9, np.uint8), model) is None
    assert niqe.niqe(photographs[0][:192, :192], model) is not None


def test_a_model_is_fitted_saved_and_read_again(
    tmp_path: Path, photographs: list[Pixels], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(niqe, "SHARPNESS", 0.1)
    folder, file = tmp_path / "photographs", tmp_path / "model.npz"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(photographs[0][number * 5 :]).save(folder / f"{number}.png")
    Image.fromarray(photographs[0][:100]).save(folder / "small.png")
    assert fit_niqe.main([str(folder), "-o", str(file), "--scale", "1"]) == 0
    fitted = niqe.NiqeModel.load(file)
    assert fitted.photographs == 3
    assert str(fitted.patches) in capsys.readouterr().out
    expected = niqe.fit([photographs[0][number * 5 :] for number in range(3)])
    np.testing.assert_array_equal(fitted.mean, expected.mean)
    np.testing.assert_array_equal(fitted.covariance, expected.covariance)


def test_what_cannot_be_fitted_or_read_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (400, 400)).save(tmp_path / "black.png")
    assert fit_niqe.main([str(tmp_path), "-o", str(tmp_path / "model.npz")]) == 1
    assert "only 0 sharp patches" in capsys.readouterr().err
    with pytest.raises(PinholeError, match="fit it again"):
        niqe.NiqeModel.load(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 nothing")
    (tmp_path / "text.npz").write_text("no model")
    np.savez(tmp_path / "other.npz", mean=np.zeros(3), covariance=np.eye(3), photographs=1, patches=2)
    for name in ("bad", "text", "other"):
        with pytest.raises(CorruptDataError, match=f"{name}.npz"):
            niqe.NiqeModel.load(tmp_path / f"{name}.npz")
