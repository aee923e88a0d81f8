import math

import numpy as np
import pytest

from benchmarks.seam_measures import GRID, seam_ratio, tile_borders, worst_crops
from receiver.decoder import TorchDecoder
from receiver.settings import DecoderSettings
from sender.encoder import OnnxEncoder
from shared.codec.bundle import find_bundle
from shared.codec.interfaces import Pixels
from sim.photographs import PHOTOGRAPHS


def noise(height: int = 128, width: int = 192) -> Pixels:
    return np.random.default_rng(4).integers(60, 180, (height, width, 3), dtype=np.uint8)


def test_borders_of_an_even_picture_are_like_any_other_place() -> None:
    assert seam_ratio(noise(), [64], [64, 128]) == pytest.approx(1, abs=0.05)


def test_a_step_at_a_border_raises_the_ratio() -> None:
    picture = noise()
    picture[64:] += 60
    assert seam_ratio(picture, [64], []) > 1.3
    assert seam_ratio(picture, [63], []) == pytest.approx(1, abs=0.1)
    assert seam_ratio(picture, [], [64]) == pytest.approx(1, abs=0.1)


def test_a_grid_that_is_everywhere_is_no_seam() -> None:
    rows = np.repeat(np.arange(12) % 2 * 40, 16).astype(np.uint8)
    picture = noise(192, 64) + rows[:, None, None]
    assert seam_ratio(picture, [96], []) > 1.1
    assert seam_ratio(picture, [96], [], period=16) == pytest.approx(1, abs=0.05)


def test_gradients_of_a_difference_may_be_negative_and_fractional() -> None:
    difference = np.zeros((8, 8, 3), np.float32)
    difference[4:] = -0.5
    difference[6:] = -0.25
    # A step of 0.5 at the border; of 0.25, once in six rows, elsewhere.
    assert seam_ratio(difference, [4], []) == pytest.approx(12)


def test_no_borders_and_flat_pictures_have_no_ratio() -> None:
    assert math.isnan(seam_ratio(noise(), [], []))
    assert math.isnan(seam_ratio(np.full((64, 64, 3), 7, np.uint8), [32], [32]))


def test_borders_are_the_edges_of_tiles_inside_the_picture() -> None:
    # 190 pixels are padded to 192, which is 24 positions: tiles 0-16 and 8-24.
    assert tile_borders(190, 16, 8) == [64, 128]
    assert tile_borders(128, 16, 8) == []


def test_crops_show_the_border_where_the_decodes_differ_most() -> None:
    whole = noise(512, 512)
    tiled = whole.copy()
    tiled[256:260, 400:404] += 9
    crops = worst_crops(whole, tiled, [256], [64], side=64)
    assert crops.shape == (64, 192, 3)
    assert crops[:, 128:].max() == 128 + 72


def test_the_pocket_bundle_decodes_in_tiles_without_seams() -> None:
    bundle = find_bundle("pocket")
    layers = OnnxEncoder(bundle).encode(PHOTOGRAPHS[0].pixels(), 3)
    whole, tiled = (
        TorchDecoder(bundle, "cpu", DecoderSettings(tile=tile, overlap=16)).decode(layers, seed=1).astype(np.float32)
        for tile in (64, 32)
    )
    difference = tiled - whole
    rows = tile_borders(512, 32, 16)
    assert difference.any()
    # 40 dB.
    assert np.square(difference).mean() < 255**2 / 1e4
    assert seam_ratio(difference, rows, rows, GRID) < 1.25
