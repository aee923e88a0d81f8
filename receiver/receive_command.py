"""`pinhole receive`: run a ground station."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from receiver import decode_options as decode
from receiver.admission import Admission, SessionMemory, default_folder, default_state, state_name
from receiver.archive import Archive
from receiver.daemon import Receiver, ReceiverConfig
from receiver.engine import Engine, LocalEngine
from receiver.listeners import Listeners
from receiver.progress import ConsoleReporter, link_summary, show_live
from receiver.station_id import own_station_id
from shared.allowlist import AllowListFile, allowed_path
from shared.errors import UsageError
from shared.keyfiles import find_station_secrets
from shared.link.config import LinkConfig
from shared.link.station import Station
from shared.link_flags import (
    Insecure,
    PasswordFile,
    TlsCa,
    TlsCertificate,
    TlsKey,
    check_addresses,
    refuse_half_sealed,
    tls_options,
)
from shared.open_files import allow_many_open_files
from shared.picture import MAX_PIXELS
from shared.transports import StationOptions
from shared.transports.mqtt.settings import parse_mqtt


class EngineKind(StrEnum):
    """Engines that can be chosen."""

    LOCAL = "local"


def receive(
    listen: Annotated[
        list[str],
        typer.Option(
            metavar="URL",
            help="Where to listen: tcp:// (ZeroMQ), udp://, serial://, kiss://, or a broker: mqtt(s)://; repeatable.",
        ),
    ],
    archive: Annotated[str, typer.Option(metavar="DIR", help="Where layers and pictures go: a folder or fsspec URL.")],
    key: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="This station's key; `pinhole keys new` makes it.")
    ] = None,
    allowed: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Who may send; `pinhole keys allow` edits it.", show_default="in the key folder"
        ),
    ] = None,
    packet_bytes: Annotated[int, typer.Option(help="Largest packet to answer with, header included.")] = 1200,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where it keeps which sessions are old, and its id.", show_default="user state"
        ),
    ] = None,
    index: Annotated[
        str | None, typer.Option(metavar="URL", help="SQLAlchemy URL of the index; by default SQLite in the archive.")
    ] = None,
    engine: Annotated[EngineKind, typer.Option(help="What decodes.")] = EngineKind.LOCAL,
    device: Annotated[str, typer.Option(help="Where it decodes: auto, cpu or cuda.")] = "auto",
    steps: decode.Steps = None,
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
    sampler: decode.Sampler = None,
    start: decode.Start = None,
    strength: decode.Strength = decode.DecodeOptions.strength,
    prompt: decode.Prompt = None,
    colour: decode.ColourOption = decode.ColourChoice.NONE,
    precision: decode.PrecisionOption = decode.PrecisionChoice.AUTO,
    compile: decode.Compile = False,
    batch: decode.Batch = None,
    tile: decode.Tile = decode.DecodeOptions.tile,
    overlap: decode.Overlap = decode.DecodeOptions.overlap,
    paper: decode.Paper = False,
    insecure: Insecure = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCertificate = None,
    tls_key: TlsKey = None,
    password_file: PasswordFile = None,
) -> None:
    """Receive pictures: archive their layers, show previews at once, paint the pictures, until stopped (Ctrl-C).

    Layers are acknowledged when they are safely on disk. A restart goes on where the last run ended.
    """
    refuse_half_sealed(insecure=insecure, keys=key is not None, how="give --key (see `pinhole keys new`)")
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {device!r} is none; give auto, cpu or cuda")
    how = decode.DecodeOptions(
        steps, sampler, start, strength, prompt, colour, precision, compile, batch, tile, overlap, paper
    )
    sizes = [_size(text) for text in warm_up or ()]
    allow_many_open_files()
    # What is archived says its number of steps, so that of the paper is named too.
    config = ReceiverConfig(
        settle=settle,
        full=full,
        steps=how.settings().steps,
        until_idle=until_idle,
        largest=int(max_megapixels * 1_000_000),
    )
    reporter = ConsoleReporter()
    link = LinkConfig(packet_bytes=packet_bytes)
    options = StationOptions(
        packet_bytes=packet_bytes,
        tls=tls_options(tls_ca, tls_cert, tls_key),
        password_file=password_file,
        report=reporter.warning,
    )
    check_addresses(listen, options)
    admission = None
    if key is None:
        reporter.warning("INSECURE: packets are neither sealed nor authenticated; anyone who reaches the port can send")
    else:
        admission, options = admit(key, allowed, state, options, reporter)
    if needs_own_id(listen, sealed=key is not None):
        options = replace(options, station=own_station_id(state or default_folder(), archive))

    def load() -> LocalEngine:
        # Imported only here: torch takes seconds, and wrong usage should be told at once.
        import torch

        from receiver.decoder import TorchDecoder
        from shared.codec.bundle import find_bundle

        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        return LocalEngine(TorchDecoder(find_bundle(bundle), chosen, how.settings()), sizes)

    ended = run_station(listen, archive, index, config, load, reporter, admission=admission, options=options, link=link)
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
    *,
    admission: Admission | None = None,
    options: StationOptions | None = None,
    link: LinkConfig | None = None,
) -> bool:
    """Run a station until SIGTERM, SIGINT or its idle time, and print a summary.

    Args:
        listen: URLs to listen on.
        archive: folder or fsspec URL.
        index: SQLAlchemy URL, None for the archive's own.
        config: settings of the receiver.
        load: makes the engine.
        reporter: where lines go.
        admission: who may send; None takes unsealed packets of anybody.
        options: of the transports.
        link: of the station.

    Returns:
        Whether every thread has ended, see `Receiver.run`.

    Raises:
        PinholeError: if the archive, the bundle or a listener cannot be opened.
    """
    return asyncio.run(_run(listen, archive, index, config, load, reporter, admission, options, link or LinkConfig()))


async def _run(
    listen: list[str],
    archive_url: str,
    index_url: str | None,
    config: ReceiverConfig,
    load: Callable[[], Engine],
    reporter: ConsoleReporter,
    admission: Admission | None,
    options: StationOptions | None,
    link: LinkConfig,
) -> bool:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as undo:
        if admission is not None:
            undo.callback(admission.close)
        engine = load()
        archive = Archive(archive_url, index_url=index_url, bundle_id=engine.bundle_id)
        undo.callback(archive.close)
        listeners = await Listeners.open(listen, options, reporter.warning)
        undo.pop_all()  # from here on the receiver closes them
    receiver = Receiver(
        config,
        archive=archive,
        engine=engine,
        station=Station(link, now=loop.time(), gate=None if admission is None else admission.gate),
        listeners=listeners,
        report=reporter,
        admission=admission,
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


def needs_own_id(listen: Sequence[str], *, sealed: bool) -> bool:
    """Whether a broker would take this station for another one: it has no key, or shares its key with a group."""
    at_brokers = [parse_mqtt(url) for url in listen if url.startswith("mqtt")]
    return any(not sealed or "share" in address.options for address in at_brokers)


def admit(
    key: str, allowed: Path | None, state: Path | None, options: StationOptions, reporter: ConsoleReporter
) -> tuple[Admission, StationOptions]:
    """Read the station's keys and its allow list.

    Returns:
        Who may send, and the transports' options with the keys in them.

    Raises:
        PinholeError: if a key, the list or the state cannot be used.
    """
    secrets = find_station_secrets(key)
    senders = AllowListFile(allowed or allowed_path())
    identity = secrets[0].identity
    memory = SessionMemory(state / state_name(identity) if state is not None else default_state(identity))
    admission = Admission(secrets, senders, memory, reporter)
    return admission, replace(options, station=identity, secret=secrets[0], admits=senders.is_curve_listed)


def _size(text: str) -> tuple[int, int]:
    """Read a picture size, as in 1920x1080."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and 0 < int(width) * int(height) <= MAX_PIXELS):
        raise UsageError(f"--warm-up {text}: give width and height in pixels, as in 1920x1080")
    return int(width), int(height)
