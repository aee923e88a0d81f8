"""`pinhole train`: one stage, or every stage of a folder of configurations in order."""

from pathlib import Path
from typing import Annotated

import typer

from training.run_stage import run_plan, run_stage


def train(
    stage: Annotated[
        str, typer.Argument(metavar="STAGE", help="A stage (autoencoder, codec, ...), or all: every stage in order.")
    ],
    config: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG", help="TOML file, folder of TOML files, or name of one that comes with Pinhole: pocket."
        ),
    ],
    photographs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of photographs to train on, searched with subfolders.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of all checkpoints; a stage goes on where it stopped.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="End, annealed, after so long; with all: shared out as the configurations are."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, as optimise.steps=2000.")
    ] = None,
) -> None:
    """Train a stage of a bundle, or a whole bundle from photographs.

    A stage that was stopped (Ctrl-C, SIGTERM, a crash) goes on from its last checkpoint when it is called again. Start
    it through `accelerate launch -m pinhole train ...` for several GPUs.
    """
    flags = {
        "photographs": None if photographs is None else str(photographs),
        "run": None if run is None else str(run),
        "device": device,
    }
    if stage == "all":
        signal = run_plan(config, overrides or (), minutes, **flags)
    else:
        lines = list(overrides or ())
        if minutes is not None:
            lines.append(f"optimise.finish_by_minutes={float(minutes)}")
        signal = run_stage(stage, config, lines, **flags)
    if signal:
        typer.echo(f"stopped by signal {signal}; the checkpoint is written, the same command goes on", err=True)
        raise typer.Exit(128 + signal)
