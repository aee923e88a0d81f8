"""`pinhole relay`: pass packets on between senders and a station."""

import asyncio
import hashlib
import math
import signal
import socket
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console

from pinhole.relay import Relay, RelaySettings
from shared.errors import PinholeError, UsageError
from shared.link_flags import check_addresses
from shared.open_files import allow_many_open_files
from shared.transports import ClientOptions, StationOptions, open_client
from shared.transports.base import ClientTransport, StationTransport
from shared.transports.lasting import open_lasting_station

_LINES = ("serial", "kiss", "kiss+tcp")
_BROKERS = ("mqtt", "mqtts")
_PACKET_BYTES = 48
"""The smallest that a way may be made for: the ends choose the size, and what does not fit a way is counted."""

_SAME_TROUBLE, _OTHER_TROUBLE = 300.0, 10.0
"""Seconds before the same trouble is told again, and before another one is: each path's connection has its own."""


def relay(
    listen: Annotated[
        list[str],
        typer.Option(
            metavar="URL", help="Where senders are heard, such as udp://HOST:PORT or kiss:///dev/...; repeatable."
        ),
    ],
    to: Annotated[str, typer.Option(metavar="URL", help="The station, or another relay: tcp://HOST:PORT, udp://...")],
    most_paths: Annotated[
        int, typer.Option(min=1, help="Senders' addresses with a connection of their own to the station at once.")
    ] = RelaySettings.most_paths,
    idle: Annotated[
        float, typer.Option(min=1.0, metavar="S", help="Close the connection of an address after S silent seconds.")
    ] = RelaySettings.idle,
    insecure: Annotated[bool, typer.Option("--insecure", help="Pass on packets that are not sealed, too.")] = False,
) -> None:
    """Pass packets on, unopened, between senders and a station, until stopped (Ctrl-C).

    For antennas away from the station. Several relays may hear one sender: the station merges what each passes on. A
    relay needs no key, for packets are sealed from end to end.
    """
    allow_many_open_files()
    console = Console(stderr=True)
    check_addresses(listen, StationOptions(packet_bytes=_PACKET_BYTES))
    check_addresses([to], ClientOptions(packet_bytes=_PACKET_BYTES))
    if to.partition("://")[0] in _BROKERS:
        raise UsageError(f"--to {to}: a relay does not speak for senders at a broker; let them use the broker, or --to")
    if insecure:
        console.print("INSECURE: packets that are not sealed are passed on, whoever made them", style="bold red")
    settings = RelaySettings(
        insecure=insecure, most_paths=most_paths, idle=idle, shared=to.partition("://")[0] in _LINES
    )
    asyncio.run(run_relay(listen, to, settings, console))


async def run_relay(listen: list[str], to: str, settings: RelaySettings, console: Console) -> None:
    """Relay until SIGTERM or SIGINT, and print a summary.

    Raises:
        UsageError: if the station's address is wrong.
        PinholeError: if a listener cannot be opened.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def tell(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    trouble = _seldom(tell, loop.time)
    # A broker tells its stations apart by this; so it is the same after a restart, and another one for each relay.
    place = "\n".join([socket.gethostname(), *listen, to])
    station = int.from_bytes(hashlib.blake2s(place.encode(), digest_size=4).digest(), "big")

    async def open_upstream() -> ClientTransport:
        return await open_client(to, ClientOptions(packet_bytes=_PACKET_BYTES, report=trouble))

    listeners: list[StationTransport] = []
    try:
        # What is wrong or amiss is told at once, not at the first packet.
        try:
            await (await open_upstream()).close()
        except UsageError:
            raise
        except (OSError, PinholeError) as error:
            tell(f"the station's side cannot be opened yet ({error}); trying again for every packet")
        for url in listen:
            options = StationOptions(station=station, packet_bytes=_PACKET_BYTES, report=trouble)
            listeners.append(await open_lasting_station(url, options, tell))
    except BaseException:
        for listener in listeners:
            await listener.close()
        raise
    passing = Relay(listeners, open_upstream, settings, report=tell, clock=loop.time)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tell(f"relaying from {', '.join(listener.url for listener in listeners)} to {to}")
    try:
        await passing.run(stop)
    finally:
        tell(f"relayed: {passing.counters.summary()}")


def _seldom(tell: Callable[[str], None], clock: Callable[[], float]) -> Callable[[str], None]:
    told_at, told = -math.inf, ""

    def report(line: str) -> None:
        nonlocal told_at, told
        if clock() - told_at >= (_SAME_TROUBLE if line == told else _OTHER_TROUBLE):
            told_at, told = clock(), line
            tell(line)

    return report
