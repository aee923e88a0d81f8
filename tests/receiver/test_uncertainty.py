import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from receiver.uncertainty import FULL_SCALE, Uncertainty, UncertaintyAccumulator, measure_uncertainty, seeds_for
from shared.codec.interfaces import Pixels
from shared.errors import PinholeError, UsageError


def decodes(count: int, height: int = 9, width: int = 13, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def accumulated(pictures: Pixels) -> Uncertainty:
    accumulator = UncertaintyAccumulator()
    for picture in pictures:
        accumulator.add(picture)
    return accumulator.result()


@given(count=st.integers(2, 9), height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_deviation_is_that_of_luma_over_the_decodes(count: int, height: int, width: int, seed: int) -> None:
    pictures = decodes(count, height, width, seed)
    result = accumulated(pictures)
    expected = (pictures @ np.array([0.2126, 0.7152, 0.0722])).std(0, ddof=1)
    np.testing.assert_allclose(result.deviation, expected, atol=1e-2)
    assert result.count == count
    assert result.level == pytest.approx(np.sqrt((expected**2).mean()), abs=1e-2)
    assert result.mean == pytest.approx(expected.mean(), abs=1e-2)


def test_equal_decodes_have_no_uncertainty_at_all() -> None:
    result = accumulated(np.repeat(decodes(1), 7, axis=0))
    assert result.deviation.max() == 0
    assert result.level == 0


def test_only_the_place_that_differs_is_marked() -> None:
    pictures = np.repeat(decodes(1, 20, 20), 3, axis=0)
    pictures[:, 5:8, 11:14] = np.array([10, 20, 30], np.uint8)[:, None, None, None]
    marked = accumulated(pictures).picture() > 0
    assert marked[5:8, 11:14].all()
    assert marked.sum() == 9


def test_result_does_not_depend_on_the_order_and_grows_as_decodes_come() -> None:
    pictures = decodes(5)
    np.testing.assert_allclose(accumulated(pictures).deviation, accumulated(pictures[::-1]).deviation, rtol=1e-4)
    accumulator = UncertaintyAccumulator()
    for number, picture in enumerate(pictures, 1):
        accumulator.add(picture)
        if number >= 2:
            np.testing.assert_array_equal(accumulator.result().deviation, accumulated(pictures[:number]).deviation)


def test_picture_of_many_rows_is_measured_like_its_parts() -> None:
    # Wider than a strip is, so that every row is a strip of its own.
    pictures = decodes(2, 3, (1 << 20) + 1)
    result = accumulated(pictures)
    np.testing.assert_array_equal(result.deviation[2], accumulated(pictures[:, 2:]).deviation[0])


def test_scale_of_the_map_is_fixed() -> None:
    deviation = np.array([[0, FULL_SCALE / 16, FULL_SCALE / 4, FULL_SCALE, 4 * FULL_SCALE]], np.float32)
    np.testing.assert_array_equal(Uncertainty(deviation, 2).picture(), [[0, 64, 128, 255, 255]])


def test_png_is_the_map_and_tells_scale_seeds_and_level() -> None:
    result = accumulated(decodes(3))
    with Image.open(io.BytesIO(result.png({"pinhole:sender": "0000abcd"}))) as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), result.picture())
        assert image.info["pinhole:uncertainty-white"] == "32 levels, square root scale"
        assert image.info["pinhole:uncertainty-seeds"] == "3"
        assert image.info["pinhole:uncertainty-level"] == f"{result.level:.3f} levels"
        assert image.info["pinhole:sender"] == "0000abcd"


@pytest.mark.parametrize("count", [0, 1])
def test_less_than_two_decodes_are_wrong_usage(count: int) -> None:
    accumulator = UncertaintyAccumulator()
    for picture in decodes(count):
        accumulator.add(picture)
    with pytest.raises(UsageError, match="give 2 or more"):
        accumulator.result()
    with pytest.raises(UsageError, match="give 2 or more"):
        measure_uncertainty(lambda seed: decodes(1)[0], 5, count)


@pytest.mark.parametrize("wrong", [np.zeros((9, 14, 3), np.uint8), np.zeros((9, 13), np.uint8), np.zeros((9, 13, 3))])
def test_decode_that_does_not_fit_is_refused_and_not_counted(wrong: Pixels) -> None:
    pictures = decodes(2)
    accumulator = UncertaintyAccumulator()
    accumulator.add(pictures[0])
    with pytest.raises(PinholeError, match="decode"):
        accumulator.add(wrong)
    accumulator.add(pictures[1])
    np.testing.assert_array_equal(accumulator.result().deviation, accumulated(pictures).deviation)


def test_measuring_decodes_once_for_every_seed() -> None:
    asked = []

    def decode(seed: int) -> Pixels:
        asked.append(seed)
        picture: Pixels = decodes(1, seed=seed)[0]
        return picture

    seeds = seeds_for(77, 4)
    expected = accumulated(np.stack([decodes(1, seed=seed)[0] for seed in seeds]))
    np.testing.assert_array_equal(measure_uncertainty(decode, 77, 4).deviation, expected.deviation)
    assert asked == seeds
    asked.clear()
    np.testing.assert_array_equal(
        measure_uncertainty(decode, 77, 4, first=decodes(1, seed=77)[0]).deviation, expected.deviation
    )
    assert asked == seeds[1:]


@given(seed=st.integers(-(2**70), 2**70), count=st.integers(0, 20))
def test_seeds_are_distinct_begin_with_the_own_and_do_not_change(seed: int, count: int) -> None:
    seeds = seeds_for(seed, count)
    assert len(set(seeds)) == len(seeds) == count
    assert all(0 <= one < 2**63 for one in seeds)
    assert seeds[:1] == [seed % 2**63][:count]
    assert seeds_for(seed, count + 3)[:count] == seeds


def test_neighbouring_pictures_share_no_seeds() -> None:
    seeds = [one for seed in range(100) for one in seeds_for(seed, 8)]
    assert len(set(seeds)) == len(seeds)


def test_seeds_are_the_same_in_every_version() -> None:
    assert seeds_for(1, 3) == [1, 2021340933837429789, 637987770806161565]
