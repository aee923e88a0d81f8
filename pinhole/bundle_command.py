"""`pinhole bundle`: list, show and verify model bundles; make one of official checkpoints, and store prompts in it.

The commands that make bundles import torch when they are called, and not before.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pinhole.bundles import installed_bundles
from pinhole.commands import ROOMS, MissingExtraError
from shared.codec.bundle import find_bundle

app = typer.Typer(no_args_is_help=True, add_completion=False, help="List, show, verify and import model bundles.")

_Name = Annotated[str, typer.Argument(metavar="NAME", help="A bundle's name or folder.", show_default=False)]


@app.command("list")
def list_bundles() -> None:
    """List the bundles that are installed."""
    table = Table("bundle", "id", "quality", "name", "bit/pixel")
    for bundle in installed_bundles():
        label = (bundle.name, bundle.bundle_id.hex())
        for point in bundle.operating_points:
            table.add_row(*label, str(point.quality), point.name, f"{point.bits_per_pixel:.4f}")
            label = ("", "")
    if table.row_count:
        Console().print(table)
    else:
        typer.echo("no bundle is installed")


@app.command("show")
def show(name: _Name) -> None:
    """Print a bundle's manifest as JSON."""
    typer.echo(json.dumps(find_bundle(name).manifest, indent=2, default=str))


@app.command("verify")
def verify(name: _Name) -> None:
    """Check every file of a bundle against its manifest."""
    bundle = find_bundle(name)
    bundle.verify()
    typer.echo(f"{bundle.name} ({bundle.bundle_id.hex()}): every file is what its manifest says")


class Dtype(StrEnum):
    """Number types that weights can be stored in."""

    BF16 = "bf16"
    FP32 = "fp32"


@app.command("import-official")
def import_official(
    sd: Annotated[
        str,
        typer.Option(
            "--sd",
            metavar="DIR|FILE|HUB_ID",
            help="Stable Diffusion 2.1-base: a folder in the diffusers layout, the original checkpoint or a hub id.",
        ),
    ],
    lc: Annotated[
        list[str],
        typer.Option(
            "--lc",
            metavar="[NAME=]FILE",
            help="DiffEIC's lc.ckpt, or a paper_codec run of `pinhole train`; once for each rate. Unnamed, a rate is "
            "called after its file or folder.",
        ),
    ],
    calibrate: Annotated[
        Path, typer.Option(metavar="DIR", help="Photographs of 256 pixels and more, searched with subfolders.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder of the bundle.")],
    name: Annotated[str, typer.Option(help="Name of the bundle; else that of the folder.", show_default=False)] = "",
    crops: Annotated[int, typer.Option(min=2, help="Crops that are cut of the photographs, for each rate.")] = 32,
    dtype: Annotated[Dtype, typer.Option(help="Number type of UNet and control in the bundle.")] = Dtype.BF16,
    refer: Annotated[
        bool, typer.Option("--refer/--copy", help="Leave Stable Diffusion's weights where they are, named by hash.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(metavar="JSON", help="What shapes cannot tell: tables lfgcm, control, vae, text."),
    ] = None,
    prompt_embedding: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Empty prompt's embedding (safetensors, context), for want of a text encoder."
        ),
    ] = None,
    fp16: Annotated[
        bool, typer.Option("--fp16/--no-fp16", help="Also make the sender's graphs in half precision, for GPUs.")
    ] = True,
) -> None:
    """Make a bundle of Stable Diffusion 2.1-base and official DiffEIC checkpoints."""
    with _training("import-official"):
        from training.importing.rates import rate_sources
        from training.importing.run import ImportOptions
        from training.importing.run import import_official as run

        rates = tuple(rate_sources(lc))
        run(
            ImportOptions(
                sd, rates, calibrate, output, name, crops, dtype.value, refer, config, prompt_embedding, fp16
            ),
            typer.echo,
        )


@app.command("embed-prompt")
def embed_prompt(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.", show_default=False)],
    name: Annotated[str, typer.Option(help="How `pinhole decompress --prompt` calls it.")],
    text: Annotated[str, typer.Option(help="The prompt.")],
    text_encoder: Annotated[
        str,
        typer.Option(
            metavar="DIR|HUB_ID", help="Folder or hub id with tokenizer/ and text_encoder/ of the same model."
        ),
    ],
) -> None:
    """Store a mission prompt's embedding in a bundle; pictures already sent can be decoded with it."""
    with _training("embed-prompt"):
        from training.importing.prompts import embed_prompt as run

        typer.echo(run(find_bundle(bundle), name, text, text_encoder))


@contextmanager
def _training(command: str) -> Iterator[None]:
    """Say which extra brings a package that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package in ROOMS:
            raise
        raise MissingExtraError(f"pinhole bundle {command} needs {package}: install pinhole-link[train]") from error
