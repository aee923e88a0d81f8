import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from receiver.blending import blend_weights, blended
from receiver.halos import pocket_decoder_halo
from receiver.painting import NonFiniteError, decode_tiles, to_levels
from receiver.tiles import tile_spans
from shared.codec.nets.autoencoder import AutoencoderConfig, LatentDecoder
from shared.codec.nets.ddpm import SpacedDdpm
from shared.codec.nets.diffusion import DiffusionConfig
from shared.errors import UsageError


@given(st.integers(1, 30), st.integers(1, 8), st.data())
def test_weights_are_positive_and_sum_to_one(units: int, tile_units: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, 8 * (tile_units - 1)))
    spans = tile_spans(8 * units, 8 * tile_units, overlap, 8)
    total = torch.zeros(8 * units)
    for (start, stop), weights in zip(spans, blend_weights(spans), strict=True):
        assert (weights > 0).all()
        total[start:stop] += weights
    torch.testing.assert_close(total, torch.ones_like(total))


def test_weights_fade_smoothly_where_tiles_overlap() -> None:
    weights = blend_weights(tile_spans(160, 96, 32, 8))[0]
    assert weights[-1] < 0.01
    assert (weights.diff().abs() < 0.1).all()
    assert torch.equal(weights[:64], torch.ones(64))


def pointwise(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
    return torch.tanh(x) * t[:, None, None, None] / 1000 + content[:, :1]


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_blending_a_pointwise_model_changes_nothing(batch: int) -> None:
    x, content = torch.randn(2, 4, 40, 64), torch.randn(2, 5, 40, 64)
    t = torch.tensor([10, 900])
    estimate = blended(pointwise, 16, 8, batch)(x, t, content)
    torch.testing.assert_close(estimate, pointwise(x, t, content), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("batch", "expected"), [(1, 1), (4, 4), (7, 7), (100, 40)])
def test_every_call_sees_tiles_of_one_shape(batch: int, expected: int) -> None:
    shapes = []

    def model(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
        assert len(x) == len(t) == len(content)
        shapes.append(tuple(x.shape))
        return x

    # 4 x 5 tiles of two pictures.
    x = torch.randn(2, 4, 40, 48)
    torch.testing.assert_close(blended(model, 16, 8, batch)(x, torch.tensor([1, 2]), x), x, rtol=1e-5, atol=1e-6)
    assert set(shapes) == {(expected, 4, 16, 16)}
    assert len(shapes) == -(-40 // expected)


def test_a_latent_up_to_the_tile_goes_straight_through() -> None:
    calls = []

    def model(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
        calls.append((x, t, content))
        return x

    x, t, content = torch.randn(3, 4, 16, 8), torch.zeros(3, dtype=torch.int64), torch.randn(3, 4, 16, 8)
    assert blended(model, 16, 8)(x, t, content) is x
    assert calls == [(x, t, content)]


def test_only_the_longer_side_is_cut() -> None:
    shapes = []

    def model(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
        shapes.append(tuple(x.shape[-2:]))
        return x

    x = torch.randn(1, 4, 8, 64)
    blended(model, 32, 8)(x, torch.zeros(1, dtype=torch.int64), x)
    assert set(shapes) == {(8, 32)}


def test_tiles_that_disagree_are_joined_without_a_step() -> None:
    number = iter(range(10))

    def model(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
        return torch.full_like(x, float(next(number)))

    x = torch.zeros(1, 1, 8, 96)
    estimate = blended(model, 64, 32)(x, torch.zeros(1, dtype=torch.int64), x)
    row = estimate[0, 0, 0]
    assert [float(row[0]), float(row[-1])] == [0, 1]
    assert row.diff().abs().max() < 0.1


def test_pictures_are_blended_alike_alone_and_together() -> None:
    torch.manual_seed(3)
    config = DiffusionConfig(latent_channels=2, widths=(8, 8, 16), context_width=8, heads=2, groups=4)
    unet = config.unet().eval().requires_grad_(False)

    def model(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
        noise: Tensor = unet(x + content, t, torch.ones(len(x), 1, 8)).sample
        return noise

    estimate = blended(model, 16, 8, batch=3)
    content = torch.randn(2, 2, 16, 40)
    start, noises = torch.randn(2, 2, 16, 40), torch.randn(2, 2, 2, 16, 40)
    together = SpacedDdpm(2).sample(estimate, content, start, noises)
    alone = SpacedDdpm(2).sample(estimate, content[1:], start[1:], noises[:, 1:])
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-4)


def test_contradicting_tile_and_overlap_are_refused_at_once() -> None:
    with pytest.raises(UsageError, match="overlap of 16"):
        blended(pointwise, 16, 16)


def small_decoder() -> tuple[LatentDecoder, int]:
    torch.manual_seed(1)
    config = AutoencoderConfig(2, decoder_widths=(4, 4, 4), decoder_depths=(1, 1, 1))
    return LatentDecoder(config).eval().requires_grad_(False), pocket_decoder_halo(config)


@pytest.mark.parametrize(("height", "width"), [(35, 127), (256, 64), (1, 1), (257, 193)])
def test_exact_tiles_give_the_bytes_of_the_whole_latent(height: int, width: int) -> None:
    decoder, halo = small_decoder()
    latent = 3 * torch.randn(1, 2, -(-height // 8), -(-width // 8))
    pixels = decode_tiles(decoder, latent, tile=8, overlap=0, height=height, width=width, halo=halo)
    whole = to_levels(decoder(latent)[0, :, :height, :width]).permute(1, 2, 0).numpy()
    assert pixels.shape == (height, width, 3)
    differences = np.abs(pixels.astype(int) - whole)
    # A value that lies between two levels may fall to either side.
    assert differences.max() <= 1
    assert (differences > 0).mean() < 1e-3
    assert pixels.std() > 1 or pixels.size == 3


def enlarged(latent: Tensor) -> Tensor:
    return functional.interpolate(latent, scale_factor=8)


@pytest.mark.parametrize(("height", "width"), [(300, 200), (317, 127), (100, 320)])
def test_blended_tiles_of_a_pointwise_decoder_give_its_bytes(height: int, width: int) -> None:
    latent = torch.rand(1, 3, 40, 40) * 2 - 1
    pixels = decode_tiles(enlarged, latent, tile=16, overlap=5, height=height, width=width)
    whole = to_levels(enlarged(latent)[0, :, :height, :width]).permute(1, 2, 0).numpy()
    assert np.abs(pixels.astype(int) - whole).max() <= 1


def test_blended_tiles_that_disagree_leave_no_step() -> None:
    brightness = iter(np.linspace(-0.5, 0.5, 9))

    def decoder(latent: Tensor) -> Tensor:
        side = 8 * latent.shape[-1]
        return torch.full((1, 3, side, side), float(next(brightness)), dtype=torch.bfloat16)

    pixels = decode_tiles(decoder, torch.zeros(1, 4, 80, 80), tile=32, overlap=8, height=640, width=640).astype(int)
    assert max(np.abs(np.diff(pixels, axis=axis)).max() for axis in (0, 1)) <= 4
    assert int(pixels.max()) - int(pixels.min()) > 100


def test_levels_are_rounded_and_clipped() -> None:
    values = torch.tensor([-2.0, -1, -1 + 0.6 / 127.5, 0.999, 1, 7]).reshape(1, 1, 6)
    assert to_levels(values).flatten().tolist() == [0, 0, 1, 255, 255, 255]


@pytest.mark.parametrize("halo", [None, 1])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_detected(halo: int | None, value: float) -> None:
    latent = torch.zeros(1, 3, 40, 40)
    latent[0, 1, 33, 7] = value
    with pytest.raises(NonFiniteError, match="float32"):
        decode_tiles(enlarged, latent, tile=16, overlap=4, height=320, width=320, halo=halo)
