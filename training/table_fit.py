"""Fits the latent's coding tables to what the quantised entropy path really predicts.

A Gaussian of the nominal standard deviation would be right if the predictions were. Quantisation blurs small
standard deviations, and real residuals have longer tails than a Gaussian; both cost rate only because the tables do not
know. So each table is counted over calibration latents, with the Gaussian as a prior for symbols that were rarely seen.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shared.codec.entropy.coding import LatentCoder
from shared.codec.entropy.program import LATENT_BITS
from shared.codec.entropy.tables import TOTAL, CodingTables, SymbolTable, whole_counts

PRIOR_SYMBOLS = 400.0
"""How many observed symbols the Gaussian prior of a table weighs."""

Latents = tuple[NDArray[np.float32], NDArray[np.float32]]
"""y (gain applied) and z of one picture, before rounding."""


def fit_tables(coder: LatentCoder, latents: Iterable[Latents]) -> CodingTables:
    """Return the coder's tables, those of the latent refitted to calibration latents at all operating points."""
    tables = coder.tables.latent
    counts = [np.zeros(len(table.counts)) for table in tables]
    for y, z in latents:
        fixed = np.rint(y * (1 << LATENT_BITS)).astype(np.int32)
        for layer, groups in coder.groups(fixed, np.rint(z).astype(np.int32), np.zeros_like(fixed)):
            for symbols, index in groups:
                if layer:
                    _count(symbols, index, tables, counts)
    fitted = tuple(_blend(table, seen) for table, seen in zip(tables, counts, strict=True))
    return replace(coder.tables, latent=fitted)


def _count(
    symbols: NDArray[np.int32],
    index: NDArray[np.intp],
    tables: tuple[SymbolTable, ...],
    counts: list[NDArray[np.float64]],
) -> None:
    for number in np.unique(index):
        table = tables[number]
        positions = symbols[index == number] - table.first
        outside = (positions < 0) | (positions >= table.symbols)
        positions = np.where(outside, table.symbols, positions)
        counts[number] += np.bincount(positions, minlength=len(table.counts))


def _blend(table: SymbolTable, seen: NDArray[np.float64]) -> SymbolTable:
    # Residuals have no preferred sign, so both sides lend each other their observations.
    inside = (seen[:-1] + seen[:-1][::-1]) / 2
    mass = np.append(inside, seen[-1]) + PRIOR_SYMBOLS * table.counts / TOTAL
    return replace(table, counts=whole_counts(mass))
