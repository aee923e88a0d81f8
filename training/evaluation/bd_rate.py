"""Bjontegaard delta rate: by how many per cent the bytes change at equal quality, against an anchor.

Bjontegaard, "Calculation of average PSNR differences between RD-curves" (ITU-T VCEG-M33, 2001), with the piecewise
cubic Hermite interpolation of the JCT-VC and JVET common test conditions (JCTVC-L1100, JVET-T2010) in place of the
original cubic fit, over the logarithm of the rate. The integration is that of the package ``bjontegaard``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import bjontegaard

from training.evaluation.curves import Comparison, direction

_USUAL_POINTS = 4  # VCEG-M33 and the common test conditions have four
_LEAST_OVERLAP = 0.01  # of the quality that either curve covers; below, the mean over it says nothing
_GOOD_OVERLAP = 0.5
_ROUNDING = 1e-9


@dataclass(frozen=True)
class DeltaRate:
    """A delta rate, or why there is none.

    Attributes:
        percent: mean change of the rate at equal quality; negative where the tested curve needs fewer bytes than the
            anchor. None where it cannot be told.
        overlap: share of the quality range of both curves together that both cover, 0 to 1.
        remark: why there is no figure, or with what caution to read it; empty if nothing needs saying.
    """

    percent: float | None
    overlap: float
    remark: str = ""


@dataclass(frozen=True)
class BdRow:
    """The delta rate of one curve against one anchor in one metric.

    Attributes:
        anchor: label of the anchor's curve.
        curve: label of the tested curve.
        metric: name of the metric.
        delta: what came out.
    """

    anchor: str
    curve: str
    metric: str
    delta: DeltaRate


def bd_rate(
    anchor_rates: Sequence[float],
    anchor_values: Sequence[float],
    rates: Sequence[float],
    values: Sequence[float],
    *,
    higher_is_better: bool,
) -> DeltaRate:
    """Return the delta rate of a curve against an anchor.

    Interpolation over quality needs curves that rise with the rate. A point that costs more than another and is no
    better is no choice anyone would make, so it is left out, and the remark says so; points of equal rate and value
    (a codec at its smallest file for several targets) count once.

    Args:
        anchor_rates: of the anchor, positive, in any unit and order.
        anchor_values: quality of the anchor at these rates.
        rates: of the tested curve, in the same unit.
        values: quality of the tested curve.
        higher_is_better: False for distances such as LPIPS.

    Raises:
        ValueError: if there are not as many rates as values, a rate is not positive or a number is not finite.
    """
    sign = 1.0 if higher_is_better else -1.0
    remarks = []
    fronts = []
    for name, curve_rates, curve_values in (("anchor", anchor_rates, anchor_values), ("curve", rates, values)):
        front, dropped = _front(curve_rates, [sign * value for value in curve_values])
        if dropped:
            remarks.append(f"{name}: {dropped} of {len(curve_rates)} points left out, more bytes for no better quality")
        if len(front) < 2:
            return DeltaRate(None, 0.0, "; ".join([f"{name}: fewer than 2 points that rise with the rate", *remarks]))
        if len(front) < _USUAL_POINTS:
            remarks.append(f"{name}: only {len(front)} points")
        fronts.append(front)
    anchor, tested = fronts
    low, high = max(anchor[0][1], tested[0][1]), min(anchor[-1][1], tested[-1][1])
    overlap = max(high - low, 0.0) / (max(anchor[-1][1], tested[-1][1]) - min(anchor[0][1], tested[0][1]))
    if overlap < _LEAST_OVERLAP:
        which = "better" if tested[0][1] >= anchor[-1][1] else "worse" if tested[-1][1] <= anchor[0][1] else ""
        reason = f"the curve is {which} than the anchor at every rate measured" if which else "too little overlap"
        return DeltaRate(None, overlap, "; ".join([f"no common quality: {reason}", *remarks]))
    if overlap < _GOOD_OVERLAP:
        remarks.append(f"curves share {overlap:.0%} of their quality range")
    percent = bjontegaard.bd_rate(
        *([part[0] for part in anchor], [part[1] for part in anchor]),
        *([part[0] for part in tested], [part[1] for part in tested]),
        method="pchip",
        require_matching_points=False,
        min_overlap=0,
    )
    return DeltaRate(float(percent), overlap, "; ".join(remarks))


def all_bd_rates(comparison: Comparison) -> list[BdRow]:
    """Return the delta rate of every curve against every other as anchor, in every metric.

    A metric of unknown direction gives rows without a figure that say so.
    """
    rows = []
    for anchor in comparison.curves:
        for curve in comparison.curves:
            if curve is anchor:
                continue
            for metric in comparison.metrics:
                anchor_line, line = anchor.line(metric), curve.line(metric)
                if direction(metric):
                    delta = bd_rate(*anchor_line, *line, higher_is_better=direction(metric) > 0)
                else:
                    delta = DeltaRate(None, 0.0, "not known whether higher or lower is better")
                rows.append(BdRow(anchor.label, curve.label, metric, delta))
    return rows


def _front(rates: Sequence[float], values: Sequence[float]) -> tuple[list[tuple[float, float]], int]:
    """Return the points that no cheaper or equal one matches, by rising rate, and how many others there were."""
    points = set(zip(rates, values, strict=True))
    if not all(math.isfinite(rate) and rate > 0 and math.isfinite(value) for rate, value in points):
        raise ValueError("rates must be positive, rates and values finite")
    front: list[tuple[float, float]] = []
    for rate, value in sorted(points, key=lambda point: (point[0], -point[1])):
        # A gain of rounding size would make the interpolation's slope overflow.
        if not front or value - front[-1][1] > _ROUNDING * max(1.0, abs(value)):
            front.append((rate, value))
    return front, len(points) - len(front)
