"""The end of an evaluation: CSV files, tables on the terminal, and the page."""

from pathlib import Path

from rich.console import Console

from shared.errors import PinholeError
from training.evaluation.csv_files import write_rates, write_results
from training.evaluation.measuring import Outcome
from training.evaluation.page import ORIGINAL
from training.evaluation.report import ShownPicture, write_report
from training.evaluation.terminal import rate_table, summary_table


def write_everything(folder: Path, outcome: Outcome, command: str, reference: str, console: Console) -> Path:
    """Write all that is made of the results; the figures themselves are first, so that they survive the rest.

    Args:
        folder: where to.
        outcome: what was found.
        command: how it was asked for, shown on the page.
        reference: the bundle whose bytes the peers were given.
        console: where the tables go.

    Returns:
        The page.

    Raises:
        PinholeError: if there is no result at all, or the disk refuses.
    """
    if not outcome.results:
        raise PinholeError(f"nothing could be measured; the reasons are above and in {folder}")
    write_results(folder / "results.csv", outcome.results)
    write_rates(folder / "rates.csv", outcome.rates)
    console.print(summary_table(outcome.results, outcome.set_results, reference))
    if outcome.rates:
        console.print(rate_table(outcome.rates))
    pictures = len({result.picture for result in outcome.results})
    return write_report(
        folder,
        outcome.results,
        outcome.set_results,
        shown_pictures(outcome),
        title=f"{outcome.results[0].dataset}, {pictures} picture{'' if pictures == 1 else 's'}",
        command=command,
        reference=reference,
    )


def shown_pictures(outcome: Outcome) -> list[ShownPicture]:
    """Return what the page shows: originals and decoded pictures."""
    originals = [
        ShownPicture(picture=name, method=ORIGINAL, variant="", target="", bits_per_pixel=24.0, path=path, metrics={})
        for name, path in outcome.originals.items()
    ]
    decoded = [
        ShownPicture(
            picture=kept.result.picture,
            method=kept.result.method,
            variant=kept.result.variant,
            target=kept.result.target,
            bits_per_pixel=kept.result.bits_per_pixel,
            path=kept.path,
            metrics=kept.result.metrics,
        )
        for kept in outcome.kept
    ]
    return [*originals, *decoded]
