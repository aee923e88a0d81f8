"""Systematic Reed-Solomon across packets, column by column.

Byte column ``c`` of the k source symbols is the message of one code word of ``reedsolo.RSCodec(m)`` (generator
polynomial with the roots 2**0 ... 2**(m-1), message first, highest power first); byte ``c`` of the m repair symbols is
its parity. Any k of the k+m symbols restore all (the code is maximum distance separable).

Encoding is one matrix product over all columns; erasures cost one inversion of an e x e matrix, e the number of source
symbols missing. Which symbols are wrong `reedsolo` finds out in one column, and then they count as erasures in all.
"""

from collections.abc import Mapping
from functools import cache, lru_cache

import numpy as np
import reedsolo
from numpy.typing import NDArray

from shared.errors import CorruptDataError
from shared.link.galois import EXPONENTIALS, POLYNOMIAL, PRODUCTS, Symbols, invert, multiply, product

LONGEST_CODE_WORD = 255
"""k + m of a code over GF(256)."""


_MOST_CORRECTIONS = 8
"""Columns of one block in which liars are looked for; more that no column before names are too many to believe."""


@cache
def _generator(m: int) -> tuple[int, ...]:
    """Generator polynomial with the roots 2**0 ... 2**(m-1), highest power first."""
    if m == 0:
        return (1,)
    lower = _generator(m - 1)
    root = EXPONENTIALS[m - 1]
    return tuple(a ^ multiply(b, root) for a, b in zip((*lower, 0), (0, *lower), strict=True))


@lru_cache(maxsize=256)
def parity_matrix(k: int, m: int) -> Symbols:
    """Parity part of the generator matrix, shape ``m x k``: repair symbols are ``parity_matrix(k, m) @ sources``.

    Raises:
        ValueError: unless k >= 1, m >= 0 and k + m <= 255.
    """
    if k < 1 or m < 0 or k + m > LONGEST_CODE_WORD:
        raise ValueError(f"no Reed-Solomon code with k={k} and m={m}")
    tail = np.array(_generator(m)[1:], dtype=np.uint8)
    matrix = np.zeros((m, k), dtype=np.uint8)
    if m == 0:
        return matrix
    # Column i is x**(m + k-1-i) modulo the generator; each follows from its right neighbour by one multiplication by x.
    remainder = tail.copy()
    for column in range(k - 1, -1, -1):
        matrix[:, column] = remainder
        lead = int(remainder[0])
        remainder = np.append(remainder[1:], np.uint8(0)) ^ PRODUCTS[lead][tail]
    matrix.setflags(write=False)
    return matrix


def encode(sources: Symbols, m: int, *, first: int = 0, count: int | None = None) -> Symbols:
    """Repair symbols ``first`` to ``first + count`` of the code with m repair symbols.

    Args:
        sources: source symbols, shape ``k x length``.
        m: repair symbols of the code.
        first: number of the first repair symbol wanted.
        count: how many, None for all that follow.

    Returns:
        Shape ``count x length``.
    """
    stop = m if count is None else first + count
    return product(parity_matrix(sources.shape[0], m)[first:stop], sources)


def restore(symbols: Mapping[int, Symbols], k: int, m: int) -> Symbols:
    """Restore the source symbols from any k symbols of a code word.

    Where more than k symbols are there, the rest serves as a check; if symbols disagree, `reedsolo`'s error correction
    finds the wrong ones.

    Args:
        symbols: by index (0 to k-1 source, k to k+m-1 repair), all of one length.
        k: source symbols.
        m: repair symbols of the code.

    Returns:
        All source symbols, shape ``k x length``.

    Raises:
        CorruptDataError: if there are fewer than k symbols, or they contradict each other beyond repair.
    """
    return restore_and_count(symbols, k, m)[0]


def restore_and_count(symbols: Mapping[int, Symbols], k: int, m: int) -> tuple[Symbols, int]:
    """As `restore`, and the number of byte columns in which wrong symbols were put right."""
    sources, wrong = _restore(symbols, k, m)
    columns = np.flatnonzero(wrong)
    if columns.size:
        _correct(sources, symbols, columns, k, m)
    return sources, int(columns.size)


def _restore(symbols: Mapping[int, Symbols], k: int, m: int) -> tuple[Symbols, NDArray[np.bool_]]:
    """The source symbols as the first k symbols have them, and in which columns the others disagree."""
    if len(symbols) < k:
        raise CorruptDataError(f"a block of {k} symbols cannot be restored from {len(symbols)}")
    matrix = parity_matrix(k, m)
    length = next(iter(symbols.values())).shape[0]
    sources = np.zeros((k, length), dtype=np.uint8)
    present = [i for i in range(k) if i in symbols]
    for i in present:
        sources[i] = symbols[i]
    missing = [i for i in range(k) if i not in symbols]
    repairs = [i - k for i in sorted(symbols) if i >= k]
    if missing:
        used = repairs[: len(missing)]
        known = np.stack([symbols[k + r] for r in used])
        if present:
            known = known ^ product(matrix[np.ix_(used, present)], sources[present])
        sources[missing] = product(invert(matrix[np.ix_(used, missing)]), known)
    spare = repairs[len(missing) :]
    if not spare:
        return sources, np.zeros(length, dtype=np.bool_)
    wrong = product(matrix[spare], sources) != np.stack([symbols[k + r] for r in spare])
    return sources, wrong.any(axis=0)


def _correct(sources: Symbols, symbols: Mapping[int, Symbols], columns: NDArray[np.intp], k: int, m: int) -> None:
    """Put right the columns in which symbols disagree, in place.

    A symbol that lies mostly lies in many columns, so the liars of one column are left out in all of them. Where the
    others agree, they are right: of code words that differ from the symbols in at most half as many places as there are
    symbols too many there is only one.
    """
    for _ in range(_MOST_CORRECTIONS):
        liars = _liars({i: int(symbol[columns[0]]) for i, symbol in symbols.items()}, k, m)
        restored, wrong = _restore({i: symbol[columns] for i, symbol in symbols.items() if i not in liars}, k, m)
        sources[:, columns[~wrong]] = restored[:, ~wrong]
        if not wrong.any():
            return
        if wrong[0]:
            break
        columns = columns[wrong]
    raise CorruptDataError("symbols of one block contradict each other beyond repair")


def _liars(word: Mapping[int, int], k: int, m: int) -> set[int]:
    """The places of a code word with errors, of which some places are known.

    Syndromes and their erasures are vectorised, for in a long code word nearly all is erased and `reedsolo` would take
    0.1 s; the errors are found by `reedsolo`.

    Raises:
        CorruptDataError: if there are too many to tell.
    """
    powers = k + m - 1 - np.arange(k + m)
    places = np.array([*word], dtype=np.intp)
    values = np.array([*word.values()], dtype=np.uint8)
    roots = np.array(EXPONENTIALS, dtype=np.uint8)[np.outer(np.arange(m), powers[places]) % 255]
    syndromes = np.bitwise_xor.reduce(PRODUCTS[roots, values], axis=1)
    for place in range(k + m):
        if place not in word:
            # Forney syndromes: each erasure costs one of them, and the rest knows nothing of it any more.
            syndromes = PRODUCTS[EXPONENTIALS[powers[place]]][syndromes[:-1]] ^ syndromes[1:]
    reedsolo.init_tables(POLYNOMIAL)
    try:
        locator = reedsolo.rs_find_error_locator(syndromes.tolist(), len(syndromes))
        return set(reedsolo.rs_find_errors(locator[::-1], k + m))
    except (reedsolo.ReedSolomonError, ZeroDivisionError, IndexError) as error:
        raise CorruptDataError("symbols of one block contradict each other beyond repair") from error
