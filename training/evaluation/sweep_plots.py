"""Figures of quality against diffusion steps and against received layers, as PNG files."""

from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from training.evaluation.curves import Comparison, prefix_of, steps_of, target_order
from training.evaluation.figures import finish, legend_below, make_panels, save

_MARKERS = "osD^vP*X"
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#A6761D", "#56B4E9", "#000000", "#8C6BB1")

# A line is of one bundle and one target, and of one kind: sampler and start, or with or without diffusion; an empty
# kind is the bundle's own. Its points are metrics by what stands on the horizontal axis.
_Key = tuple[str, str, str]
_Lines = dict[_Key, dict[float, Mapping[str, float]]]


def draw_steps(sweep: Comparison, path: Path) -> bool:
    """Draw every metric against the number of diffusion steps; lines are bundles, targets, samplers and starts.

    Args:
        sweep: curves whose variants name steps, and previews as 0 steps.
        path: PNG file to write.

    Returns:
        False, with nothing written, if no line has two step counts.

    Raises:
        PinholeError: if the file cannot be written.
    """
    lines: _Lines = {}
    for curve in sweep.curves:
        steps = steps_of(curve.variant)
        if steps is not None:
            for point in curve.points:
                lines.setdefault((curve.method, point.target, steps[1]), {})[steps[0]] = point.metrics
    lines = {key: points for key, points in lines.items() if len(points) > 1}
    # Doubling counts stand at equal distances.
    counts = sorted({count for points in lines.values() for count in points})
    lines = {key: {float(counts.index(n)): points[n] for n in points} for key, points in lines.items()}

    def label(axes: Axes) -> None:
        axes.set_xticks(range(len(counts)), ["0\npreview" if count == 0 else f"{count:g}" for count in counts])

    return _draw(lines, sweep.metrics, "diffusion steps", label, path)


def draw_prefixes(sweep: Comparison, path: Path) -> bool:
    """Draw every metric against the bytes of each layer prefix, previews as lines, full decodes as dashed lines.

    Args:
        sweep: curves whose variants are prefixes, and previews and full decodes as all layers.
        path: PNG file to write.

    Returns:
        False, with nothing written, if no line has two prefixes.

    Raises:
        PinholeError: if the file cannot be written.
    """
    lines: _Lines = {}
    for curve in sweep.curves:
        prefix = prefix_of(curve.variant)
        kind = "full" if (prefix[2] if prefix else curve.variant == "full") else "preview"
        for point in curve.points:
            # The whole picture may be there as "layers 4/4" and as "preview"; it has one size and is one point.
            lines.setdefault((curve.method, point.target, kind), {})[point.size] = point.metrics
    lines = {key: points for key, points in lines.items() if len(points) > 1}

    def label(axes: Axes) -> None:
        axes.xaxis.set_major_locator(MaxNLocator(5))

    return _draw(lines, sweep.metrics, "bytes received", label, path)


def _draw(
    lines: _Lines,
    metrics: list[str],
    across: str,
    label: Callable[[Axes], None],
    path: Path,
) -> bool:
    if not lines:
        return False
    keys = sorted(lines, key=lambda key: (key[0], target_order(key[1]), key[2]))
    dashed = _dashed(keys)
    # A plain line and the dashed one beside it share a colour; where there are more kinds, each has its own.
    looks = {one: number for number, one in enumerate(dict.fromkeys(key[:2] if dashed else key for key in keys))}
    figure, panels = make_panels(len(metrics))
    for axes, metric in zip(panels, metrics, strict=True):
        for key in keys:
            having = sorted((place, values[metric]) for place, values in lines[key].items() if metric in values)
            look = looks[key[:2] if dashed else key]
            colour, second = _COLOURS[look % len(_COLOURS)], key[2] == dashed or look >= len(_COLOURS)
            axes.plot(
                [place for place, _ in having],
                [value for _, value in having],
                color=colour,
                marker=_MARKERS[look % len(_MARKERS)],
                markersize=5,
                markerfacecolor="white" if second else colour,
                linewidth=1.8,
                linestyle="--" if second else "-",
                label=", ".join(filter(None, (key[0], f"quality {key[1]}", key[2]))),
            )
        label(axes)
        finish(axes, metric, across, small=True)
    legend_below(figure, panels, columns=4)
    save(figure, path)
    return True


def _dashed(keys: list[_Key]) -> str | None:
    """Return the kind that is drawn dashed beside another; None if there are more than two kinds."""
    kinds = {key[2] for key in keys}
    dashed = kinds - {"", "preview"}
    return dashed.pop() if len(kinds) <= 2 and len(dashed) == 1 else None
