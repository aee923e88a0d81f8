"""`pinhole receive`: run a ground station."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from receiver import decode_options as options
from receiver.archive import Archive
from receiver.daemon import Receiver, ReceiverConfig
from receiver.engine import Engine, LocalEngine
from receiver.listeners import Listeners
from receiver.progress import ConsoleReporter, link_summary, show_live
from shared.errors import UsageError
from shared.link.config import LinkConfig
from shared.link.station import Station
from shared.picture import MAX_PIXELS


class EngineKind(StrEnum):
    """Engines that can be chosen."""

    LOCAL = "local"


def receive(
    listen: Annotated[
        list[str], typer.Option(metavar="URL", help="Where to listen: tcp://HOST:PORT, udp://HOST:PORT; repeatable.")
    ],
    archive: Annotated[str, typer.Option(metavar="DIR", help="Where layers and pictures go: a folder or fsspec URL.")],
    index: Annotated[
        str | None, typer.Option(metavar="URL", help="SQLAlchemy URL of the index; by default SQLite in the archive.")
    ] = None,
    engine: Annotated[EngineKind, typer.Option(help="What decodes.")] = EngineKind.LOCAL,
    device: Annotated[str, typer.Option(help="Where it decodes: auto, cpu or cuda.")] = "auto",
    steps: options.Steps = None,
    bundle: Annotated[str, typer.Option(metavar="NAME", help="Bundle to decode with, name or folder.")] = "pocket",
    settle: Annotated[
        float, typer.Option(min=0.0, metavar="S", help="Decode an incomplete picture after S seconds without news.")
    ] = 10.0,
    full: Annotated[bool, typer.Option("--full/--no-full", help="Whether to paint pictures or only previews.")] = True,
    until_idle: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="S", help="End after S seconds without packets, once all is decoded."),
    ] = None,
    max_megapixels: Annotated[float, typer.Option(min=0.01, help="Largest picture to decode.")] = 64.0,
    warm_up: Annotated[
        list[str] | None,
        typer.Option(metavar="WxH", help="Compile and capture for pictures of this size at the start; repeatable."),
    ] = None,
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
    insecure: Annotated[bool, typer.Option("--insecure", help="Accept packets that are not sealed.")] = False,
) -> None:
    """Receive pictures: archive their layers, show previews at once, paint the pictures, until stopped (Ctrl-C).

    Layers are acknowledged when they are safely on disk. A restart goes on where the last run ended.
    """
    if not insecure:
        raise UsageError("links are not sealed yet in this version; pass --insecure to accept packets from anyone")
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {device!r} is none; give auto, cpu or cuda")
    how = options.DecodeOptions(
        steps, sampler, start, strength, prompt, colour, precision, compile, batch, tile, overlap, paper
    )
    sizes = [_size(text) for text in warm_up or ()]
    # What is archived says its number of steps, so that of the paper is named too.
    config = ReceiverConfig(
        settle=settle,
        full=full,
        steps=how.settings().steps,
        until_idle=until_idle,
        largest=int(max_megapixels * 1_000_000),
    )
    reporter = ConsoleReporter()
    reporter.warning("INSECURE: packets are neither sealed nor authenticated; anyone who reaches the port can send")

    def load() -> LocalEngine:
        # Imported only here: torch takes seconds, and wrong usage should be told at once.
        import torch

        from receiver.decoder import TorchDecoder
        from shared.codec.bundle import find_bundle

        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        return LocalEngine(TorchDecoder(find_bundle(bundle), chosen, how.settings()), sizes)

    ended = run_station(listen, archive, index, config, load, reporter)
    if not ended:
        # A decode is still running inside torch; tearing the interpreter down under it could crash. All is on disk.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def run_station(
    listen: list[str],
    archive: str,
    index: str | None,
    config: ReceiverConfig,
    load: Callable[[], Engine],
    reporter: ConsoleReporter,
) -> bool:
    """Run a station until SIGTERM, SIGINT or its idle time, and print a summary.

    Args:
        listen: URLs to listen on.
        archive: folder or fsspec URL.
        index: SQLAlchemy URL, None for the archive's own.
        config: settings of the receiver.
        load: makes the engine.
        reporter: where lines go.

    Returns:
        Whether every thread has ended, see `Receiver.run`.

    Raises:
        PinholeError: if the archive, the bundle or a listener cannot be opened.
    """
    return asyncio.run(_run(listen, archive, index, config, load, reporter))


async def _run(
    listen: list[str],
    archive_url: str,
    index_url: str | None,
    config: ReceiverConfig,
    load: Callable[[], Engine],
    reporter: ConsoleReporter,
) -> bool:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    engine = load()
    archive = Archive(archive_url, index_url=index_url, bundle_id=engine.bundle_id)
    try:
        listeners = await Listeners.open(listen)
    except BaseException:
        archive.close()
        raise
    receiver = Receiver(
        config,
        archive=archive,
        engine=engine,
        station=Station(LinkConfig(), now=loop.time()),
        listeners=listeners,
        report=reporter,
        clock=loop.time,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    reporter.line(f"listening on {listeners.url}, archive {archive_url}, bundle {engine.bundle_id.hex()}")
    live = asyncio.create_task(show_live(receiver, reporter)) if reporter.live else None
    try:
        ended = await receiver.run(stop)
    finally:
        if live is not None:
            live.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await live
    reporter.line(f"received {receiver.status.summary()}")
    reporter.line(link_summary(receiver))
    return ended


def _size(text: str) -> tuple[int, int]:
    """Read a picture size, as in 1920x1080."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and 0 < int(width) * int(height) <= MAX_PIXELS):
        raise UsageError(f"--warm-up {text}: give width and height in pixels, as in 1920x1080")
    return int(width), int(height)
