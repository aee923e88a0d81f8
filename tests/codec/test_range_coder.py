"""The range coder: round trips, escapes, short ends, damage, and one golden stream."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.codec.entropy.range_coder import CoderModels, SymbolDecoder, SymbolEncoder
from shared.codec.entropy.tables import TOTAL, gaussian_table, latent_tables
from shared.errors import CorruptDataError

THRESHOLDS, TABLES = latent_tables(0.11, 64.0, 64)
MODELS = CoderModels(TABLES)
pairs = st.lists(st.tuples(st.integers(-20000, 20000) | st.integers(-3, 3), st.integers(0, 63)), max_size=120)


def encode(symbols: NDArray[np.int32], index: NDArray[np.intp]) -> bytes:
    encoder = SymbolEncoder()
    encoder.encode(symbols, index, MODELS)
    return encoder.finish()


@settings(deadline=None, max_examples=300)
@given(pairs)
def test_any_symbols_come_back(drawn: list[tuple[int, int]]) -> None:
    symbols = np.array([s for s, _ in drawn], np.int32)
    index = np.array([i for _, i in drawn], np.intp)
    assert (SymbolDecoder(encode(symbols, index)).decode(index, MODELS) == symbols).all()


@settings(deadline=None, max_examples=100)
@given(pairs, pairs)
def test_groups_of_one_string_follow_each_other(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    encoder = SymbolEncoder()
    groups = [(np.array([s for s, _ in g], np.int32), np.array([i for _, i in g], np.intp)) for g in (first, second)]
    for symbols, index in groups:
        encoder.encode(symbols, index, MODELS)
    decoder = SymbolDecoder(encoder.finish())
    for symbols, index in groups:
        assert (decoder.decode(index, MODELS) == symbols).all()


def test_length_is_within_a_byte_or_two_of_the_ideal() -> None:
    generator = np.random.default_rng(3)
    index = generator.integers(0, 64, 20000)
    scales = np.exp(np.linspace(np.log(0.11), np.log(64), 64))
    symbols = np.rint(generator.normal(size=20000) * scales[index]).astype(np.int32)
    positions = [symbols[i] - TABLES[index[i]].first for i in range(20000)]
    inside = all(0 <= p < TABLES[index[i]].symbols for i, p in enumerate(positions))
    ideal = sum(TABLES[index[i]].bits()[min(max(p, 0), TABLES[index[i]].symbols)] for i, p in enumerate(positions))
    spent = 8 * len(encode(symbols, index))
    assert spent <= ideal * 1.0005 + 16 + (0 if inside else 200)


@pytest.mark.parametrize("table", TABLES[::7])
def test_tables_are_whole_and_symmetric(table: object) -> None:
    counts = table.counts  # type: ignore[attr-defined]
    assert counts.sum() == TOTAL
    assert counts.min() >= 1
    inside = counts[:-1]
    # Only the largest count, the centre, may have taken up what rounding left over.
    assert (np.delete(inside, len(inside) // 2) == np.delete(inside[::-1], len(inside) // 2)).all()


def test_scale_index_takes_the_next_larger_table() -> None:
    scales = np.exp(np.linspace(np.log(0.11), np.log(64.0), 64))
    for i in (0, 5, 40, 62):
        assert THRESHOLDS.searchsorted(int(scales[i] * 256), side="left") <= i
        assert THRESHOLDS.searchsorted(int(scales[i] * 256) + 1, side="left") == i + 1
    assert gaussian_table(0.11).counts[1] > 65500


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=80))
def test_noise_gives_symbols_or_one_error(data: bytes) -> None:
    index = np.arange(64, dtype=np.intp)
    try:
        symbols = SymbolDecoder(data).decode(index, MODELS)
    except CorruptDataError:
        return
    assert symbols.shape == (64,)


def test_golden_stream() -> None:
    """Any change of these bytes is a change of the format."""
    generator = np.random.default_rng(20260101)
    index = generator.integers(0, 64, 40)
    symbols = generator.integers(-40, 41, 40).astype(np.int32)
    assert encode(symbols, index).hex() == GOLDEN


GOLDEN = (
    "fffffffffdff0201fffafdfffff6fbfffff2f9ffffeef7fef3ec01fffff3ffffffe4f2ffffe0ecfd49555a844cd891a6225e"
    "e3edcb09df54eaf2f19ab44aa487da59024f7d5391dba5dd07c5aa63fbffced8"
)
