"""`pinhole info`: what a ``.pin`` file holds, without decoding it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from pinhole.bundles import bundle_name
from shared.codec.header import PictureHeader
from shared.codec.pin import frame_bytes, read_pin
from shared.errors import CorruptDataError


def info(
    file: Annotated[Path, typer.Argument(metavar="FILE.pin", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Show header, layers and bundle of a .pin file."""
    facts = describe(file)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    facts["bundle"] = facts["bundle"] or "not installed here"
    facts["captured"] = facts["captured"] or "not told"
    table = Table(Column(), Column(overflow="fold"), show_header=False)
    for name, value in facts.items():
        if isinstance(value, list):
            text = " + ".join(map(str, value))
        else:
            text = f"{value:g}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), text)
    Console().print(table)


def describe(file: Path) -> dict[str, object]:
    """Return what is known about a ``.pin`` file, ready for JSON.

    Returns:
        ``file``, ``bytes`` (of the file), ``width`` and ``height`` in pixels, ``bits_per_pixel`` (every byte
        counted), ``quality``, ``layers_made`` (by the sender), ``layer_bytes`` (of each layer here, the base first),
        ``frame_bytes``, ``captured`` (ISO 8601, UTC) or None, ``bundle_id`` (hexadecimal) and ``bundle`` (its name
        here) or None where it is not installed.

    Raises:
        PinholeError: if the file cannot be read or is damaged.
    """
    layers = read_pin(file)
    try:
        header, _ = PictureHeader.unpack(layers[0])
    except CorruptDataError as error:
        raise CorruptDataError(f"{file}: {error}") from error
    lengths = [len(layer) for layer in layers]
    size = sum(lengths) + frame_bytes(lengths)
    captured = None if header.captured is None else datetime.fromtimestamp(header.captured, UTC).isoformat()
    return {
        "file": str(file),
        "bytes": size,
        "width": header.width,
        "height": header.height,
        "bits_per_pixel": round(8 * size / (header.width * header.height), 5),
        "quality": header.quality,
        "layers_made": header.layers,
        "layer_bytes": lengths,
        "frame_bytes": frame_bytes(lengths),
        "captured": captured,
        "bundle_id": header.bundle_id.hex(),
        "bundle": bundle_name(header.bundle_id),
    }
