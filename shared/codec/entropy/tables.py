"""Integer coding tables: shipped in the bundle, never recomputed, so both ends code with the same numbers.

Every table gives whole counts that sum to 2^16 to the symbols ``-reach .. reach`` and, last, to the escape that stands
for any symbol beyond.
"""

import io
import math
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.codec.entropy.program import SCALE_BITS
from shared.errors import PinholeError

PRECISION = 16
TOTAL = 1 << PRECISION
LARGEST_REACH = 1024
"""No table covers symbols beyond this magnitude; the escape does."""


@dataclass(frozen=True)
class SymbolTable:
    """Counts of the symbols ``first .. first + n - 1`` and of the escape.

    Attributes:
        first: smallest symbol with a count of its own.
        counts: int64 ``n + 1``, all at least 1, sum 2^16; the last is the escape's.
    """

    first: int
    counts: NDArray[np.int64]

    @property
    def symbols(self) -> int:
        """How many symbols have a count of their own."""
        return len(self.counts) - 1

    def bits(self) -> NDArray[np.float64]:
        """Ideal code length of every symbol, the escape last, in bits."""
        lengths: NDArray[np.float64] = np.log2(TOTAL / self.counts)
        return lengths


@dataclass(frozen=True)
class CodingTables:
    """All tables of one bundle.

    Attributes:
        hyper: one table a channel of the hyper-latent.
        thresholds: int64, ascending, units of 2^-8: a scale's table is the number of thresholds below it.
        latent: one table a scale, ``len(thresholds) + 1`` of them.
    """

    hyper: tuple[SymbolTable, ...]
    thresholds: NDArray[np.int64]
    latent: tuple[SymbolTable, ...]

    def scale_index(self, scales: NDArray[np.int32]) -> NDArray[np.intp]:
        """Table numbers for scales in units of 2^-8, any shape."""
        return np.searchsorted(self.thresholds, scales, side="left")

    def to_bytes(self) -> bytes:
        """Serialise to one ``.npz`` file's bytes."""
        tables = (*self.hyper, *self.latent)
        out = io.BytesIO()
        np.savez_compressed(
            out,
            hyper=np.array(len(self.hyper)),
            first=np.array([t.first for t in tables], np.int32),
            length=np.array([len(t.counts) for t in tables], np.int32),
            counts=np.concatenate([t.counts for t in tables]).astype(np.uint16),
            thresholds=self.thresholds.astype(np.int32),
        )
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "CodingTables":
        """Read what `to_bytes` wrote.

        Raises:
            PinholeError: if the bytes are not coding tables or a table does not sum to 2^16.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                pieces = np.split(arrays["counts"].astype(np.int64), np.cumsum(arrays["length"])[:-1])
                tables = tuple(SymbolTable(int(f), c) for f, c in zip(arrays["first"], pieces, strict=True))
                if any(t.counts.sum() != TOTAL or t.counts.min() < 1 for t in tables):
                    raise ValueError("a table does not sum to 65536")
                hyper = int(arrays["hyper"])
                return cls(tables[:hyper], arrays["thresholds"].astype(np.int64), tables[hyper:])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise PinholeError(f"coding tables cannot be read ({error}); install the bundle again") from error


def whole_counts(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Round probabilities to counts of at least 1 that sum to 2^16, taking the excess from the largest."""
    counts: NDArray[np.int64] = np.maximum(1, np.rint(probabilities / probabilities.sum() * TOTAL)).astype(np.int64)
    while (excess := int(counts.sum()) - TOTAL) != 0:
        largest = int(counts.argmax())
        counts[largest] -= excess if excess < counts[largest] else counts[largest] // 2
    return counts


def gaussian_table(scale: float) -> SymbolTable:
    """The table of a zero-mean Gaussian with standard deviation ``scale``, integrated over unit bins."""
    reach = min(LARGEST_REACH, max(1, math.ceil(4.5 * scale)))
    edges = (np.arange(-reach, reach + 2) - 0.5) / (scale * math.sqrt(2))
    # The upper half mirrors the lower one, where erfc keeps its precision.
    lower = np.array([0.5 * math.erfc(-e) for e in edges[: reach + 1]])
    half = np.diff(lower)
    centre = 1 - 2 * lower[-1]
    inside = np.concatenate((half, [centre], half[::-1]))
    return SymbolTable(-reach, whole_counts(np.append(inside, max(0.0, 1 - inside.sum()))))


def latent_tables(smallest: float, largest: float, count: int) -> tuple[NDArray[np.int64], tuple[SymbolTable, ...]]:
    """Thresholds and tables for ``count`` standard deviations spaced evenly in the logarithm.

    As in the paper's codec a scale takes the smallest table at or above it: table i serves scales up to entry i.
    """
    scales = np.exp(np.linspace(math.log(smallest), math.log(largest), count))
    thresholds = np.floor(scales[:-1] * (1 << SCALE_BITS)).astype(np.int64)
    return thresholds, tuple(gaussian_table(float(s)) for s in scales)


def density_table(probabilities: NDArray[np.float64], first: int) -> SymbolTable:
    """The table of one hyper-latent channel, cut to the symbols that matter.

    Args:
        probabilities: mass of the unit bins around ``first, first + 1, ...``.
        first: the first of these symbols.
    """
    kept = np.flatnonzero(probabilities >= 0.5 / TOTAL)
    low, high = (int(kept[0]), int(kept[-1])) if len(kept) else (int(probabilities.argmax()),) * 2
    inside = probabilities[low : high + 1]
    return SymbolTable(first + low, whole_counts(np.append(inside, max(0.0, 1 - inside.sum()))))
