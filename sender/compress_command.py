"""`pinhole compress`: picture files to ``.pin`` files."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from sender.devices import Device, DeviceOption, TileOption, open_encoder
from sender.tiles import TILE
from shared.codec.header import PictureHeader
from shared.codec.interfaces import OperatingPoint, PictureEncoder, Pixels
from shared.codec.pin import frame_bytes, write_pin
from shared.codec.quality import choose_quality, quality_text
from shared.errors import PinholeError, UsageError
from shared.outputs import error_line, output_paths
from shared.picture import load_picture

SMALLEST_PROMISE = 600
"""Bytes that a picture may always take unless told otherwise: a thumbnail's headers alone exceed any rate."""


@dataclass(frozen=True)
class Target:
    """What the user asks of the size; at most one is set, none means the rate of the bundle's middle operating point.

    A rate or a size is kept to the byte. A quality is not a size: its bytes follow what is in the picture.

    Attributes:
        quality: 1 to the bundle's number of operating points, in between as well; rounded to 1/16.
        bits_per_pixel: largest size of the file in bits per pixel.
        largest: largest size of the file in bytes.
    """

    quality: float | None = None
    bits_per_pixel: float | None = None
    largest: int | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.quality, self.bits_per_pixel, self.largest) if value is not None]
        if len(given) > 1:
            raise UsageError("give one of --quality, --bpp and --max-bytes, not several")
        if any(not 0 < value < math.inf for value in given):
            raise UsageError("--quality, --bpp and --max-bytes must be numbers above zero")


@dataclass(frozen=True)
class Compressed:
    """One picture that was written.

    Attributes:
        output: the ``.pin`` file.
        width: pixels.
        height: pixels.
        quality: the one that was used.
        layers: bytes of each layer, the base first.
        size: bytes of the file.
    """

    output: Path
    width: int
    height: int
    quality: float
    layers: tuple[int, ...]
    size: int

    @property
    def bits_per_pixel(self) -> float:
        """Every byte of the file counted."""
        return 8 * self.size / (self.width * self.height)


def compress(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="Picture files.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="OUT", help="The .pin file, or a folder where there are several."),
    ],
    quality: Annotated[
        float | None,
        typer.Option(
            "--quality", "-q", metavar="Q", help="1 (fewest bytes) upwards, for example 2.5; rounded to 1/16."
        ),
    ] = None,
    bpp: Annotated[float | None, typer.Option(metavar="B", help="Largest size in bits per pixel.")] = None,
    max_bytes: Annotated[int | None, typer.Option(metavar="N", help="Largest size of each file in bytes.")] = None,
    bundle: Annotated[str, typer.Option(metavar="NAME", help="Model bundle: its name or folder.")] = "pocket",
    device: DeviceOption = Device.AUTO,
    tile: TileOption = TILE,
) -> None:
    """Compress pictures to .pin files."""
    target = Target(quality, bpp, max_bytes)
    outputs = output_paths(inputs, output, ".pin")

    from shared.codec.bundle import find_bundle

    encoder = open_encoder(find_bundle(bundle), device, tile)
    failed = compress_files(encoder, inputs, outputs, target, Console())
    if failed:
        raise typer.Exit(1)


def compress_files(
    encoder: PictureEncoder,
    inputs: Sequence[Path],
    outputs: Sequence[Path],
    target: Target,
    console: Console,
    report: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> int:
    """Compress pictures one after the other and print a table of the results.

    Args:
        encoder: turns pixels into layers.
        inputs: picture files.
        outputs: where each goes.
        target: wanted size.
        console: where the table goes.
        report: takes one line for each picture that failed; the others are made all the same.

    Returns:
        Number of pictures that failed.
    """
    table = Table(Column("picture", overflow="fold"), "size", "quality", "bytes", "bit/pixel", "layers")
    failed = 0
    for source, destination in zip(inputs, outputs, strict=True):
        try:
            done = compress_picture(encoder, load_picture(source), destination, target)
        except PinholeError as error:
            report(error_line("compress", source, error))
            failed += 1
            continue
        table.add_row(
            str(done.output),
            f"{done.width}x{done.height}",
            quality_text(done.quality),
            str(done.size),
            f"{done.bits_per_pixel:.4f}",
            " + ".join(map(str, done.layers)),
        )
    if table.row_count:
        console.print(table)
    return failed


def compress_picture(encoder: PictureEncoder, pixels: Pixels, output: Path, target: Target) -> Compressed:
    """Compress one picture and write its ``.pin`` file.

    Args:
        encoder: turns pixels into layers.
        pixels: RGB bytes ``height x width x 3``.
        output: the file to write.
        target: wanted size; a largest size is kept to the byte.

    Returns:
        What was written.

    Raises:
        PinholeError: if the picture cannot be encoded, not even its base layer fits, or the disk refuses.
    """
    height, width = pixels.shape[:2]
    if target.bits_per_pixel is not None:
        layers = _encode_within(encoder, pixels, int(target.bits_per_pixel * width * height / 8), "--bpp")
    elif target.largest is not None:
        layers = _encode_within(encoder, pixels, target.largest, "--max-bytes")
    elif target.quality is not None:
        layers = encoder.encode(pixels, choose_quality(encoder.operating_points, target.quality))
    else:
        layers = _encode_within(encoder, pixels, _promised_bytes(encoder.operating_points, width * height), "the rate")
    size = write_pin(output, layers)
    header, _ = PictureHeader.unpack(layers[0])
    return Compressed(output, width, height, header.quality, tuple(map(len, layers)), size)


def _promised_bytes(points: Sequence[OperatingPoint], pixels: int) -> int:
    """Size of a file whose user asked for nothing: the middle operating point's rate, kept for any picture."""
    return max(SMALLEST_PROMISE, int(points[(len(points) - 1) // 2].bits_per_pixel * pixels / 8))


def _encode_within(encoder: PictureEncoder, pixels: Pixels, largest: int, option: str) -> list[bytes]:
    """Encode so that the whole file, its frame included, has at most ``largest`` bytes."""
    # How long the frame is depends on how long the layers are, so start from the leanest frame and give way.
    room = largest - frame_bytes([1])
    layers: list[bytes] = []
    while room > 0:
        layers = encoder.encode_within(pixels, room)
        lengths = list(map(len, layers))
        excess = sum(lengths) + frame_bytes(lengths) - largest
        if excess <= 0:
            return layers
        if len(layers) == 1:
            break
        room -= excess
    needed = f"the base layer alone takes {len(layers[0]) + frame_bytes([1])}" if layers else "a file takes more"
    raise PinholeError(f"{option} leaves {largest} bytes for {pixels.shape[1]}x{pixels.shape[0]}; {needed}: raise it")
