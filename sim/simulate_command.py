"""``pinhole simulate``: run a scenario on a virtual clock and write its report."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def simulate(
    scenario: Annotated[str, typer.Argument(help="A scenario file (.toml) or the name of a preset.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for report.json and report.md.")] = Path(
        "simulation-report"
    ),
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="In place of the scenario's own seed.")] = None,
) -> None:
    """Run a link scenario on a virtual clock: pictures, losses, latency, goodput.

    Presets: drone-64k, iridium-2400, lora-5k, satcom-9600. The same seed gives the same report, byte for byte.
    """
    from sim.scenario import load_scenario
    from sim.simulation import run_scenario
    from sim.simulation_report import rows, write_reports
    from sim.traffic import submissions

    console = Console()
    chosen = load_scenario(scenario, seed=seed)
    with console.status(f"simulating {chosen.name}"):
        outcome = run_scenario(chosen, submissions(chosen))
        report = write_reports(outcome, output)
    table = Table(title=f"{chosen.name}, seed {chosen.seed}", show_header=False)
    for name, text in rows(report):
        table.add_row(name, text)
    console.print(table)
    console.print(f"report: {output / 'report.md'}", soft_wrap=True, highlight=False)
