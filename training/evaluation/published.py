"""Published results of other codecs, shipped as facts in ``data/published.csv``; the file's header names their sources.

They were measured by their authors, with their authors' implementations of the metrics; nothing here repeats that.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files

from shared.errors import CorruptDataError

_COLUMNS = ["dataset", "method", "setting", "bpp", "metric", "value", "source"]
_SOURCE_LINE = re.compile(r"# source ([a-z0-9-]+): (\S.*)")
# Least and largest value that a metric can sensibly have; a slip of the decimal point mostly falls outside.
_RANGES = {
    "PSNR": (5.0, 60.0),
    "SSIM": (0.0, 1.0),
    "MS-SSIM": (0.0, 1.0),
    "LPIPS": (0.0, 1.5),
    "DISTS": (0.0, 1.0),
    "NIQE": (0.0, 100.0),
    "FID": (0.0, 1000.0),
    "KID": (-0.01, 1.0),
}
# The pictures' sizes (width, height) under the protocol that the figures were measured with.
_SIZES = {
    "kodak": {(768, 512), (512, 768)},
    "clic2020": {(768, 768)},
    "tecnick": {(768, 768)},
}
_WHOLE_SETS = {"kodak": 24}


@dataclass(frozen=True)
class PublishedPoint:
    """One setting of one published method on one dataset.

    Attributes:
        dataset: as published, "Kodak".
        method: as published.
        setting: the method's own name for it.
        bits_per_pixel: mean over the dataset, None for a method without a bitstream.
        metrics: values by name.
        source: key of `Published.sources`.
    """

    dataset: str
    method: str
    setting: str
    bits_per_pixel: float | None
    metrics: Mapping[str, float]
    source: str


@dataclass(frozen=True)
class Published:
    """Published points and where they come from.

    Attributes:
        points: by dataset and method in the order of the file, then by rate.
        sources: a line of text for each source's key.
    """

    points: tuple[PublishedPoint, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """Names of all methods, each once, in order."""
        return list(dict.fromkeys(point.method for point in self.points))

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics, each once, in order."""
        return list(dict.fromkeys(name for point in self.points for name in point.metrics))

    def line(self, method: str, metric: str) -> tuple[list[float], list[float]]:
        """Return bits per pixel and values of one method's curve in one metric, by rate."""
        points = [p for p in self.points if p.method == method and metric in p.metrics and p.bits_per_pixel is not None]
        return [p.bits_per_pixel for p in points if p.bits_per_pixel is not None], [p.metrics[metric] for p in points]


def read_published(text: str, name: str) -> Published:
    """Return what a file of published results holds.

    Args:
        text: lines ``# source KEY: TEXT`` among other comments, a header row, then one value a row.
        name: of the file, for errors.

    Raises:
        CorruptDataError: if a column is missing, a number is none or out of its metric's range, a value is given twice,
            one setting has two rates or sources, or a source is not explained.
    """
    lines = text.splitlines()
    sources = {match[1]: match[2] for match in map(_SOURCE_LINE.fullmatch, lines) if match}
    # Comments stand at the top; the reader counts its lines from where they end.
    first = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    reader = csv.DictReader(io.StringIO("\n".join(lines[first:])))
    if reader.fieldnames != _COLUMNS:
        raise CorruptDataError(
            f"{name}: columns are {', '.join(reader.fieldnames or ['missing'])}; they must be {', '.join(_COLUMNS)}"
        )
    found: dict[tuple[str, str, str], tuple[float | None, str, dict[str, float]]] = {}
    try:
        for row in reader:
            key, bits, metric, value, source = _row(row, sources)
            known = found.setdefault(key, (bits, source, {}))
            if known[:2] != (bits, source):
                raise ValueError(f"{' '.join(key)} has another rate or source further up; make them one")
            if metric in known[2]:
                raise ValueError(f"{metric} of {' '.join(key)} is given twice; remove one")
            known[2][metric] = value
    except (ValueError, csv.Error) as error:
        raise CorruptDataError(f"{name}, line {first + reader.line_num}: {error}") from None
    points = [PublishedPoint(*key, bits, metrics, source) for key, (bits, source, metrics) in found.items()]
    order = {key: number for number, key in enumerate(dict.fromkeys((p.dataset, p.method) for p in points))}
    points.sort(key=lambda p: (order[p.dataset, p.method], p.bits_per_pixel or math.inf))
    return Published(tuple(points), sources)


def all_published() -> Published:
    """Return the published results that ship with the project.

    Raises:
        CorruptDataError: if the file is damaged.
    """
    file = files("training.evaluation") / "data" / "published.csv"
    return read_published(file.read_text(encoding="utf-8"), "published.csv")


def published_for(
    dataset: str, sizes: Iterable[tuple[int, int]], pictures: int, published: Published | None = None
) -> tuple[Published, str]:
    """Return what may stand beside our figures for a dataset, and what a reader must know about it.

    Args:
        dataset: our name of it; case and punctuation do not count.
        sizes: width and height of our pictures; figures measured at other sizes are not comparable.
        pictures: how many of them our means are over.
        published: None for the file that ships with the project.

    Returns:
        The points of that dataset, none if the protocol differs, and one or two sentences, empty where nothing is
        published.
    """
    published = all_published() if published is None else published
    name = _plain(dataset)
    points = tuple(point for point in published.points if _plain(point.dataset) == name)
    if not points:
        return Published(), ""
    wrong = sorted(set(sizes) - _SIZES.get(name, set()))
    if wrong:
        fitting = " or ".join(f"{width}x{height}" for width, height in sorted(_SIZES.get(name, set()), reverse=True))
        text = f"Published results for {points[0].dataset} are not shown: they are for pictures of {fitting}, "
        return Published(), text + f"these are {wrong[0][0]}x{wrong[0][1]}{' and others' if wrong[1:] else ''}."
    used = dict.fromkeys(point.source for point in points)
    text = "Published values are their authors' own, with their authors' implementations of the metrics."
    if pictures < _WHOLE_SETS.get(name, 0):
        text += f" They are over all {_WHOLE_SETS[name]} pictures, ours over {pictures}: not strictly comparable."
    return Published(points, {key: published.sources[key] for key in used}), text


def _row(
    row: Mapping[str, str | None], sources: Mapping[str, str]
) -> tuple[tuple[str, str, str], float | None, str, float, str]:
    cells = [row.get(column) for column in _COLUMNS]
    if None in row or any(cell is None for cell in cells):
        raise ValueError(f"there must be {len(_COLUMNS)} cells")
    dataset, method, setting, bits, metric, value, source = (str(cell) for cell in cells)
    if not (dataset and method and setting):
        raise ValueError("dataset, method and setting must not be empty")
    if metric not in _RANGES:
        raise ValueError(f"unknown metric {metric!r}; known are {', '.join(_RANGES)}")
    if source not in sources:
        raise ValueError(f"source {source!r} is not explained; add a line `# source {source}: ...` at the top")
    low, high = _RANGES[metric]
    return (
        (dataset, method, setting),
        _number("bpp", bits, 1e-4, 24.0) if bits else None,
        metric,
        _number(metric, value, low, high),
        source,
    )


def _number(what: str, text: str, low: float, high: float) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{what} {text!r} is no number") from None
    if not low <= number <= high:  # catches NaN as well
        raise ValueError(f"{what} {text} is not within {low:g} to {high:g}")
    return number


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
