"""The results as tables on the terminal."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from rich.table import Table
from rich.text import Text

from training.evaluation.curves import Point, compare, direction, target_order
from training.evaluation.results import RateResult, Result, SetResult

_ARROWS = {1: " ↑", -1: " ↓", 0: ""}


def summary_table(results: Sequence[Result], set_results: Sequence[SetResult], reference: str | None = None) -> Table:
    """Return one row for each point of each curve, means over the pictures that all points have.

    Args:
        results: of one dataset.
        set_results: of the same.
        reference: the bundle to put first.
    """
    comparison = compare(results, set_results, keep=lambda result: True, reference=reference)
    metrics, count = comparison.metrics, len(comparison.pictures)
    table = Table("method", "variant", "quality", title=f"means over {count} picture{'' if count == 1 else 's'}")
    for heading in ("bit/pixel", *(name + _ARROWS[direction(name)] for name in metrics), "encode", "decode"):
        table.add_column(heading, justify="right")
    notes: set[str] = set()
    for curve in comparison.curves:
        for point in curve.points:
            table.add_row(curve.method, curve.variant, point.target, *_figures(point, metrics))
            notes.update(point.notes)
        table.add_section()
    lines = [*(f"* {note}" for note in sorted(notes)), *comparison.left_out]
    # As text, because names of pictures may hold what Rich takes for markup.
    table.caption = Text("\n".join(lines)) if lines else None
    return table


def _figures(point: Point, metrics: Sequence[str]) -> list[str]:
    values = [f"{point.metrics[name]:.4g}" if name in point.metrics else "" for name in metrics]
    seconds = ["" if s is None else f"{s:.2f} s" for s in (point.encode_seconds, point.decode_seconds)]
    return [f"{point.bits_per_pixel:.4f}{' *' if point.notes else ''}", *values, *seconds]


def rate_table(rates: Sequence[RateResult]) -> Table:
    """Return, for each operating point, how far the bytes are above the estimate of the entropy tables."""
    groups: dict[tuple[str, str], list[RateResult]] = defaultdict(list)
    for rate in rates:
        groups[rate.method, rate.target].append(rate)
    table = Table("method", "quality", title="mean bytes against the estimate of the entropy tables")
    for heading in ("estimate", "coded", "above estimate", "whole file", "above estimate"):
        table.add_column(heading, justify="right")
    for (method, target), members in sorted(groups.items(), key=lambda item: (item[0][0], target_order(item[0][1]))):
        estimate = fmean(member.estimate for member in members)
        cells = [f"{estimate:.1f}"]
        for size in (fmean(member.payload for member in members), fmean(member.size for member in members)):
            cells += [f"{size:.1f}", f"{100 * (size / estimate - 1):+.2f} %" if estimate else ""]
        table.add_row(method, target, *cells)
    return table
