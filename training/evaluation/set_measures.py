"""Metrics over all pictures of one point of a curve (FID, KID)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from training.evaluation.measuring import Work
from training.evaluation.results import Result, SetResult
from training.evaluation.store import ResultStore, combined

if TYPE_CHECKING:
    from training.evaluation.metrics import SetMetric


def measure_set(
    works: Sequence[Work],
    variant: str,
    metrics: "Sequence[SetMetric]",
    store: ResultStore,
    advance: Callable[[str, int], None],
) -> SetResult | None:
    """Measure one point of a curve, or return what is known of it.

    Pictures are coded again for it, one point at a time: keeping the statistics of all points at once, or all decoded
    pictures, takes gigabytes.

    Args:
        works: all pictures at one target of one candidate.
        variant: how they are decoded.
        metrics: what is measured; they stay as they are, fresh ones take the pictures.
        store: where results are kept; pictures without one (they failed) do not count.
        advance: told what is done next.

    Returns:
        The result; None if no picture could be decoded at this point.
    """
    members: list[tuple[Work, Result]] = []
    for work in works:
        stored = store.result(work.key(variant))
        if stored is not None:
            members.append((work, stored.result))
    if not members:
        return None
    first = members[0][0]
    wanted = frozenset(metric.name for metric in metrics)
    key = replace(
        first.key(variant), pixels=combined([f"{work.marks} {work.matched}" for work, _ in members]), matched=None
    )
    known = store.set_result(key)
    if known is not None and wanted <= known[1]:
        return known[0]
    fresh = [metric.fresh() for metric in metrics]
    for work, _ in members:
        advance(f"{work.place(variant)}, for {', '.join(sorted(wanted))}", 0)
        original = work.source.load()
        decoded = work.candidate.encode(original, work.target.name, work.matched).decode(variant)
        for metric in fresh:
            metric.update(original, decoded.pixels)
    values = {name: value for metric in fresh for name, value in metric.compute().items()}
    rate = float(np.mean([result.bits_per_pixel for _, result in members]))
    result = SetResult(
        dataset=members[0][1].dataset,
        method=first.candidate.name,
        variant=variant,
        target=first.target.name,
        bits_per_pixel=rate,
        metrics=values,
        note="; ".join(dict.fromkeys(metric.note for metric in fresh if metric.note)),
    )
    store.add_set_result(key, result, wanted)
    return result
