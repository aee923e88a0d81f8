from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from receiver.halos import lfgcm_halo, pocket_decoder_halo, pocket_synthesis_halo
from receiver.tiles import exact_tiles, map_tiles, tile_spans
from shared.codec.nets.autoencoder import AutoencoderConfig, LatentDecoder
from shared.codec.nets.entropy_parameters import EntropyParametersConfig
from shared.codec.nets.lfgcm import Lfgcm, LfgcmConfig
from shared.codec.nets.pocket import PocketConfig, PocketSynthesis
from shared.errors import PinholeError, UsageError

Module = TypeVar("Module", bound=nn.Module)


@st.composite
def sides(draw: st.DrawFn) -> tuple[int, int, int, int]:
    align = draw(st.sampled_from([1, 4, 8]))
    tile = align * draw(st.integers(1, 12))
    return align * draw(st.integers(1, 100)), tile, draw(st.integers(0, tile - align)), align


@given(sides())
def test_spans_of_one_size_cover_the_side_and_overlap_enough(side: tuple[int, int, int, int]) -> None:
    length, tile, overlap, align = side
    spans = tile_spans(length, tile, overlap, align)
    assert {stop - start for start, stop in spans} == {min(tile, length)}
    assert (spans[0][0], spans[-1][1]) == (0, length)
    assert all(start % align == 0 for start, _ in spans)
    shared = [before[1] - after[0] for before, after in pairwise(spans)]
    assert all(overlap <= count < tile for count in shared)
    # One tile fewer could not overlap as much.
    step = tile - -(-overlap // align) * align
    assert len(spans) == 1 or (len(spans) - 2) * step + tile < length


@pytest.mark.parametrize(("tile", "overlap", "align"), [(0, 0, 1), (12, 0, 8), (16, 16, 8), (16, 9, 8), (16, -1, 8)])
def test_spans_refuse_tiles_and_overlaps_that_contradict(tile: int, overlap: int, align: int) -> None:
    with pytest.raises(UsageError, match="give"):
        tile_spans(64, tile, overlap, align)


def test_spans_refuse_a_side_that_alignment_does_not_divide() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        tile_spans(60, 16, 8, 8)


def randomised(module: Module, seed: int = 0) -> Module:
    """Give every parameter weight: blocks that start near the identity would hide what they see."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        fan = max(1, parameter[0].numel()) if parameter.ndim == 4 and parameter.shape[2] else 4
        parameter.data = torch.randn(parameter.shape, generator=generator) * fan**-0.5
    return module.eval().requires_grad_(False)


def small_pocket(synthesis_depths: tuple[int, int] = (6, 4)) -> PocketConfig:
    entropy = EntropyParametersConfig(
        latent_channels=8, hyper_channels=4, slices=(8,), hyper_decoder_widths=(8, 8), channel_context_widths=(8, 8)
    )
    return PocketConfig(4, entropy, synthesis_widths=(8, 8), synthesis_depths=synthesis_depths)


def small_lfgcm(fusion: str = "sft", sft_kernel: int = 3) -> LfgcmConfig:
    return LfgcmConfig(
        analysis_widths=(2, 2, 2, 2),
        hyper_channels=8,
        latent_channels=8,
        reference_channels=4,
        slices=(8,),
        fusion=fusion,
        sft_kernel=sft_kernel,
    )


def reach(network: Callable[..., Tensor], channels: Sequence[int], scales: Sequence[int], blocks: int) -> int:
    """Measure how many blocks an output sees to each side: a NaN in one block spreads to all that looks at it."""
    middle = blocks // 2
    widest = 0
    for spoilt in range(len(channels)):
        inputs = [
            torch.zeros(1, channel, scale * blocks, scale * blocks, dtype=torch.float64)
            for channel, scale in zip(channels, scales, strict=True)
        ]
        scale = scales[spoilt]
        inside = slice(middle * scale, (middle + 1) * scale)
        inputs[spoilt][..., inside, inside] = torch.nan
        output = network(*inputs)
        per_block = output.shape[-1] // blocks
        for axes in ((0, 1, 2), (0, 1, 3)):
            seen = torch.nonzero(output.isnan().any(axes[0]).any(0).any(axes[2] - 2))[:, 0] // per_block
            # Seen up to the rim would be seen further still.
            assert seen.min() > 0
            assert seen.max() < blocks - 1
            widest = max(widest, middle - int(seen.min()), int(seen.max()) - middle)
    return widest


@pytest.mark.parametrize("depths", [(8, 4, 2), (1, 2, 3), (2, 1, 1)])
def test_halo_of_the_pocket_decoder_is_what_it_sees(depths: tuple[int, int, int]) -> None:
    config = AutoencoderConfig(2, decoder_widths=(4, 4, 4), decoder_depths=depths)
    halo = pocket_decoder_halo(config)
    assert reach(randomised(LatentDecoder(config)).double(), [2], [1], 2 * halo + 3) == halo


@pytest.mark.parametrize("depths", [(6, 4), (1, 1), (9, 2)])
def test_halo_of_the_pocket_synthesis_is_what_it_sees(depths: tuple[int, int]) -> None:
    config = small_pocket(depths)
    halo = pocket_synthesis_halo(config)
    assert reach(randomised(PocketSynthesis(config)).double(), [8, 4], [4, 1], 2 * halo + 3) == halo


@pytest.mark.parametrize(("fusion", "kernel"), [("sft", 3), ("sft", 1), ("addition", 3), ("concatenation", 3)])
def test_halo_of_lfgcm_is_what_it_sees(fusion: str, kernel: int) -> None:
    config = small_lfgcm(fusion, kernel)
    halo = lfgcm_halo(config)
    network = randomised(Lfgcm(config)).double()
    assert reach(network.decode, [8, 8], [4, 1], 2 * halo + 3) == halo


def test_shipped_and_official_halos() -> None:
    assert pocket_decoder_halo(AutoencoderConfig()) == 12
    assert pocket_synthesis_halo(PocketConfig()) == 3
    assert lfgcm_halo(LfgcmConfig()) == 6


def test_a_fusion_that_attends_to_the_whole_picture_has_no_halo() -> None:
    with pytest.raises(PinholeError, match="without tiles"):
        lfgcm_halo(small_lfgcm("cross-attention"))


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 24), st.integers(1, 12))
def test_tiles_of_the_pocket_decoder_equal_the_whole(rows: int, columns: int, tile: int) -> None:
    config = AutoencoderConfig(2, decoder_widths=(4, 4, 4), decoder_depths=(1, 1, 1))
    decoder, halo = randomised(LatentDecoder(config)), pocket_decoder_halo(config)
    latent = torch.randn(1, 2, rows, columns, generator=torch.Generator().manual_seed(rows))
    tiled = map_tiles(decoder, [latent], scale_out=8, tile=tile, halo=halo)
    torch.testing.assert_close(tiled, decoder(latent), rtol=1e-5, atol=1e-5)


def test_tiles_of_the_pocket_synthesis_equal_the_whole_for_two_pictures() -> None:
    synthesis = randomised(PocketSynthesis(small_pocket()))
    y, z = torch.randn(2, 8, 4 * 13, 4 * 9), torch.randn(2, 4, 13, 9)
    halo = pocket_synthesis_halo(small_pocket())
    tiled = map_tiles(synthesis, [y, z], scale_out=8, tile=2, halo=halo, device="cpu", dtype=torch.float64)
    assert tiled.dtype == torch.float64
    torch.testing.assert_close(tiled.float(), synthesis(y, z), rtol=1e-5, atol=1e-5)


def test_tiles_of_lfgcm_equal_the_whole() -> None:
    network = randomised(Lfgcm(small_lfgcm()))
    y, z = torch.randn(1, 8, 4 * 17, 4 * 4), torch.randn(1, 8, 17, 4)
    whole = network.decode(y, z)
    torch.testing.assert_close(
        map_tiles(network.decode, [y, z], scale_out=8, tile=3, halo=lfgcm_halo(small_lfgcm())),
        whole,
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_halo_too_narrow_is_seen_in_the_result() -> None:
    config = AutoencoderConfig(2, decoder_widths=(4, 4, 4), decoder_depths=(1, 1, 1))
    decoder = randomised(LatentDecoder(config))
    latent = torch.randn(1, 2, 24, 24)
    narrow = map_tiles(decoder, [latent], scale_out=8, tile=4, halo=pocket_decoder_halo(config) - 2)
    assert (narrow - decoder(latent)).abs().max() > 1e-3


def test_windows_have_one_shape_and_their_parts_cover_the_output_once() -> None:
    shapes = set()

    def network(x: Tensor) -> Tensor:
        shapes.add((tuple(x.shape), x.stride()))
        return x

    seen = np.zeros((37, 23), int)
    for (rows, columns), part in exact_tiles(network, [torch.zeros(1, 3, 37, 23)], scale_out=1, tile=4, halo=3):
        assert part.shape[-2:] == (rows.stop - rows.start, columns.stop - columns.start)
        seen[rows, columns] += 1
    assert (seen == 1).all()
    assert shapes == {((1, 3, 10, 10), (300, 100, 10, 1))}


def test_inputs_of_different_areas_are_refused() -> None:
    with pytest.raises(ValueError, match="one picture area"):
        map_tiles(lambda y, z: y, [torch.zeros(1, 1, 16, 12), torch.zeros(1, 1, 4, 4)], scale_out=8, tile=2, halo=1)
