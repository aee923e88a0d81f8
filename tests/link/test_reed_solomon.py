from typing import Any

import numpy as np
import pytest
import reedsolo
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shared.errors import CorruptDataError
from shared.link import reed_solomon
from shared.link.galois import PRODUCTS, inverse, invert, multiply, product


def code_word(sources: np.ndarray, m: int) -> np.ndarray:  # type: ignore[type-arg]
    codec = reedsolo.RSCodec(m)
    return np.array([list(codec.encode(column.tobytes())) for column in sources.T], dtype=np.uint8).T


@st.composite
def codes(draw: st.DrawFn, most: int = 255) -> tuple[int, int, np.ndarray]:  # type: ignore[type-arg]
    k = draw(st.integers(1, most - 1))
    m = draw(st.integers(1, most - k))
    length = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**32 - 1))
    return k, m, np.random.default_rng(seed).integers(0, 256, (k, length), dtype=np.uint8)


@given(codes())
@settings(max_examples=60, deadline=None)
def test_repair_symbols_are_those_of_reedsolo(code: tuple[int, int, np.ndarray]) -> None:  # type: ignore[type-arg]
    k, m, sources = code
    expected = code_word(sources, m)[k:]
    assert np.array_equal(reed_solomon.encode(sources, m), expected)
    first = m // 2
    assert np.array_equal(reed_solomon.encode(sources, m, first=first, count=1), expected[first : first + 1])


@given(codes(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_any_k_symbols_restore_all(code: tuple[int, int, np.ndarray], chance: object) -> None:  # type: ignore[type-arg]
    k, m, sources = code
    word = np.concatenate([sources, reed_solomon.encode(sources, m)])
    kept = chance.sample(range(k + m), k)  # type: ignore[attr-defined]
    restored = reed_solomon.restore({index: word[index] for index in kept}, k, m)
    assert np.array_equal(restored, sources)
    codec = reedsolo.RSCodec(m)
    erased = [index for index in range(k + m) if index not in kept]
    column = word[:, 0].copy()
    column[erased] = 0
    assert bytes(codec.decode(bytearray(column.tobytes()), erase_pos=erased)[0]) == sources[:, 0].tobytes()


@given(codes(most=40), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_lying_symbols_are_put_right_or_refused(
    code: tuple[int, int, np.ndarray],  # type: ignore[type-arg]
    chance: object,
) -> None:
    k, m, sources = code
    word = np.concatenate([sources, reed_solomon.encode(sources, m)])
    erased = chance.randint(0, m)  # type: ignore[attr-defined]
    liars = (m - erased) // 2
    order = chance.sample(range(k + m), k + m)  # type: ignore[attr-defined]
    symbols = {index: word[index].copy() for index in order[erased:]}
    for index in order[erased : erased + liars]:
        symbols[index] ^= chance.randint(1, 255)  # type: ignore[attr-defined]
    restored, repaired = reed_solomon.restore_and_count(symbols, k, m)
    assert np.array_equal(restored, sources)
    assert repaired == (sources.shape[1] if liars else 0)


def test_liars_of_a_long_code_word_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def look(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        return find(*args)

    find = reedsolo.rs_find_error_locator
    monkeypatch.setattr(reedsolo, "rs_find_error_locator", look)
    # Decoding such a column takes `reedsolo` 0.1 s; a single packet of 1200 bytes has so many of them.
    monkeypatch.setattr(reedsolo.RSCodec, "decode", lambda *_: pytest.fail("a whole column is decoded"))
    chance = np.random.default_rng(1)
    sources = chance.integers(0, 256, (2, 1200), dtype=np.uint8)
    word = np.concatenate([sources, reed_solomon.encode(sources, 253)])
    symbols = {index: word[index].copy() for index in (7, 100, 101, 102, 103, 254)}
    symbols[7] ^= 0x55
    symbols[102][::2] ^= 0x01
    restored, repaired = reed_solomon.restore_and_count(symbols, 2, 253)
    assert np.array_equal(restored, sources)
    assert repaired == 1200
    assert looks <= 2


@given(codes(most=12), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_one_symbol_too_many_tells_that_one_lies_but_never_which(
    code: tuple[int, int, np.ndarray],  # type: ignore[type-arg]
    chance: object,
) -> None:
    k, m, sources = code
    assume(m >= 1)
    word = np.concatenate([sources, reed_solomon.encode(sources, m)])
    kept = chance.sample(range(k + m), k + 1)  # type: ignore[attr-defined]
    symbols = {index: word[index].copy() for index in kept}
    symbols[kept[0]][0] ^= chance.randint(1, 255)  # type: ignore[attr-defined]
    with pytest.raises(CorruptDataError):
        reed_solomon.restore(symbols, k, m)


def test_contradictions_beyond_repair_are_an_error() -> None:
    sources = np.arange(40, dtype=np.uint8).reshape(4, 10)
    word = np.concatenate([sources, reed_solomon.encode(sources, 3)])
    symbols = {index: word[index].copy() for index in range(5)}
    symbols[2] ^= 0x55
    with pytest.raises(CorruptDataError):
        reed_solomon.restore(symbols, 4, 3)
    with pytest.raises(CorruptDataError, match="4 symbols"):
        reed_solomon.restore({0: word[0]}, 4, 3)


@pytest.mark.parametrize(("k", "m"), [(0, 1), (200, 56), (1, -1)])
def test_impossible_codes_are_refused(k: int, m: int) -> None:
    with pytest.raises(ValueError, match="no Reed-Solomon code"):
        reed_solomon.parity_matrix(k, m)


def test_the_field_is_that_of_reedsolo() -> None:
    reedsolo.init_tables(0x11D, 2, 8)
    table = np.array([[reedsolo.gf_mul(a, b) for b in range(256)] for a in range(256)], dtype=np.uint8)
    assert np.array_equal(PRODUCTS, table)
    assert all(multiply(a, inverse(a)) == 1 for a in range(1, 256))
    with pytest.raises(ZeroDivisionError):
        inverse(0)


def test_inversion() -> None:
    matrix = np.random.default_rng(1).integers(0, 256, (20, 20), dtype=np.uint8)
    assert np.array_equal(product(matrix, invert(matrix)), np.eye(20, dtype=np.uint8))
    matrix[3] = matrix[4]
    with pytest.raises(ZeroDivisionError):
        invert(matrix)
