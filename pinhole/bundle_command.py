"""`pinhole bundle`: list, show and verify model bundles."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pinhole.bundles import installed_bundles
from shared.codec.bundle import find_bundle

app = typer.Typer(no_args_is_help=True, add_completion=False, help="List, show and verify model bundles.")

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
