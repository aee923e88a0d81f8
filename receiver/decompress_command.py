"""`pinhole decompress`: ``.pin`` files to picture files."""

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from receiver import decode_options as options
from receiver.pictures import Painted, Stage
from receiver.pipeline import DecodePipeline
from receiver.staging import DecodeRequest, StagedDecoder, staged
from receiver.uncertainty import Uncertainty, check_count
from shared.codec.header import PictureHeader
from shared.codec.interfaces import PictureDecoder, Pixels
from shared.codec.pin import read_pin
from shared.errors import CorruptDataError, PinholeError, UsageError
from shared.files import write_atomically
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
        uncertainty: number of seeds to measure the spread over; None for no measurement.
    """

    steps: int | None = None
    seed: int = 0
    layers: int | None = None
    salvage: bool = False
    uncertainty: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 0:
            raise UsageError("--steps must be 0 (preview) or more")
        if self.layers is not None and self.layers < 1:
            raise UsageError("--layers must be 1 or more")
        if self.uncertainty is not None:
            check_count(self.uncertainty)


@dataclass(frozen=True)
class Decompressed:
    """One decoded picture.

    Attributes:
        pixels: RGB bytes ``height x width x 3``.
        layers: how many were used.
        made: how many the sender made.
        flags: what had to be done otherwise than asked.
    """

    pixels: Pixels
    layers: int
    made: int
    flags: tuple[str, ...] = ()


def decompress(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help=".pin files.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="OUT", help="Picture file, or a folder of PNG where there are several."),
    ],
    steps: options.Steps = None,
    seed: Annotated[int, typer.Option(metavar="K", help="Seed of the diffusion's noise.")] = 0,
    layers: Annotated[int | None, typer.Option(metavar="L", help="Use the first L layers only.")] = None,
    salvage: Annotated[bool, typer.Option("--salvage", help="Make what can be made of damaged files.")] = False,
    uncertainty: Annotated[
        int | None,
        typer.Option(metavar="K", help="Also write OUT.uncertainty.png: how far decodes with K seeds differ."),
    ] = None,
    bundle: Annotated[str, typer.Option(metavar="NAME", help="Model bundle: its name or folder.")] = "pocket",
    device: Annotated[str, typer.Option(help="auto, cpu, or a torch device such as cuda:0.")] = "auto",
    sampler: options.Sampler = None,
    start: options.Start = None,
    strength: options.Strength = options.DecodeOptions.strength,
    prompt: options.Prompt = None,
    colour: options.ColourOption = options.ColourChoice.NONE,
    precision: options.PrecisionOption = options.PrecisionChoice.AUTO,
    compile: options.Compile = False,
    batch: options.Batch = None,
    tile: options.Tile = options.DecodeOptions.tile,
    overlap: options.Overlap = options.DecodeOptions.overlap,
    paper: options.Paper = False,
) -> None:
    """Paint pictures back from .pin files."""
    settings = Settings(None, seed, layers, salvage, uncertainty)
    how = options.DecodeOptions(
        steps, sampler, start, strength, prompt, colour, precision, compile, batch, tile, overlap, paper
    )
    outputs = output_paths(inputs, output, ".png")
    for path in outputs:
        check_writable_format(path)
    how.settings()  # wrong usage is told before torch takes its seconds

    torch_device = _device(device)
    from receiver.decoder import TorchDecoder
    from shared.codec.bundle import find_bundle

    decoder = TorchDecoder(find_bundle(bundle), torch_device, how.settings())
    if decompress_files(decoder, inputs, outputs, settings, Console()):
        raise typer.Exit(1)


def decompress_files(
    decoder: PictureDecoder | StagedDecoder,
    inputs: Sequence[Path],
    outputs: Sequence[Path],
    settings: Settings,
    console: Console,
    report: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> int:
    """Decode ``.pin`` files, in batches where the decoder takes them, and print a table of the results.

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
    columns = [Column("picture", overflow="fold"), Column("size"), Column("layers")]
    table = Table(*columns, *([Column("uncertainty")] if settings.uncertainty else []))
    failed = 0
    with _pipeline(decoder) as pipeline:
        for source, destination, started in _ahead(pipeline, decoder, inputs, outputs, settings):
            try:
                attempt = started()
                done = attempt.finish()
                save_picture(done.pixels, destination)
                measured = _measure(decoder, attempt, done, settings)
                if measured is not None:
                    write_atomically(_map_path(destination), measured.png())
            except PinholeError as error:
                report(error_line("decompress", source, error))
                failed += 1
                continue
            for flag in done.flags:
                report(error_line("decompress", source, PinholeError(f"{source}: {flag}")))
            height, width = done.pixels.shape[:2]
            row = [str(destination), f"{width}x{height}", f"{done.layers} of {done.made}"]
            table.add_row(*row, *([] if measured is None else [f"{measured.level:.2f} levels"]))
    if table.row_count:
        console.print(table)
    return failed


def decompress_layers(
    decoder: PictureDecoder | StagedDecoder, layers: Sequence[bytes], settings: Settings
) -> Decompressed:
    """Decode one picture.

    With ``salvage`` the longest prefix of the layers whose checks pass is used.

    Raises:
        CorruptDataError: if a layer is not what was encoded (with ``salvage``: the base layer).
        PinholeError: if another bundle made the picture.
    """
    with _pipeline(decoder) as pipeline:
        return _Attempt(pipeline, decoder.bundle_id, layers, settings).finish()


class _Attempt:
    """One picture on its way through the pipeline; the decode begins at once."""

    def __init__(self, pipeline: DecodePipeline, bundle_id: bytes, layers: Sequence[bytes], settings: Settings) -> None:
        header, _ = PictureHeader.unpack(layers[0])
        if header.bundle_id != bundle_id:
            raise PinholeError(
                f"made with bundle {header.bundle_id.hex()}, but the one in use is {bundle_id.hex()}; name the "
                "right one with --bundle (`pinhole bundle list` shows what is here)"
            )
        if header.width * header.height > MAX_PIXELS:
            raise CorruptDataError(
                f"header names {header.width}x{header.height} pixels; at most {MAX_PIXELS} are decoded"
            )
        self._pipeline, self._settings, self._made = pipeline, settings, header.layers
        self.layers = layers[: min(len(layers), settings.layers or len(layers))]
        self._future = self._submit()

    def _submit(self) -> "Future[Painted]":
        return self._pipeline.submit(DecodeRequest(self.layers, Stage.FULL, self._settings.steps, self._settings.seed))

    def finish(self) -> Decompressed:
        """Wait for the picture; with ``salvage`` try again with fewer layers while one is damaged."""
        while True:
            try:
                painted = self._future.result()
            except CorruptDataError:
                if not self._settings.salvage or len(self.layers) == 1:
                    raise
                self.layers = self.layers[:-1]
                self._future = self._submit()
            else:
                return Decompressed(painted.pixels, len(self.layers), self._made, painted.flags)


@contextlib.contextmanager
def _pipeline(decoder: PictureDecoder | StagedDecoder) -> Iterator[DecodePipeline]:
    pipeline = DecodePipeline(staged(decoder))
    try:
        yield pipeline
    finally:
        # Torn down with the interpreter, a decode that still runs could crash it.
        pipeline.close(_FAREWELL)


_FAREWELL = 30.0
"""Seconds that a running stage is given to end."""


def _ahead(
    pipeline: DecodePipeline,
    decoder: PictureDecoder | StagedDecoder,
    inputs: Sequence[Path],
    outputs: Sequence[Path],
    settings: Settings,
) -> Iterator[tuple[Path, Path, Callable[[], _Attempt]]]:
    """Yield every input and output with its attempt, those of the next two batches already under way."""
    waiting: deque[tuple[Path, Path, Callable[[], _Attempt]]] = deque()
    depth = 2 * staged(decoder).batch
    for source, destination in zip(inputs, outputs, strict=True):
        waiting.append((source, destination, _begin(pipeline, decoder.bundle_id, source, settings)))
        if len(waiting) > depth:
            yield waiting.popleft()
    yield from waiting


def _begin(pipeline: DecodePipeline, bundle_id: bytes, source: Path, settings: Settings) -> Callable[[], _Attempt]:
    """Start a decode; what went wrong is told when its turn comes, so that results stay in order."""
    try:
        attempt = _Attempt(pipeline, bundle_id, read_pin(source, salvage=settings.salvage), settings)
    except PinholeError as error:
        wrong = error

        def fail() -> _Attempt:
            raise wrong

        return fail
    return lambda: attempt


def _measure(
    decoder: PictureDecoder | StagedDecoder, attempt: _Attempt, done: Decompressed, settings: Settings
) -> Uncertainty | None:
    if settings.uncertainty is None:
        return None
    measure = getattr(decoder, "uncertainty", None)
    if measure is None:
        raise PinholeError("this decoder draws no noise, so it has no uncertainty; leave out --uncertainty")
    measured: Uncertainty = measure(
        attempt.layers, settings.uncertainty, steps=settings.steps, seed=settings.seed, first=done.pixels
    )
    return measured


def _map_path(picture: Path) -> Path:
    return picture.with_name(f"{picture.stem}.uncertainty.png")


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
