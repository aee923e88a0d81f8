"""``pinhole send``: pictures of a folder over a narrow link."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sender.counters import NodeCounters
from sender.devices import Device, DeviceOption, TileOption, open_encoder
from sender.intake import Intake
from sender.link_command import AUTO, Seals, link_config, link_rates, session_rate, transport_opener
from sender.node import NodeSettings, SenderNode
from sender.progress import Progress, summary
from sender.rate import RatePolicy, overhead_factor
from sender.source import Source, WatchedFolder
from sender.spool import Spool
from sender.tiles import TILE
from sender.units import format_rate
from shared.codec.interfaces import PictureEncoder
from shared.codec.quality import choose_quality
from shared.errors import UsageError
from shared.link.config import LinkConfig
from shared.link.envelope import SenderEnvelope
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
from shared.transports import ClientOptions
from shared.transports.base import ClientTransport
from shared.transports.bonding.choice import Mode

_LIKELY_PARITY = 0.1  # what adapting spends where some percent are lost, repair on request included, until measured


def send(
    source: Annotated[str, typer.Option(help="Folder of pictures; it and its subfolders are watched.")],
    to: Annotated[
        list[str],
        typer.Option(
            metavar="URL",
            help="The station: tcp:// (ZeroMQ), mqtt://, mqtts://, udp://, serial://, kiss://; repeatable, best first.",
        ),
    ],
    budget: Annotated[
        list[str],
        typer.Option(
            metavar="RATE",
            help="Bits per second on the wire, for example 9.6kbps, or 'unlimited'; one, or one for each --to.",
        ),
    ],
    key: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="This sender's key; `pinhole keys new` makes it.")
    ] = None,
    station_key: Annotated[
        str | None, typer.Option(metavar="LINE|FILE", help="The station's public key; `pinhole keys show` prints it.")
    ] = None,
    links: Annotated[
        Mode, typer.Option(help="Several --to: all together (bond), or the first that works (fallback).")
    ] = Mode.FALLBACK,
    state: Annotated[
        Path | None, typer.Option(help="Folder of the spool, one per source and station.", show_default="user state")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when all that was found is acknowledged.")] = False,
    quality: Annotated[
        float | None,
        typer.Option(help="Fixed quality, 1 (fewest bytes) upwards, for example 2.5; rounded to the nearest 1/16."),
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Largest size of a picture's layers in bytes.")] = None,
    latency: Annotated[
        float | None, typer.Option(help="Seconds a picture may wait and travel; sizes are chosen to meet it.")
    ] = None,
    packet_bytes: Annotated[int, typer.Option(help="Largest packet, header included.")] = 1200,
    parity: Annotated[
        str,
        typer.Option(
            help="Repair per source symbol, 0 to 1, for base layers twice that; or 'auto': as the link needs."
        ),
    ] = AUTO,
    interleave: Annotated[int, typer.Option(help="Pictures that share one code block; 'auto' begins with it.")] = 4,
    simplex: Annotated[bool, typer.Option("--simplex", help="There is no way back from the station.")] = False,
    repeats: Annotated[int, typer.Option(help="Simplex: times that everything is sent.")] = 1,
    insecure: Insecure = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCertificate = None,
    tls_key: TlsKey = None,
    password_file: PasswordFile = None,
    bundle: Annotated[str, typer.Option(help="Bundle name or folder.")] = "pocket",
    device: DeviceOption = Device.AUTO,
    tile: TileOption = TILE,
    max_age: Annotated[
        float | None, typer.Option(help="Seconds after which what has not arrived of a picture is given up.")
    ] = None,
) -> None:
    """Send the pictures of a folder to a ground station, now and as they come."""
    console = Console(stderr=True)
    sealing = key is not None or station_key is not None
    refuse_half_sealed(insecure=insecure, keys=sealing, how="give --key and --station-key (see `pinhole keys new`)")
    seals = Seals.find(key, station_key) if sealing else None
    rates = link_rates(to, budget)
    link = link_config(
        rate=session_rate(rates, links),
        packet_bytes=packet_bytes,
        parity=parity,
        interleave=interleave,
        simplex=simplex,
        repeats=repeats,
        latency=latency,
    )
    options = ClientOptions(
        packet_bytes=packet_bytes,
        max_age=max_age,
        secret=None if seals is None else seals.secret,
        station=None if seals is None else seals.station,
        tls=tls_options(tls_ca, tls_cert, tls_key),
        password_file=password_file,
    )
    policy = rate_policy(link, latency=latency, quality=quality, max_bytes=max_bytes)
    if max_age is not None and not max_age > 0:
        raise UsageError(f"--max-age must be greater than 0, not {max_age:g}")
    check_addresses(to, options)
    # The encoder's runtime takes a second to load; wrong usage is told before that.
    from shared.codec.bundle import find_bundle

    encoder = open_encoder(find_bundle(bundle), device, tile)
    if quality is not None:
        choose_quality(encoder.operating_points, quality)
    if seals is None:
        console.print(
            "WARNING: the link is not sealed. Anyone on the way can read and forge pictures.", style="bold red"
        )
    with closing(Spool(state or default_state())) as spool:
        opener = transport_opener(
            to,
            rates,
            links,
            # What an operator knows beforehand, and so can name in a broker's access list.
            replace(
                options,
                sender=spool.sender if seals is None else seals.secret.identity,
                report=Progress(console).report,
            ),
            simplex=simplex,
        )
        counters = send_pictures(
            open_source(source, spool),
            encoder,
            spool,
            link,
            policy,
            opener,
            envelope=None if seals is None else seals.envelope(spool),
            settings=NodeSettings(once=once, max_age=max_age),
            console=console,
        )
    if once and counters.refused:
        raise typer.Exit(1)


def send_pictures(
    source: Source,
    encoder: PictureEncoder,
    spool: Spool,
    link: LinkConfig,
    policy: RatePolicy,
    open_transport: Callable[[], Awaitable[ClientTransport]],
    *,
    envelope: SenderEnvelope | None = None,
    settings: NodeSettings,
    console: Console,
) -> NodeCounters:
    """Run a node until it is done (``once``), or SIGTERM or SIGINT ends it; tell on ``console`` what happens.

    Returns:
        The node's counters.

    Raises:
        PinholeError: if the spool or the transport cannot be used.
    """
    progress = Progress(console)

    async def run() -> NodeCounters:
        intake = Intake(source, encoder, spool, policy)
        node = SenderNode(
            intake, spool, link, open_transport, envelope=envelope, settings=settings, report=progress.report
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, node.stop)
        rate = "no budget" if link.rate is None else f"budget {format_rate(link.rate)}"
        progress.report(f"sender {spool.sender:08x}, {rate}")
        began = time.monotonic()
        following = asyncio.create_task(progress.follow(node))
        try:
            return await node.run()
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            progress.report(summary(node, simplex=link.simplex, seconds=time.monotonic() - began))

    return asyncio.run(run())


def rate_policy(link: LinkConfig, *, latency: float | None, quality: float | None, max_bytes: int | None) -> RatePolicy:
    """Return the rate control's settings for a link and the command's options.

    Raises:
        PinholeError: if a value is out of range.
    """
    fixed = link.simplex or not link.adapt
    return RatePolicy(
        budget=link.rate,
        overhead=overhead_factor(
            parity=link.parity if fixed else _LIKELY_PARITY,
            base_parity=link.base_parity if fixed else _LIKELY_PARITY,
            packet_bytes=link.packet_bytes,
            repeats=link.repeats,
        ),
        latency=latency,
        quality=quality,
        max_bytes=max_bytes,
    )


def open_source(text: str, spool: Spool) -> Source:
    """Return the source that ``text`` names.

    Raises:
        PinholeError: if there is no such source.
    """
    if text.startswith(("camera:", "rtsp:", "v4l2:")):
        raise UsageError(f"source {text}: cameras are not built yet; pass --source FOLDER")
    return WatchedFolder(Path(text), taken=spool.knows_revision)


def default_state() -> Path:
    """Return the folder of the spool where none is given: below ``XDG_STATE_HOME`` (XDG Base Directory 0.8)."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "pinhole" / "sender"
