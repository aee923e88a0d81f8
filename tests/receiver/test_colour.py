import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from receiver.colour import HALO, LEVELS, METHODS, correct_colour
from shared.codec.interfaces import Pixels
from shared.errors import PinholeError, UsageError

BOTH = ("wavelet", "adain")


def textured(height: int, width: int, seed: int = 0, low: int = 60, high: int = 180) -> Pixels:
    """A smooth colour gradient with fine detail on it, away from black and white."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    smooth = (np.sin(rows / 23 + seed)[..., None] + np.cos(columns[..., None] / 31 + np.arange(3))) / 4 + 0.5
    values = low + (high - low) * (0.8 * smooth + 0.2 * rng.random((height, width, 3)))
    pixels: Pixels = np.rint(values).astype(np.uint8)
    return pixels


def slow_low_pass(pixels: Pixels) -> NDArray[np.float64]:
    """The definition in float64: every level on a picture mirrored anew."""
    values: NDArray[np.float64] = pixels.astype(np.float64)
    for axis in (0, 1):
        for level in range(LEVELS):
            step = 2**level
            width = [(step, step) if number == axis else (0, 0) for number in range(3)]
            padded = np.pad(values, width, mode="symmetric")
            before, middle, after = (
                np.take(padded, np.arange(first, first + values.shape[axis]), axis) for first in (0, step, 2 * step)
            )
            values = (before + 2 * middle + after) / 4
    return values


def detail(pixels: Pixels) -> NDArray[np.float64]:
    difference: NDArray[np.float64] = pixels - slow_low_pass(pixels)
    return difference


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (3, 2), (40, 70)])
def test_picture_like_its_preview_stays_as_it_is(method: str, size: tuple[int, int]) -> None:
    picture = textured(*size)
    np.testing.assert_array_equal(correct_colour(picture, picture.copy(), method), picture)


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (90, 64)])
def test_constant_shift_of_every_channel_is_taken_away(method: str, size: tuple[int, int]) -> None:
    picture = textured(*size)
    shifted = (picture + np.array([17, -23, 9])).astype(np.uint8)
    np.testing.assert_array_equal(correct_colour(shifted, picture, method), picture)


def test_none_returns_the_picture_itself() -> None:
    picture = textured(8, 8)
    assert correct_colour(picture, textured(8, 8, seed=1), "none") is picture


def test_wavelet_is_detail_of_the_picture_on_the_low_pass_of_the_preview() -> None:
    picture, preview = textured(75, 93, seed=1), textured(75, 93, seed=2)
    expected = picture - slow_low_pass(picture) + slow_low_pass(preview)
    corrected = correct_colour(picture, preview, "wavelet")
    assert np.abs(corrected - expected.clip(0, 255)).max() <= 0.5 + 1e-9


def test_wavelet_keeps_detail_and_takes_a_regional_tint_away() -> None:
    truth = textured(160, 160)
    tint = np.zeros((160, 160, 3))
    tint[:, 80:, 0] = 25
    picture = (truth + tint).astype(np.uint8)
    coarse_preview = (truth // 16 * 16 + 8).astype(np.uint8)
    corrected = correct_colour(picture, coarse_preview, "wavelet")
    # Away from the border of the tint, which is an edge and so is part of the detail.
    kept = np.corrcoef(detail(truth)[:, 120:].ravel(), detail(corrected)[:, 120:].ravel())[0, 1]
    assert kept > 0.99
    before, after = (np.abs(pixels.astype(float) - truth)[:, 120:].mean() for pixels in (picture, corrected))
    assert after < 0.1 * before


def test_adain_gives_every_channel_the_mean_and_deviation_of_the_preview() -> None:
    picture, preview = textured(64, 80, seed=1, low=90, high=140), textured(64, 80, seed=2, low=40, high=200)
    corrected = correct_colour(picture, preview, "adain")
    np.testing.assert_allclose(corrected.mean((0, 1)), preview.mean((0, 1)), atol=0.3)
    np.testing.assert_allclose(corrected.std((0, 1)), preview.std((0, 1)), atol=0.3)
    # An increasing table per channel: nothing but contrast and brightness changes.
    assert np.corrcoef(picture[..., 0].ravel(), corrected[..., 0].ravel())[0, 1] > 0.999


def test_adain_of_a_flat_picture_is_the_mean_of_the_preview() -> None:
    preview = textured(20, 20)
    corrected = correct_colour(np.full((20, 20, 3), 7, np.uint8), preview, "adain")
    np.testing.assert_array_equal(corrected, np.broadcast_to(np.rint(preview.mean((0, 1))), corrected.shape))


@given(
    height=st.integers(1, 200),
    width=st.integers(1, 40),
    strip=st.integers(1, 30_000),
    method=st.sampled_from(BOTH),
    seed=st.integers(0, 2**32 - 1),
)
def test_strips_give_the_picture_corrected_in_one_piece(
    height: int, width: int, strip: int, method: str, seed: int
) -> None:
    picture, preview = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    whole = correct_colour(picture, preview, method, strip_samples=1 << 40)
    np.testing.assert_array_equal(correct_colour(picture, preview, method, strip_samples=strip), whole)


def test_black_against_white_neither_overflows_nor_wraps() -> None:
    black, white = np.zeros((HALO, 2 * HALO, 3), np.uint8), np.full((HALO, 2 * HALO, 3), 255, np.uint8)
    for method in BOTH:
        assert correct_colour(black, white, method).min() == 255
        assert correct_colour(white, black, method).max() == 0


def test_inputs_are_left_alone() -> None:
    picture, preview = textured(30, 30, seed=1), textured(30, 30, seed=2)
    copies = picture.copy(), preview.copy()
    for method in BOTH:
        correct_colour(picture, preview, method)
    np.testing.assert_array_equal(picture, copies[0])
    np.testing.assert_array_equal(preview, copies[1])


def test_unknown_method_is_wrong_usage_and_names_the_choice() -> None:
    with pytest.raises(UsageError, match="'sepia' is not known; choose from none, wavelet, adain"):
        correct_colour(textured(4, 4), textured(4, 4), "sepia")


@pytest.mark.parametrize(
    ("picture", "preview"),
    [
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)),
        (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 3), np.float32)),
        (np.zeros((0, 4, 3), np.uint8), np.zeros((0, 4, 3), np.uint8)),
    ],
)
def test_what_are_not_two_rgb_pictures_of_one_shape_is_refused(picture: Pixels, preview: Pixels) -> None:
    with pytest.raises(PinholeError, match="picture"):
        correct_colour(picture, preview, "wavelet")
