"""The report of an evaluation: figures, CSV files, Markdown tables and one HTML page, from nothing but its results."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shared.errors import PinholeError
from shared.files import write_atomically
from training.evaluation.bd_rate import all_bd_rates
from training.evaluation.curves import Comparison, compare, prefix_of, steps_of, the_dataset
from training.evaluation.page import Figure, Page, ShownPicture, render_page
from training.evaluation.plots import draw_overview, draw_rate
from training.evaluation.published import Published, published_for
from training.evaluation.results import Result, SetResult
from training.evaluation.sweep_plots import draw_prefixes, draw_steps
from training.evaluation.tables import (
    Table,
    as_markdown,
    bd_rate_csv,
    bd_rate_tables,
    operating_point_tables,
    seconds_table,
    summary_csv,
    sweep_table,
)

__all__ = ["ShownPicture", "write_report"]


def write_report(
    out: Path,
    results: Sequence[Result],
    set_results: Sequence[SetResult],
    shown: Sequence[ShownPicture],
    title: str,
    command: str,
    *,
    reference: str | None = None,
) -> Path:
    """Write ``index.html``, ``table.md``, ``summary.csv``, ``bd_rate.csv`` and ``plots/*.png``.

    The same input in any order gives the same files. Files of an earlier report there are replaced, and its figures
    that are not drawn again are removed.

    Args:
        out: folder, made if need be.
        results: of one dataset; peers or bundles may be missing.
        set_results: FID and KID, where they were measured.
        shown: pictures to compare side by side; those without a note take it from their result.
        title: of the page.
        command: that was called, shown so that anyone can repeat it.
        reference: the bundle that the peers' bytes were matched to; None for the first by name.

    Returns:
        The page's path.

    Raises:
        UsageError: if the results are none, or of several datasets.
        PinholeError: if a file cannot be written, a shown picture cannot be read, or no picture has all results.
    """
    dataset = the_dataset(results)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PinholeError(f"cannot make folder {out}: {error.strerror or error}; give another with -o") from None
    results = sorted(results, key=lambda one: (one.picture, one.method, one.variant, one.target, one.setting))
    comparison = compare(results, set_results, reference=reference)
    if not comparison.curves:
        raise PinholeError("no peer, preview or full decode among the results; evaluate at least one")
    steps = _sweep(results, reference, kind="steps")
    prefixes = _sweep(results, reference, kind="layers")
    counted = [one for one in results if one.picture in comparison.pictures]
    published, published_note = published_for(
        dataset, {(one.width, one.height) for one in counted}, len(comparison.pictures)
    )
    rates = all_bd_rates(comparison)
    bd_tables = bd_rate_tables(comparison, rates)
    anchor = _first_anchor(comparison)
    sweeps = [
        sweep_table(name, sweep)
        for name, sweep in (("Diffusion steps", steps), ("Layer prefixes", prefixes))
        if sweep.curves
    ]
    page = Page(
        title=title,
        command=command,
        dataset=dataset,
        comparison=comparison,
        operating_points=operating_point_tables(comparison),
        bd_rates=bd_tables,
        anchor=anchor,
        seconds=seconds_table(comparison),
        sweeps=sweeps,
        figures=_draw(out / "plots", comparison, published, steps, prefixes),
        published=published,
        published_note=published_note,
        shown=_with_notes(shown, results),
    )
    parts = [("rate", comparison), ("steps", steps), ("layers", prefixes)]
    write_atomically(out / "summary.csv", summary_csv(dataset, parts).encode())
    write_atomically(out / "bd_rate.csv", bd_rate_csv(rates).encode())
    write_atomically(out / "table.md", _markdown(page).encode())
    index = out / "index.html"
    write_atomically(index, render_page(page).encode())
    return index


def _sweep(results: Sequence[Result], reference: str | None, *, kind: str) -> Comparison:
    """Return the curves over steps or prefixes, at the targets where they were swept."""
    chosen = steps_of if kind == "steps" else prefix_of
    ends = {"preview"} if kind == "steps" else {"preview", "full"}
    swept = [one for one in results if one.variant not in ends and chosen(one.variant) is not None]
    where = {(one.method, one.target) for one in swept}
    swept += [one for one in results if one.variant in ends and (one.method, one.target) in where]
    return compare(swept, keep=lambda _: True, reference=reference)


def _draw(
    folder: Path, comparison: Comparison, published: Published, steps: Comparison, prefixes: Comparison
) -> list[Figure]:
    figures = []
    if comparison.metrics:
        overview = folder / "overview.png"
        draw_overview(comparison, comparison.metrics, overview)
        figures.append(Figure(overview, "All metrics against the rate."))
    for metric in comparison.metrics:
        path = folder / f"rate-{re.sub('[^a-z0-9]+', '-', metric.lower()).strip('-')}.png"
        draw_rate(comparison, published, metric, path)
        dashed = "; dashed and grey: published results" if metric in published.metrics else ""
        figures.append(Figure(path, f"{metric} against the rate{dashed}."))
    path = folder / "steps.png"
    if draw_steps(steps, path):
        figures.append(Figure(path, "Quality against diffusion steps; 0 is the preview."))
    path = folder / "layers.png"
    if draw_prefixes(prefixes, path):
        figures.append(Figure(path, "Quality of each layer prefix against the bytes received."))
    for old in folder.glob("*.png"):
        if old not in [figure.path for figure in figures]:
            old.unlink(missing_ok=True)
    return figures


def _markdown(page: Page) -> str:
    comparison = page.comparison
    parts = [f"Dataset {page.dataset}, means over {len(comparison.pictures)} pictures. Made by `{page.command}`.\n"]
    if comparison.left_out:
        parts.append("\n".join(f"* {line}" for line in comparison.left_out) + "\n")

    def add(table: Table, title: str, corner: str) -> None:
        parts.append(f"### {title}\n")
        parts.append(as_markdown(table, corner))

    for table in page.operating_points:
        add(table, table.title, "method")
    for table in page.bd_rates:
        if table.title == page.anchor:
            add(table, f"BD-rate against {table.title}", "curve")
    add(page.seconds, page.seconds.title, "method")
    for table in page.sweeps:
        add(table, table.title, "decode")
    return "\n".join(parts)


def _first_anchor(comparison: Comparison) -> str:
    labels = [curve.label for curve in comparison.curves if curve.is_peer] or [comparison.curves[0].label]
    return "VVC" if "VVC" in labels else labels[0]


def _with_notes(shown: Sequence[ShownPicture], results: Sequence[Result]) -> list[ShownPicture]:
    notes = {(one.picture, one.method, one.variant, one.target): one.note for one in results}
    return [
        replace(one, note=one.note or notes.get((one.picture, one.method, one.variant, one.target), ""))
        for one in sorted(shown, key=lambda one: one.picture)
    ]
