"""`pinhole decompress`: ``.pin`` files to picture files."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from shared.codec.header import PictureHeader
from shared.codec.interfaces import PictureDecoder, Pixels
from shared.codec.pin import read_pin
from shared.errors import CorruptDataError, PinholeError, UsageError
from shared.outputs import error_line, output_paths
from shared.picture import MAX_PIXELS, check_writable_format, save_picture


@dataclass(frozen=True)
class Settings:
    """How pictures are decoded.

    Attributes:
        steps: steps of diffusion; None for the bundle's default, 0 for the preview without diffusion.
        seed: of the diffusion's noise.
        layers: use this many layers at most; None for all.
        salvage: make what can be made of a damaged file.
    """

    steps: int | None = None
    seed: int = 0
    layers: int | None = None
    salvage: bool = False

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 0:
            raise UsageError("--steps must be 0 (preview) or more")
        if self.layers is not None and self.layers < 1:
            raise UsageError("--layers must be 1 or more")


@dataclass(frozen=True)
class Decompressed:
    """One decoded picture.

    Attributes:
        pixels: RGB bytes ``height x width x 3``.
        layers: how many were used.
        made: how many the sender made.
    """

    pixels: Pixels
    layers: int
    made: int


def decompress(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help=".pin files.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="OUT", help="Picture file, or a folder of PNG where there are several."),
    ],
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Diffusion steps; 0 for the preview.", show_default="the bundle's")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="K", help="Seed of the diffusion's noise.")] = 0,
    layers: Annotated[int | None, typer.Option(metavar="L", help="Use the first L layers only.")] = None,
    salvage: Annotated[bool, typer.Option("--salvage", help="Make what can be made of damaged files.")] = False,
    bundle: Annotated[str, typer.Option(metavar="NAME", help="Model bundle: its name or folder.")] = "pocket",
    device: Annotated[str, typer.Option(help="auto, cpu, or a torch device such as cuda:0.")] = "auto",
) -> None:
    """Paint pictures back from .pin files."""
    settings = Settings(steps, seed, layers, salvage)
    outputs = output_paths(inputs, output, ".png")
    for path in outputs:
        check_writable_format(path)

    torch_device = _device(device)
    from receiver.decoder import TorchDecoder
    from shared.codec.bundle import find_bundle

    decoder = TorchDecoder(find_bundle(bundle), torch_device)
    if decompress_files(decoder, inputs, outputs, settings, Console()):
        raise typer.Exit(1)


def decompress_files(
    decoder: PictureDecoder,
    inputs: Sequence[Path],
    outputs: Sequence[Path],
    settings: Settings,
    console: Console,
    report: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> int:
    """Decode ``.pin`` files one after the other and print a table of the results.

    Args:
        decoder: turns layers into pixels.
        inputs: ``.pin`` files.
        outputs: where each picture goes.
        settings: how to decode.
        console: where the table goes.
        report: takes one line for each file that failed; the others are made all the same.

    Returns:
        Number of files that failed.
    """
    table = Table(Column("picture", overflow="fold"), "size", "layers")
    failed = 0
    for source, destination in zip(inputs, outputs, strict=True):
        try:
            done = decompress_layers(decoder, read_pin(source, salvage=settings.salvage), settings)
            save_picture(done.pixels, destination)
        except PinholeError as error:
            report(error_line("decompress", source, error))
            failed += 1
            continue
        height, width = done.pixels.shape[:2]
        table.add_row(str(destination), f"{width}x{height}", f"{done.layers} of {done.made}")
    if table.row_count:
        console.print(table)
    return failed


def decompress_layers(decoder: PictureDecoder, layers: Sequence[bytes], settings: Settings) -> Decompressed:
    """Decode one picture.

    With ``salvage`` the longest prefix of the layers whose checks pass is used.

    Raises:
        CorruptDataError: if a layer is not what was encoded (with ``salvage``: the base layer).
        PinholeError: if another bundle made the picture.
    """
    header, _ = PictureHeader.unpack(layers[0])
    if header.bundle_id != decoder.bundle_id:
        raise PinholeError(
            f"made with bundle {header.bundle_id.hex()}, but the one in use is {decoder.bundle_id.hex()}; name the "
            "right one with --bundle (`pinhole bundle list` shows what is here)"
        )
    if header.width * header.height > MAX_PIXELS:
        raise CorruptDataError(f"header names {header.width}x{header.height} pixels; at most {MAX_PIXELS} are decoded")
    count = min(len(layers), settings.layers or len(layers))
    while True:
        try:
            pixels = decoder.decode(layers[:count], steps=settings.steps, seed=settings.seed)
        except CorruptDataError:
            if not settings.salvage or count == 1:
                raise
            count -= 1
        else:
            return Decompressed(pixels, count, header.layers)


def _device(name: str) -> str:
    """Check a device's name, resolving ``auto`` to CUDA, or to the CPU where there is none."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise PinholeError(f"device {name} cannot be used ({reason}); give --device cpu or auto") from error
    return name
