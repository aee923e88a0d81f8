"""The entropy program in tiles gives the integers of the whole, for any program, size and tile."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sender.encoder import OnnxEncoder
from shared.codec.bundle import Bundle, find_bundle
from shared.codec.entropy.backend import EntropyBackend, NumpyBackend
from shared.codec.entropy.coding import LatentCoder
from shared.codec.entropy.integer import IntegerLayer, Rescale
from shared.codec.entropy.onnx_backend import OnnxBackend
from shared.codec.entropy.program import EntropyProgram, SliceProgram
from shared.codec.entropy.tiled_backend import ProgramReach, TiledBackend
from shared.codec.tiling import pieces
from shared.picture import load_picture

PHOTOGRAPH = Path(__file__).resolve().parents[2] / "sim" / "photographs" / "coffee.png"
HYPER, SLICES = 3, (2, 3)


def rescale(channels: int, low: int, high: int, shift: int = 12) -> Rescale:
    return Rescale(np.full(channels, 300, np.int64), np.full(channels, shift, np.int64), low, high)


def layer(
    generator: np.random.Generator, channels_in: int, channels: int, kernel: int, *, transposed: bool = False
) -> IntegerLayer:
    shape = (channels_in, channels) if transposed else (channels, channels_in)
    return IntegerLayer(
        generator.integers(-63, 64, (*shape, kernel, kernel)).astype(np.int8),
        generator.integers(-500, 501, channels).astype(np.int32),
        rescale(channels, -127, 127),
        2 if transposed else 1,
        transposed,
    )


def random_program(seed: int, kernels: tuple[int, int, int]) -> EntropyProgram:
    """Kernels of the hyper-decoder's transposed convolutions, of the channel contexts and of the local ones."""
    generator = np.random.default_rng(seed)
    up, channel, local = kernels
    hyper = (
        layer(generator, HYPER, 4, up, transposed=True),
        layer(generator, 4, 5, up, transposed=True),
        layer(generator, 5, 6, 3),
    )
    parts = []
    for i, size in enumerate(SLICES):
        earlier = sum(SLICES[:i])
        context = (layer(generator, earlier, 3, channel), layer(generator, 3, 2, channel)) if i else ()
        width = 6 + (2 if i else 0)
        parts.append(
            SliceProgram(
                context,
                (layer(generator, size, 4, local),),
                (layer(generator, width, 2 * size, 1),),
                (layer(generator, width + 4, 2 * size, 3),),
            )
        )
    return EntropyProgram(SLICES, rescale(HYPER, -127, 127, 8), rescale(1, -127, 127, 10), hyper, tuple(parts))


def assert_same(ours: EntropyBackend, reference: EntropyBackend, program: EntropyProgram, rows: int, cols: int) -> None:
    generator = np.random.default_rng(rows * 1000 + cols)
    channels = program.hyper[0].weight.shape[0]
    z = generator.integers(-640, 641, (1, channels, rows // 4, cols // 4)).astype(np.int32)
    y = generator.integers(-2000, 2001, (1, sum(program.slices), rows, cols)).astype(np.int32)
    hyper, expected = ours.hyper(z), reference.hyper(z)
    assert np.array_equal(hyper, expected)
    for i, (start, stop) in enumerate(pairwise(program.offsets)):
        got = ours.anchor(i, hyper, y[:, :start])
        want = reference.anchor(i, expected, y[:, :start])
        assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))
        pair = ours.nonanchor(i, hyper, got[2], y[:, start:stop])
        assert all(
            np.array_equal(a, b)
            for a, b in zip(pair, reference.nonanchor(i, expected, want[2], y[:, start:stop]), strict=True)
        )


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    kernels=st.tuples(*[st.sampled_from((1, 3, 5))] * 3),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    tile=st.sampled_from((4, 8, 12)),
)
def test_random_programs_give_the_same_integers(
    seed: int, kernels: tuple[int, int, int], rows: int, columns: int, tile: int
) -> None:
    program = random_program(seed, kernels)
    reference = NumpyBackend(program)
    assert_same(TiledBackend(reference, lambda: program, tile), reference, program, 4 * rows, 4 * columns)


def test_a_margin_one_position_short_is_not_enough() -> None:
    """What the test above sees: the reach is not only enough, it is needed."""
    program = random_program(1, (5, 5, 5))
    reference = NumpyBackend(program)
    tiled = TiledBackend(reference, lambda: program, 8)
    assert (tiled.reach.hyper, tiled.reach.anchor, tiled.reach.nonanchor) == (2, (0, 4), (3, 3))
    whole = tiled.reach
    for short in (
        replace(whole, hyper=whole.hyper - 1),
        replace(whole, anchor=(0, 3)),
        replace(whole, nonanchor=(2, 2)),
    ):
        tiled.__dict__["reach"] = short
        with pytest.raises(AssertionError):
            assert_same(tiled, reference, program, 32, 32)


def test_kept_maps_take_the_smallest_type_that_holds_them() -> None:
    program = random_program(2, (5, 3, 3))
    assert ProgramReach.of(program).hyper_type == np.int8
    wide = replace(program.hyper[-1], rescale=rescale(6, -200, 127))
    assert ProgramReach.of(replace(program, hyper=(*program.hyper[:-1], wide))).hyper_type == np.int16
    table = replace(wide, table=np.arange(256, dtype=np.int16) - 128)
    assert ProgramReach.of(replace(program, hyper=(*program.hyper[:-1], table))).hyper_type == np.int8


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return find_bundle("pocket")


def test_the_pocket_program_gives_the_same_integers(bundle: Bundle) -> None:
    program = bundle.program()
    reference = OnnxBackend(bundle.entropy_graphs())
    assert_same(TiledBackend(reference, lambda: program, 16), reference, program, 40, 52)


def test_a_stream_does_not_tell_the_tile(bundle: Bundle) -> None:
    y, z = OnnxEncoder(bundle).latents(np.ascontiguousarray(load_picture(PHOTOGRAPH)[:384, :576]), 3)
    graphs = OnnxBackend(bundle.entropy_graphs())
    whole = LatentCoder(bundle.layout, bundle.tables(), graphs)
    tiled = LatentCoder(bundle.layout, bundle.tables(), TiledBackend(graphs, bundle.program, 12))
    coded = whole.encode(y, z, b"salt")
    assert tiled.encode(y, z, b"salt").payloads == coded.payloads
    decoded = tiled.decode(coded.payloads, 24, 36, b"salt")
    assert np.array_equal(decoded[0], coded.y_hat)


@given(
    units=st.integers(1, 40),
    tile=st.integers(1, 60),
    reach=st.integers(0, 30),
    unit=st.sampled_from((1, 4, 64)),
)
def test_pieces_cover_a_side_once_with_their_margins(units: int, tile: int, reach: int, unit: int) -> None:
    length = units * unit
    found = pieces(length, tile * unit, reach, unit)
    assert [position for piece in found for position in range(length)[piece.core]] == list(range(length))
    for piece in found:
        assert 0 < piece.stop - piece.start <= tile * unit
        assert piece.low == 0 or piece.start - piece.low >= reach
        assert piece.high == length or piece.high - piece.stop >= reach
        assert all(position % unit == 0 for position in piece)
        assert range(length)[piece.padded][piece.crop] == range(length)[piece.core]
    assert len(found) == -(-units // tile)
