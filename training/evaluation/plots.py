"""Figures of rate against every metric, as PNG files.

Bundles are thick, peers thin, published results dashed and grey; colours are those of Okabe and Ito, which stay apart
for colour-blind readers, and every line has a marker of its own, so that no figure depends on colour.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox, BboxBase

from training.evaluation.curves import Comparison, Curve
from training.evaluation.figures import finish, legend_below, make_panels, save
from training.evaluation.published import Published

_BUNDLE_COLOURS = ("#D55E00", "#0072B2", "#000000", "#009E73")
_PEER_STYLES = {
    "VVC": ("#009E73", "s"),
    "HEVC": ("#CC79A7", "^"),
    "AVIF": ("#A6761D", "D"),
    "JPEG XL": ("#56B4E9", "v"),
    "WebP": ("#8C6BB1", "P"),
    "JPEG 2000": ("#4D4D4D", "X"),
    "JPEG": ("#999999", "<"),
}
_MORE_MARKERS = (">", "h", "p", "d")
_GREY = "#7A7A7A"
# Codecs that we run ourselves in newer form, and one of each pair of twins, would only crowd the figures; the page's
# table has them all.
_NOT_DRAWN = ("BPG", "VTM", "RDEIC-5", "AEIC-SE")
_RATE_TICKS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5)
_REACH = 0.35  # how far beyond our own values an axis goes for published ones, as a share of its range
# Beside a point: right and left above, right and left below, in points.
_OFFSETS = ((4, 3, "left", "bottom"), (-4, 3, "right", "bottom"), (4, -3, "left", "top"), (-4, -3, "right", "top"))
_SPACING = 8  # pixels between the places of a line that names keep clear of
_MARGIN = 1.35  # how far beyond our own rates a figure shows the others, as a factor


_Label = tuple[str, list[tuple[float, float]]]  # name of a published curve, its points inside the figure


@dataclass(frozen=True)
class Style:
    """How a line looks."""

    colour: str
    marker: str
    width: float
    dashes: str = "-"


def draw_rate(comparison: Comparison, published: Published, metric: str, path: Path, *, log_rate: bool = True) -> None:
    """Draw rate against one metric.

    Args:
        comparison: bundles and peers; must have the metric somewhere.
        published: overlaid where it has the metric; nothing otherwise.
        metric: which.
        path: PNG file to write.
        log_rate: False for a linear axis of bits per pixel.

    Raises:
        PinholeError: if the file cannot be written.
    """
    figure = Figure(figsize=(7.6, 5.4), layout="constrained")
    axes = figure.add_subplot()
    labels = _rate_axes(axes, comparison, published, metric, log_rate=log_rate)
    legend_below(figure, [axes], columns=4, order=[curve.label for curve in comparison.curves])
    _place(figure, axes, labels)
    save(figure, path)


def draw_overview(comparison: Comparison, metrics: Sequence[str], path: Path) -> None:
    """Draw rate against several metrics, one panel each, without published results.

    Raises:
        PinholeError: if the file cannot be written.
    """
    figure, panels = make_panels(len(metrics))
    for axes, metric in zip(panels, metrics, strict=True):
        _rate_axes(axes, comparison, Published(), metric, log_rate=True, small=True)
    legend_below(figure, panels, columns=5, order=[curve.label for curve in comparison.curves])
    save(figure, path)


def _rate_axes(
    axes: Axes, comparison: Comparison, published: Published, metric: str, *, log_rate: bool, small: bool = False
) -> list[_Label]:
    """Draw all lines; return the names of the published ones, to be placed when the layout is known."""
    bundles = [curve for curve in comparison.bundles if curve.line(metric)[0]]
    own = [rate for curve in bundles or comparison.curves for rate in curve.line(metric)[0]]
    low, high = min(own) / _MARGIN, max(own) * _MARGIN
    seen: list[float] = []
    beyond = []
    # Ours last, on top of the others.
    for curve in [*(curve for curve in comparison.curves if curve.is_peer), *reversed(bundles)]:
        rates, values = curve.line(metric)
        inside = [value for rate, value in zip(rates, values, strict=True) if low <= rate <= high]
        if not inside:
            beyond += [curve.label] if rates else []
            continue
        seen += inside
        style = _style(curve, comparison)
        axes.plot(
            rates,
            values,
            color=style.colour,
            marker=style.marker,
            linewidth=style.width * (0.8 if small else 1.0),
            markersize=(3.5 if small else 5.0) + (0 if curve.is_peer else 1),
            linestyle=style.dashes,
            label=curve.label,
            zorder=2 if curve.is_peer else 3,
        )
    bottom, top = _limits(seen)
    labels, reached = _published_lines(axes, published, metric, (low, high), (bottom, top))
    if log_rate:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(FixedLocator(_ticks(low, high, 5 if small else 9)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(low if log_rate else 0, high)
    axes.set_ylim(*_limits([*seen, *reached]))
    across = "bits per pixel" + (" (logarithmic)" if log_rate else "")
    if beyond:
        across += f"\nbeyond these rates, not shown: {', '.join(beyond)}"
    finish(axes, metric, across, small=small)
    return labels


def _published_lines(
    axes: Axes, published: Published, metric: str, rates_shown: tuple[float, float], own: tuple[float, float]
) -> tuple[list[_Label], list[float]]:
    """Draw published curves; return where their names may go, and the values that the axis should reach.

    The axis reaches a little beyond our own values for them, not as far as the worst of them, which would flatten ours.
    """
    low, high = rates_shown
    reach = _REACH * (own[1] - own[0])
    labels: list[_Label] = []
    reached: list[float] = []
    for method in published.methods:
        points = list(zip(*published.line(method, metric), strict=True))
        inside = [
            (rate, value) for rate, value in points if low <= rate <= high and own[0] - reach <= value <= own[1] + reach
        ]
        if not inside or method in _NOT_DRAWN:
            continue
        axes.plot(
            [rate for rate, _ in points],
            [value for _, value in points],
            color=_GREY,
            linewidth=1.0,
            linestyle=(0, (4, 2)),
            marker=".",
            markersize=5,
            zorder=1,
        )
        labels.append((method, inside))
        reached += [value for _, value in inside]
    return labels, reached


def _place(figure: Figure, axes: Axes, labels: Sequence[_Label]) -> None:
    """Write each name beside that point of its curve where it covers least of the lines and other names."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # fixes the layout, which places in pixels depend on
    frame = axes.get_window_extent()
    taken: list[BboxBase] = []
    for line in axes.get_lines():
        corners = axes.transData.transform(line.get_xydata())
        for start, end in pairwise(corners):
            for x, y in np.linspace(start, end, 2 + int(np.hypot(*(end - start)) / _SPACING)):
                taken.append(Bbox.from_bounds(x - 2, y - 2, 4, 4))
    for text, points in labels:
        best: tuple[int, Annotation] | None = None
        for point in reversed(points):
            for across, up, ha, va in _OFFSETS:
                note = axes.annotate(
                    text,
                    point,
                    xytext=(across, up),
                    textcoords="offset points",
                    ha=ha,
                    va=va,
                    fontsize=7.5,
                    color="#444444",
                    path_effects=[withStroke(linewidth=2.5, foreground="white")],
                    zorder=4,
                )
                box = note.get_window_extent()
                outside = not (frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1))
                cost = box.count_overlaps(taken) + 1000 * outside
                if best is None or cost < best[0]:
                    if best is not None:
                        best[1].remove()
                    best = cost, note
                else:
                    note.remove()
        if best is not None:
            # A name on another name is worse than a name on a line.
            taken += [best[1].get_window_extent()] * 20


def _style(curve: Curve, comparison: Comparison) -> Style:
    if not curve.is_peer:
        names = list(dict.fromkeys(other.method for other in comparison.bundles))
        colour = _BUNDLE_COLOURS[names.index(curve.method) % len(_BUNDLE_COLOURS)]
        # A preview is the same bytes without diffusion: same colour, open marker, dash-dotted.
        return Style(colour, "o", 2.8) if curve.variant == "full" else Style(colour, "*", 2.2, "-.")
    if curve.method in _PEER_STYLES:
        return Style(*_PEER_STYLES[curve.method], 1.1)
    others = sorted({other.method for other in comparison.curves if other.is_peer and other.method not in _PEER_STYLES})
    return Style(_GREY, _MORE_MARKERS[others.index(curve.method) % len(_MORE_MARKERS)], 1.1)


def _ticks(low: float, high: float, most: int) -> list[float]:
    inside = [tick for tick in _RATE_TICKS if low <= tick <= high]
    return inside[:: math.ceil(len(inside) / most)] if inside else [low, high]


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of an axis: all values, with a margin."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin
