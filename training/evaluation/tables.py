"""The tables of a report, as rows of text that the page, the Markdown file and the CSV files share."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from training.evaluation.bd_rate import BdRow
from training.evaluation.curves import Comparison, Curve, Point, direction

# A peer is never given fewer bytes than we use, and its settings are coarse. Within this factor its bytes count as the
# same; beyond, its figures are shown but not marked as best.
SAME_BYTES = 1.1

_DECIMALS = {"PSNR": 2, "NIQE": 2, "FID": 2, "KID": 5}
_NOTHING = "-"


@dataclass(frozen=True)
class Cell:
    """One value of a table.

    Attributes:
        text: the value, rounded; a dash where there is none.
        best: whether it is the best of those at the same bytes.
        remarks: numbers of the table's footnotes, from 1.
    """

    text: str
    best: bool = False
    remarks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        label: of the curve.
        own: whether it is a bundle's.
        cells: one for each column.
    """

    label: str
    own: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table with its footnotes.

    Attributes:
        title: what it is of: a target, an anchor.
        columns: heads of the cells, without that of the label.
        rows: in order.
        footnotes: texts that cells refer to by number, from 1.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    footnotes: tuple[str, ...] = ()


class _Footnotes:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def numbers(self, texts: Iterable[str]) -> tuple[int, ...]:
        wanted = [text for text in texts if text]
        self.texts += [text for text in dict.fromkeys(wanted) if text not in self.texts]
        return tuple(self.texts.index(text) + 1 for text in wanted)


def metric_text(metric: str, value: float | None) -> str:
    """Return a value as the tables show it."""
    return _NOTHING if value is None else f"{value:.{_DECIMALS.get(metric.split('(')[0].strip(), 4)}f}"


def seconds_text(value: float | None) -> str:
    """Return seconds with three significant digits at most, a dash where not measured."""
    return _NOTHING if value is None else f"{value:.3f}" if value < 1 else f"{value:.2f}"


def head(metric: str) -> str:
    """Return a metric's column head: name, unit, arrow to where it is better."""
    unit = " [dB]" if metric.startswith("PSNR") else ""
    return f"{metric}{unit}{ {1: ' ↑', -1: ' ↓', 0: ''}[direction(metric)] }"


def operating_point_tables(comparison: Comparison) -> list[Table]:
    """Return one table for each target: every curve at about the same bytes, the best of each metric marked.

    The same bytes are those of the first bundle's point (or of the smallest point, without bundles) times at most
    `SAME_BYTES`; points with more say how many, and are never marked as best.
    """
    tables = []
    metrics = comparison.metrics
    for target in comparison.targets:
        points = [(curve, point) for curve in comparison.curves if (point := curve.at(target)) is not None]
        own = [point for curve, point in points if not curve.is_peer]
        budget = own[0].bits_per_pixel if own else min(point.bits_per_pixel for _, point in points)
        fair = [point for _, point in points if point.bits_per_pixel <= SAME_BYTES * budget]
        best = {metric: _best(metric, fair) for metric in metrics}
        footnotes = _Footnotes()
        rows = []
        for curve, point in points:
            ratio = point.bits_per_pixel / budget
            more = f"{ratio:.2g} times the bytes, not compared" if ratio > SAME_BYTES else ""
            bits = Cell(f"{point.bits_per_pixel:.4f}", remarks=footnotes.numbers([more, *point.notes]))
            values = [
                Cell(
                    metric_text(metric, point.metrics.get(metric)),
                    ratio <= SAME_BYTES and metric in point.metrics and point.metrics[metric] == best[metric],
                )
                for metric in metrics
            ]
            rows.append(Row(curve.label, not curve.is_peer, (bits, Cell(f"{point.size:.0f}"), *values)))
        title = f"Quality {target}: {budget:.4f} bits per pixel"
        tables.append(Table(title, ("bits/pixel", "bytes", *map(head, metrics)), tuple(rows), tuple(footnotes.texts)))
    return tables


def bd_rate_tables(comparison: Comparison, rows: Sequence[BdRow]) -> list[Table]:
    """Return one table of BD-rates for each anchor; the best (lowest) of each metric is marked."""
    own = {curve.label for curve in comparison.bundles}
    tables = []
    for anchor in (curve.label for curve in comparison.curves):
        against = {(row.curve, row.metric): row.delta for row in rows if row.anchor == anchor}
        if not against:
            continue
        footnotes = _Footnotes()
        lines = []
        for label in (curve.label for curve in comparison.curves if curve.label != anchor):
            cells = []
            for metric in comparison.metrics:
                delta = against[label, metric]
                known = [d.percent for (_, m), d in against.items() if m == metric and d.percent is not None]
                text = _NOTHING if delta.percent is None else f"{delta.percent:+.1f} %"
                best = delta.percent is not None and delta.percent == min(known)
                cells.append(Cell(text, best, footnotes.numbers([delta.remark])))
            lines.append(Row(label, label in own, tuple(cells)))
        tables.append(Table(anchor, tuple(comparison.metrics), tuple(lines), tuple(footnotes.texts)))
    return tables


def seconds_table(comparison: Comparison) -> Table:
    """Return the seconds to encode and to decode one picture, by curve and target."""
    columns = [f"{what}, quality {target}" for what in ("encode", "decode") for target in comparison.targets]
    rows = []
    for curve in comparison.curves:
        points = [curve.at(target) for target in comparison.targets]
        cells = [Cell(seconds_text(point.encode_seconds if point else None)) for point in points]
        cells += [Cell(seconds_text(point.decode_seconds if point else None)) for point in points]
        rows.append(Row(curve.label, not curve.is_peer, tuple(cells)))
    return Table("Seconds for one picture", tuple(columns), tuple(rows))


def sweep_table(title: str, sweep: Comparison) -> Table:
    """Return every point of a sweep over steps or prefixes."""
    footnotes = _Footnotes()
    rows = []
    for curve, point in _points(sweep):
        values = [Cell(metric_text(metric, point.metrics.get(metric))) for metric in sweep.metrics]
        bytes_cell = Cell(f"{point.size:.0f}", remarks=footnotes.numbers(point.notes))
        decode = Cell(seconds_text(point.decode_seconds))
        rows.append(Row(f"{curve.label}, quality {point.target}", True, (bytes_cell, decode, *values)))
    columns = ("bytes", "decode [s]", *map(head, sweep.metrics))
    return Table(title, columns, tuple(rows), tuple(footnotes.texts))


def as_markdown(table: Table, corner: str) -> str:
    """Return a table in GitHub's Markdown, best values in bold, footnotes as a list below."""
    lines = [_line([corner, *table.columns]), _line([":---", *("---:" for _ in table.columns)])]
    for row in table.rows:
        cells = [f"**{cell.text}**" if cell.best else cell.text for cell in row.cells]
        marks = [f" [{', '.join(map(str, cell.remarks))}]" if cell.remarks else "" for cell in row.cells]
        lines.append(_line([row.label, *(cell + mark for cell, mark in zip(cells, marks, strict=True))]))
    lines += ["", *(f"* [{number}] {text}" for number, text in enumerate(table.footnotes, 1))]
    return "\n".join(lines).rstrip() + "\n"


def summary_csv(dataset: str, comparisons: Iterable[tuple[str, Comparison]]) -> str:
    """Return one row for each point of each curve; the first column names the comparison its means belong to."""
    listed = list(comparisons)
    metrics = list(dict.fromkeys(name for _, comparison in listed for name in comparison.metrics))
    fixed = ["comparison", "dataset", "method", "variant", "target", "setting", "pictures"]
    numbers = ["bits_per_pixel", "bytes", "encode_seconds", "decode_seconds"]
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow([*fixed, *numbers, *metrics, "notes"])
    for name, comparison in listed:
        for curve, point in _points(comparison):
            writer.writerow([name, dataset, *_summary_row(curve, point), *_values(point, metrics), _notes(point)])
    return target.getvalue()


def bd_rate_csv(rows: Iterable[BdRow]) -> str:
    """Return one row for each anchor, curve and metric; per cent are empty where there is no figure."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(["anchor", "curve", "metric", "bd_rate_percent", "overlap", "remark"])
    for row in rows:
        percent = "" if row.delta.percent is None else f"{row.delta.percent:.4f}"
        writer.writerow([row.anchor, row.curve, row.metric, percent, f"{row.delta.overlap:.4f}", row.delta.remark])
    return target.getvalue()


def _points(comparison: Comparison) -> Iterator[tuple[Curve, Point]]:
    return ((curve, point) for curve in comparison.curves for point in curve.points)


def _best(metric: str, points: Sequence[Point]) -> float | None:
    values = [point.metrics[metric] for point in points if metric in point.metrics]
    if not values or not direction(metric):
        return None
    return max(values) if direction(metric) > 0 else min(values)


def _summary_row(curve: Curve, point: Point) -> list[str]:
    return [
        curve.method,
        curve.variant,
        point.target,
        _range(point.settings),
        str(point.pictures),
        f"{point.bits_per_pixel:.6f}",
        f"{point.size:.1f}",
        "" if point.encode_seconds is None else f"{point.encode_seconds:.4f}",
        "" if point.decode_seconds is None else f"{point.decode_seconds:.4f}",
    ]


def _values(point: Point, metrics: Sequence[str]) -> list[str]:
    return [f"{point.metrics[name]:.6g}" if name in point.metrics else "" for name in metrics]


def _notes(point: Point) -> str:
    return "; ".join(point.notes)


def _range(settings: Sequence[str]) -> str:
    # Searched peers have a setting of their own for each picture; few are listed, many would only fill the cell.
    return "; ".join(settings) if len(settings) <= 3 else f"{len(settings)} settings"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
