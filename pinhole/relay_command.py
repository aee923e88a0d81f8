"""`pinhole relay`: pass packets on between senders and a station."""

import asyncio
import signal
from typing import Annotated

import typer
from rich.console import Console

from pinhole.relay import Relay, RelaySettings
from shared.errors import UsageError
from shared.transports import open_client, open_station
from shared.transports.base import ClientTransport, StationTransport

_LINES = ("serial", "kiss", "kiss+tcp")
_BROKERS = ("mqtt", "mqtts")


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
    console = Console(stderr=True)
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
        PinholeError: if a listener or the way to the station cannot be opened, or a listener fails.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def tell(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    async def open_upstream() -> ClientTransport:
        return await open_client(to)

    listeners: list[StationTransport] = []
    try:
        # A wrong address is told at once, not at the first packet.
        await (await open_upstream()).close()
        for url in listen:
            listeners.append(await open_station(url))
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
