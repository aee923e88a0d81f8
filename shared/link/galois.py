"""Arithmetic in GF(256) on NumPy arrays: polynomial 0x11d, generator 2, the field of `reedsolo`'s defaults."""

import numpy as np
from numpy.typing import NDArray

Symbols = NDArray[np.uint8]

POLYNOMIAL = 0x11D


def _tables() -> tuple[list[int], list[int], NDArray[np.uint8]]:
    exponentials = [0] * 510
    logarithms = [0] * 256
    value = 1
    for power in range(255):
        exponentials[power] = exponentials[power + 255] = value
        logarithms[value] = power
        value <<= 1
        if value & 0x100:
            value ^= POLYNOMIAL
    products = np.zeros((256, 256), dtype=np.uint8)
    powers = np.array(logarithms[1:])
    products[1:, 1:] = np.array(exponentials, dtype=np.uint8)[powers[:, None] + powers[None, :]]
    return exponentials, logarithms, products


EXPONENTIALS, LOGARITHMS, PRODUCTS = _tables()
"""``EXPONENTIALS[i]`` is 2**i (two periods, 510 entries), ``LOGARITHMS`` its inverse, ``PRODUCTS[a, b]`` is a*b."""

_PRODUCT_ROWS = [row.tobytes() for row in PRODUCTS]


def multiply(a: int, b: int) -> int:
    """Product of two field elements."""
    if a == 0 or b == 0:
        return 0
    return EXPONENTIALS[LOGARITHMS[a] + LOGARITHMS[b]]


def inverse(a: int) -> int:
    """Multiplicative inverse of a field element.

    Raises:
        ZeroDivisionError: for 0.
    """
    if a == 0:
        raise ZeroDivisionError("0 has no inverse in GF(256)")
    return EXPONENTIALS[255 - LOGARITHMS[a]]


def product(matrix: Symbols, columns: Symbols) -> Symbols:
    """Matrix product ``matrix @ columns``.

    Args:
        matrix: shape ``rows x inner``.
        columns: shape ``inner x length``.

    Returns:
        Shape ``rows x length``.
    """
    rows, inner = matrix.shape
    length = columns.shape[1]
    result = np.zeros((rows, length), dtype=np.uint8)
    # A whole row times one constant is a byte translation, which CPython does at memory speed and NumPy's fancy
    # indexing does not.
    sources = [columns[i].tobytes() for i in range(inner)]
    for row in range(rows):
        total = 0
        for coefficient, source in zip(matrix[row].tolist(), sources, strict=True):
            if coefficient == 1:
                total ^= int.from_bytes(source, "little")
            elif coefficient:
                total ^= int.from_bytes(source.translate(_PRODUCT_ROWS[coefficient]), "little")
        result[row] = np.frombuffer(total.to_bytes(length, "little"), dtype=np.uint8)
    return result


def invert(matrix: Symbols) -> Symbols:
    """Inverse of a square matrix by Gauss-Jordan elimination.

    Raises:
        ZeroDivisionError: if the matrix is singular.
    """
    size = matrix.shape[0]
    work = np.concatenate([matrix, np.eye(size, dtype=np.uint8)], axis=1)
    for column in range(size):
        pivots = np.flatnonzero(work[column:, column])
        if pivots.size == 0:
            raise ZeroDivisionError("the matrix has no inverse in GF(256)")
        pivot = column + int(pivots[0])
        if pivot != column:
            work[[column, pivot]] = work[[pivot, column]]
        work[column] = PRODUCTS[inverse(int(work[column, column]))][work[column]]
        others = work[:, column].copy()
        others[column] = 0
        work ^= PRODUCTS[others[:, None], work[column][None, :]]
    inverted: Symbols = work[:, size:]
    return inverted
