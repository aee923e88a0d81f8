"""Picture measures and the codecs that Pinhole is set beside."""

import io

import numpy as np
import pytest
from PIL import Image

from shared.codec.interfaces import Pixels
from shared.errors import PinholeError
from sim.baselines import CODECS, Codec, available, encode_at
from sim.metrics import bits_per_pixel, ms_ssim, psnr
from sim.photographs import PHOTOGRAPHS, folder


@pytest.fixture(scope="module")
def coffee() -> Pixels:
    return next(p for p in PHOTOGRAPHS if p.file == "coffee.png").pixels()


def test_psnr_of_a_known_error(coffee: Pixels) -> None:
    assert psnr(coffee, coffee) == float("inf")
    flat = np.full((170, 170, 3), 100, np.uint8)
    assert psnr(flat, flat + np.uint8(10)) == pytest.approx(10 * np.log10(255**2 / 100))


def test_ms_ssim_falls_with_damage_and_needs_five_scales(coffee: Pixels) -> None:
    noise = np.random.default_rng(0).normal(0, 1, coffee.shape)
    little, much = (np.clip(coffee + noise * scale, 0, 255).astype(np.uint8) for scale in (5, 50))
    values = [ms_ssim(coffee, p) for p in (coffee, little, much)]
    assert values[0] == pytest.approx(1.0)
    assert values == sorted(values, key=lambda v: -(v or 0))
    small = coffee[:160, :200]
    assert ms_ssim(small, small) is None


def test_pictures_of_different_size_are_not_compared(coffee: Pixels) -> None:
    with pytest.raises(PinholeError, match="compared"):
        psnr(coffee, coffee[1:])


def test_rate_counts_bits() -> None:
    assert bits_per_pixel(100, np.zeros((10, 20, 3), np.uint8)) == pytest.approx(4.0)


@pytest.mark.parametrize("codec", [codec for codec in CODECS if available(codec)])
def test_baseline_keeps_to_its_budget_and_says_what_it_did(codec: Codec, coffee: Pixels) -> None:
    roomy, tight = encode_at(coffee, codec, 8000), encode_at(coffee, codec, 900)
    assert roomy is not None
    assert tight is not None
    assert roomy.size <= 8000
    assert tight.size <= 900
    assert roomy.smallest_full_size is None
    assert roomy.note.startswith("full size, quality")
    assert tight.smallest_full_size is not None
    assert tight.smallest_full_size > 900
    assert f"{tight.smallest_full_size:,} bytes" in tight.note
    assert tight.coded_width < coffee.shape[1]
    assert roomy.pixels.shape == tight.pixels.shape == coffee.shape
    assert psnr(coffee, roomy.pixels) > psnr(coffee, tight.pixels) > 15


def test_full_size_baseline_takes_the_highest_quality_that_fits(coffee: Pixels) -> None:
    found = encode_at(coffee, "WebP", 8000)
    assert found is not None
    target = io.BytesIO()
    Image.fromarray(coffee).save(target, "WebP", quality=found.quality + 1, method=6)
    assert len(target.getvalue()) > 8000


def test_a_hopeless_budget_gives_nothing(coffee: Pixels) -> None:
    assert encode_at(coffee, "WebP", 20) is None


def test_every_photograph_is_there_and_attributed() -> None:
    attribution = (folder() / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for photograph in PHOTOGRAPHS:
        pixels = photograph.pixels()
        assert pixels.shape[2] == 3
        assert f"`{photograph.file}`" in attribution
        assert photograph.credit.split(",")[0] in attribution
    pictures = {p.name for p in folder().iterdir() if p.suffix in (".png", ".jpg")}
    assert pictures == {photograph.file for photograph in PHOTOGRAPHS}


def test_photographs_are_those_of_scikit_image() -> None:
    data = pytest.importorskip("skimage.data")
    for name in ("astronaut", "coffee", "chelsea"):
        ours = next(p for p in PHOTOGRAPHS if p.file == f"{name}.png").pixels()
        np.testing.assert_array_equal(ours, getattr(data, name)())
