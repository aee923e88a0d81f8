"""The encoder on pictures larger than a tile, on every kind of network, and on the devices it may be given."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sender.devices import Device, choose_providers, open_encoder
from sender.encoder import OnnxEncoder
from sender.graphs import SenderTiling
from sender.reach import Reach, sender_reach
from sender.tiles import Floats, PaddedPicture, blend_weights, run_blended, run_exact
from shared.codec.bundle import Bundle, find_bundle
from shared.codec.interfaces import Pixels
from shared.codec.nets.lfgcm import Analysis, HyperAnalysis, LfgcmConfig
from shared.codec.tiling import pieces
from shared.errors import PinholeError, UsageError
from shared.picture import load_picture

PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "sim" / "photographs"
LAYOUT = {"block": 64, "latent_block": 16}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return find_bundle("pocket")


@pytest.fixture(scope="module")
def photograph() -> Pixels:
    """600x380: two to six tiles of 256 or, for the hyper-analysis, 512 pixels."""
    return np.ascontiguousarray(load_picture(PHOTOGRAPHS / "coffee.png")[:380, :600])


@pytest.fixture
def always_tiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small pictures too, which the margins of a tile alone would cover."""
    monkeypatch.setattr("sender.tiles._is_small", lambda size, tile, margin: not tile)


@pytest.fixture(scope="module")
def encoders(bundle: Bundle) -> tuple[OnnxEncoder, OnnxEncoder]:
    return OnnxEncoder(bundle, tile=0), OnnxEncoder(bundle, tile=256)


@pytest.mark.usefixtures("always_tiled")
def test_tiles_give_the_latents_of_the_whole(encoders: tuple[OnnxEncoder, OnnxEncoder], photograph: Pixels) -> None:
    (y, z), (tiled_y, tiled_z) = (encoder.latents(photograph, 2) for encoder in encoders)
    assert np.abs(y - tiled_y).max() < 1e-4
    assert np.abs(z - tiled_z).max() < 1e-4
    # What the stream holds differs at most where a latent lies on the edge between two symbols.
    assert np.count_nonzero(np.rint(16 * y) != np.rint(16 * tiled_y)) < 1e-4 * y.size
    assert np.array_equal(np.rint(z), np.rint(tiled_z))


@pytest.mark.usefixtures("always_tiled")
def test_tiles_without_margins_do_show(bundle: Bundle, photograph: Pixels) -> None:
    """What the test above sees."""
    whole, short = OnnxEncoder(bundle, tile=0), OnnxEncoder(bundle, tile=256)
    short._tiling = SenderTiling(bundle.manifest["layout"], Reach(0, 0, 0), 256)
    (y, z), (tiled_y, tiled_z) = (encoder.latents(photograph, 2) for encoder in (whole, short))
    assert np.abs(y - tiled_y).max() > 1e-2
    assert np.abs(z - tiled_z).max() > 1e-2


def test_pictures_of_one_tile_go_whole(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[tuple[slice, slice]] = []
    read = PaddedPicture.read

    def noted(picture: PaddedPicture, rows: slice, columns: slice) -> Floats:
        reads.append((rows, columns))
        return read(picture, rows, columns)

    monkeypatch.setattr(PaddedPicture, "read", noted)
    OnnxEncoder(bundle, tile=256).latents(np.zeros((250, 380, 3), np.uint8), 1)
    assert reads == [(slice(0, 256), slice(0, 384))] * 2


def test_a_tile_that_is_all_margin_is_wrong_usage(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="give at least 256, or 0 for none"):
        OnnxEncoder(bundle, tile=64)


@given(height=st.integers(1, 200), width=st.integers(1, 200))
def test_the_padded_picture_is_the_picture_continued_by_its_edge(height: int, width: int) -> None:
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3)).astype(np.uint8)
    padded = np.pad(pixels, ((0, -height % 64), (0, -width % 64), (0, 0)), mode="edge")
    expected = padded.transpose(2, 0, 1).astype(np.float32) * np.float32(1 / 127.5) - 1
    picture = PaddedPicture(pixels, 64)
    assert (picture.height, picture.width) == padded.shape[:2]
    found = np.zeros_like(expected)
    for top in range(0, picture.height, 64):
        for left in range(0, picture.width, 64):
            rows, columns = slice(top, top + 64), slice(left, left + 64)
            found[:, rows, columns] = picture.read(rows, columns)
    assert np.array_equal(found, expected)


@given(units=st.integers(1, 30), tile=st.integers(4, 12), overlap=st.sampled_from((64, 128)))
def test_blend_weights_sum_to_one_and_pass_over_evenly(units: int, tile: int, overlap: int) -> None:
    side = pieces(64 * units, 64 * tile, overlap, 64)
    total = np.zeros(8 * units)
    for piece, weight in zip(side, blend_weights(side, 8), strict=True):
        assert weight.min() > 0
        total[piece.low // 8 : piece.high // 8] += weight
        if piece.low > 0 and all(p.stop - p.start >= 2 * overlap for p in side):
            assert np.allclose(np.diff(weight[: overlap // 4]), 4 / overlap, atol=1e-6)
    assert np.allclose(total, 1)


class Normalised(nn.Module):
    """Like Stable Diffusion's encoder in what matters here: every pixel has a say in every position."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first = nn.Conv2d(3, 8, 8, stride=8)
        self.norm = nn.GroupNorm(2, 8)
        self.last = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        latent: Tensor = self.last(torch.nn.functional.silu(self.norm(self.first(picture))))
        return latent


def test_blended_tiles_of_a_normalising_network_come_close_and_have_no_edges(photograph: Pixels) -> None:
    network, picture = Normalised(), PaddedPicture(photograph, 64)
    size = (picture.height, picture.width)

    @torch.no_grad()
    def run(rows: slice, columns: slice) -> Floats:
        values: Floats = network(torch.from_numpy(picture.read(rows, columns))).numpy()
        return values

    whole = run_blended(run, size, tile=0, overlap=64, block=64, step=8)
    assert np.array_equal(whole, run(slice(0, size[0]), slice(0, size[1])))
    blended = run_blended(run, size, tile=256, overlap=64, block=64, step=8)
    cut = run_exact(run, size, tile=256, reach=0, block=64, step=8)
    assert blended.shape == whole.shape
    assert np.abs(blended - whole).mean() < 0.2 * whole.std()
    borders = [piece.start // 8 for piece in pieces(size[1], 256, 64, 64)[1:]]

    def step_at_borders(latent: Floats) -> float:
        return float(
            np.abs((latent - whole)[:, :, :, borders] - (latent - whole)[:, :, :, [b - 1 for b in borders]]).mean()
        )

    assert step_at_borders(blended) < 0.25 * step_at_borders(cut)


@pytest.mark.usefixtures("always_tiled")
def test_official_networks_in_tiles_give_the_whole() -> None:
    torch.manual_seed(3)
    config = LfgcmConfig(3, 4, (4, 4, 4, 4), 4, 6, 4, 3, (3, 3))
    networks = {"family": "diffeic", "lfgcm": {"fusion": "sft", "sft_kernel": 3}}
    analysis, hyper_analysis = Analysis(config).eval(), HyperAnalysis(config).eval()
    pixels = np.random.default_rng(1).integers(0, 256, (64, 2000, 3)).astype(np.uint8)
    picture = PaddedPicture(pixels, 64)
    guidance = np.random.default_rng(2).normal(size=(1, 4, 8, 256)).astype(np.float32)
    gain = np.full((1, 6, 1, 1), 3, np.float32)

    @torch.no_grad()
    def graph(**inputs: Floats) -> Floats:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
        values: Floats = (analysis if "picture" in tensors else hyper_analysis)(*tensors.values()).numpy()
        return values

    whole, tiled = (
        SenderTiling(LAYOUT, sender_reach({"layout": LAYOUT, "networks": networks}), tile) for tile in (0, 64)
    )
    y, tiled_y = (tiling.latent(graph, picture, guidance) for tiling in (whole, tiled))  # type: ignore[arg-type]
    assert np.allclose(y, tiled_y, atol=1e-5)
    z, tiled_z = (
        tiling.hyper_latent(graph, y, gain, guidance)  # type: ignore[arg-type]
        for tiling in (whole, tiled)
    )
    assert np.allclose(z, tiled_z, atol=1e-5)


def test_devices_become_execution_providers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu, cuda, tensorrt = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
    assert choose_providers(Device.AUTO, ["AzureExecutionProvider", cpu]) == [cpu]
    assert choose_providers(Device.AUTO, [tensorrt, cuda, cpu]) == [cuda, cpu]
    assert choose_providers(Device.CPU, [tensorrt, cuda, cpu]) == [cpu]
    assert choose_providers(Device.CUDA, [tensorrt, cuda, cpu]) == [cuda, cpu]
    first, *others = choose_providers(Device.TENSORRT, [tensorrt, cuda, cpu])
    assert first[0] == tensorrt
    assert others == [cuda, cpu]
    assert (tmp_path / "pinhole" / "tensorrt").is_dir()


@pytest.mark.parametrize("device", [Device.CUDA, Device.TENSORRT])
def test_a_device_that_onnx_runtime_lacks_is_one_line(bundle: Bundle, device: Device) -> None:
    with pytest.raises(PinholeError, match="install onnxruntime-gpu") as raised:
        choose_providers(device, ["CPUExecutionProvider"])
    assert "\n" not in str(raised.value)
    assert open_encoder(bundle, Device.CPU).providers == ["CPUExecutionProvider"]
