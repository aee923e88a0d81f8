"""What all figures have in common: panels, axes, legend, file."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from shared.errors import PinholeError
from training.evaluation.curves import direction


def axis_label(metric: str) -> str:
    """Return a metric's name with its unit and an arrow to where it is better."""
    unit = ", dB" if metric.startswith("PSNR") else ""
    return f"{metric}{unit}{ {1: ' (higher is better)', -1: ' (lower is better)', 0: ''}[direction(metric)] }"


def make_panels(count: int) -> tuple[Figure, list[Axes]]:
    """Return a figure of so many panels, three in a row."""
    columns = min(3, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(3.7 * columns + 0.5, 2.9 * rows + 0.7), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    panels: list[Axes] = list(grid.flat)
    for unused in panels[count:]:
        unused.remove()
    return figure, panels[:count]


def finish(axes: Axes, metric: str, across: str, *, small: bool) -> None:
    """Give axes their title, horizontal label and grid; small for one panel of many."""
    size = 8.5 if small else 10
    axes.set_title(axis_label(metric), fontsize=size + 1, loc="left")
    axes.set_xlabel(across, fontsize=size)
    axes.tick_params(labelsize=size - 0.5)
    axes.grid(visible=True, color="#E3E3E3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Figure, panels: Sequence[Axes], *, columns: int, order: Sequence[str] = ()) -> None:
    """Write one legend for all panels below them; names in the given order, others left out; all if none is given."""
    handles: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    names = [label for label in order if label in handles] or list(handles)
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside lower center",
        ncols=min(columns, len(names)),
        fontsize=8.5,
        handlelength=4,
        frameon=False,
    )


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG.

    Raises:
        PinholeError: if the file cannot be written.
    """
    FigureCanvasAgg(figure)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # No software version inside, so that the same results give the same file.
        figure.savefig(path, dpi=150, metadata={"Software": None})
    except OSError as error:
        raise PinholeError(f"cannot write {path}: {error.strerror or error}; choose another folder with -o") from None
