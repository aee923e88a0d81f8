"""Systematic Reed-Solomon across packets, column by column.

Byte column ``c`` of the k source symbols is the message of one code word of ``reedsolo.RSCodec(m)`` (generator
polynomial with the roots 2**0 ... 2**(m-1), message first, highest power first); byte ``c`` of the m repair symbols is
its parity. Any k of the k+m symbols restore all (the code is maximum distance separable).

Encoding is one matrix product over all columns; erasures cost one inversion of an e x e matrix, e the number of source
symbols missing. Wrong symbols are left to `reedsolo`, column by column, for they are rare.
"""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import reedsolo
from numpy.typing import NDArray

from shared.errors import CorruptDataError
from shared.link.galois import EXPONENTIALS, PRODUCTS, Symbols, invert, multiply, product

LONGEST_CODE_WORD = 255
"""k + m of a code over GF(256)."""


@lru_cache(maxsize=256)
def parity_matrix(k: int, m: int) -> Symbols:
    """Parity part of the generator matrix, shape ``m x k``: repair symbols are ``parity_matrix(k, m) @ sources``.

    Raises:
        ValueError: unless k >= 1, m >= 0 and k + m <= 255.
    """
    if k < 1 or m < 0 or k + m > LONGEST_CODE_WORD:
        raise ValueError(f"no Reed-Solomon code with k={k} and m={m}")
    generator = [1]
    for power in range(m):
        root = EXPONENTIALS[power]
        shifted = [*generator, 0]
        for i, coefficient in enumerate(generator):
            shifted[i + 1] ^= multiply(coefficient, root)
        generator = shifted
    tail = np.array(generator[1:], dtype=np.uint8)
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

    Where more than k symbols are there, the rest serves as a check; if symbols disagree, the columns concerned go
    through `reedsolo`'s error correction.

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
        return sources, 0
    wrong = product(matrix[spare], sources) != np.stack([symbols[k + r] for r in spare])
    columns = np.flatnonzero(wrong.any(axis=0))
    if columns.size:
        _correct(sources, symbols, columns, k, m)
    return sources, int(columns.size)


def _correct(sources: Symbols, symbols: Mapping[int, Symbols], columns: NDArray[np.intp], k: int, m: int) -> None:
    """Put right the columns in which symbols disagree, in place."""
    codec = reedsolo.RSCodec(m)
    erased = [i for i in range(k + m) if i not in symbols]
    for column in columns:
        word = bytearray(int(symbols[i][column]) if i in symbols else 0 for i in range(k + m))
        try:
            message = codec.decode(word, erase_pos=erased)[0]
        except (reedsolo.ReedSolomonError, ZeroDivisionError, IndexError) as error:
            raise CorruptDataError("symbols of one block contradict each other beyond repair") from error
        sources[:, column] = np.frombuffer(bytes(message), dtype=np.uint8)
