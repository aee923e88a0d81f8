"""The single results as CSV files; the means over pictures are the report's."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from shared.files import write_atomically
from training.evaluation.curves import metric_order
from training.evaluation.results import RateResult, Result

_PLAIN = ("dataset", "picture", "method", "variant", "target", "setting", "width", "height", "bytes", "bits_per_pixel")
_SECONDS = ("encode_seconds", "decode_seconds")


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write one row for each decode; a metric that is not defined for a picture leaves its field empty.

    Raises:
        PinholeError: if the disk refuses.
    """
    names = metric_order(name for result in results for name in result.metrics)
    rows = (
        [
            *(result.dataset, result.picture, result.method, result.variant, result.target, result.setting),
            *(result.width, result.height, result.size, f"{result.bits_per_pixel:.6f}"),
            *("" if s is None else f"{s:.4f}" for s in (result.encode_seconds, result.decode_seconds)),
            *(f"{result.metrics[name]:.6f}" if name in result.metrics else "" for name in names),
            result.note,
        ]
        for result in results
    )
    _write(path, (*_PLAIN, *_SECONDS, *names, "note"), rows)


def write_rates(path: Path, rates: Sequence[RateResult]) -> None:
    """Write one row for each picture and operating point: what the entropy coder promised and what was spent.

    Raises:
        PinholeError: if the disk refuses.
    """
    rows = ([r.dataset, r.picture, r.method, r.target, f"{r.estimate:.2f}", r.payload, r.size] for r in rates)
    _write(path, ("dataset", "picture", "method", "target", "estimate_bytes", "payload_bytes", "bytes"), rows)


def _write(path: Path, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
