"""Coding tables: made from the model's densities, then fitted to what the quantised entropy path really predicts.

A Gaussian of the nominal standard deviation would be right if the predictions were. Quantisation blurs small
standard deviations, and real residuals have longer tails than a Gaussian; both cost rate only because the tables do not
know. So each table is counted over calibration latents, with the model's density as a prior for symbols that were
rarely seen.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from shared.codec.entropy.coding import LatentCoder
from shared.codec.entropy.program import LATENT_BITS
from shared.codec.entropy.range_coder import TableNumbers
from shared.codec.entropy.tables import TOTAL, CodingTables, SymbolTable, density_table, latent_tables, whole_counts
from shared.codec.nets.factorised_prior import FactorisedPrior

SMALLEST_SCALE, LARGEST_SCALE, SCALES = 0.11, 64.0, 64
"""Standard deviations that have a table of their own, evenly spaced in the logarithm."""
HYPER_REACH = 60
"""Symbols of the hyper-latent beyond this magnitude are escapes."""
PRIOR_SYMBOLS = 400.0
"""How many observed symbols the model's density weighs in a table."""

Latents = tuple[NDArray[np.float32], NDArray[np.float32], float]
"""y (gain applied) and z (medians taken away) of one picture, before rounding, and how much its bits weigh against
other pictures'."""


def model_tables(
    prior: FactorisedPrior, largest_scale: float = LARGEST_SCALE, hyper_reach: int = HYPER_REACH
) -> CodingTables:
    """Tables of the model's own densities: Gaussians for the latent, the learned density for the hyper-latent.

    Args:
        prior: density of the hyper-latent; its symbols are whole distances from its medians.
        largest_scale: largest standard deviation that has a table of its own.
        hyper_reach: symbols of the hyper-latent beyond this magnitude are escapes.
    """
    edges = torch.arange(-hyper_reach, hyper_reach + 2, dtype=torch.float64) - 0.5
    medians = prior.medians[:, :, 0].double().cpu()
    mass = np.diff(prior.cdf(edges + medians).cpu().numpy(), axis=1)
    hyper = tuple(density_table(row, -hyper_reach) for row in mass)
    return CodingTables(hyper, *latent_tables(SMALLEST_SCALE, largest_scale, SCALES))


def fit_tables(coder: LatentCoder, latents: Iterable[Latents]) -> CodingTables:
    """Return the coder's tables refitted to calibration latents of all operating points."""
    tables = (coder.tables.hyper, coder.tables.latent)
    counts = [[np.zeros(len(table.counts)) for table in group] for group in tables]
    weights = 0.0
    pictures = 0
    for y, z, weight in latents:
        weights, pictures = weights + weight, pictures + 1
        fixed = np.rint(y * (1 << LATENT_BITS)).astype(np.int32)
        for layer, groups in coder.groups(fixed, np.rint(z).astype(np.int32), np.zeros_like(fixed)):
            for symbols, index in groups:
                _count(symbols, index, tables[layer > 0], counts[layer > 0], weight)
    mean = weights / max(1, pictures) or 1.0
    hyper, latent = (
        tuple(_blend(table, seen / mean, symmetric) for table, seen in zip(group, kinds, strict=True))
        for group, kinds, symmetric in zip(tables, counts, (False, True), strict=True)
    )
    return CodingTables(hyper, coder.tables.thresholds, latent)


def _count(
    symbols: NDArray[np.int32],
    index: TableNumbers,
    tables: tuple[SymbolTable, ...],
    counts: list[NDArray[np.float64]],
    weight: float,
) -> None:
    for number in np.unique(index).tolist():
        table = tables[number]
        positions = symbols[index == number] - table.first
        outside = (positions < 0) | (positions >= table.symbols)
        positions = np.where(outside, table.symbols, positions)
        counts[number] += weight * np.bincount(positions, minlength=len(table.counts))


def _blend(table: SymbolTable, seen: NDArray[np.float64], symmetric: bool) -> SymbolTable:
    if symmetric:
        # Residuals of the latent have no preferred sign, so both sides lend each other their observations.
        seen = np.append((seen[:-1] + seen[:-1][::-1]) / 2, seen[-1])
    return SymbolTable(table.first, whole_counts(seen + PRIOR_SYMBOLS * table.counts / TOTAL))
