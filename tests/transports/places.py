"""Where senders and stations of each kind of transport meet in a test, and what can happen to them there."""

import asyncio
import random
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Self

import aiomqtt
import zmq
import zmq.asyncio

from pinhole.relay import Relay, RelaySettings
from shared.link.keys import Role, SecretKey
from shared.transports import ClientOptions, StationOptions, open_client, open_station
from shared.transports.base import LARGEST_PACKET, ClientTransport, StationTransport
from shared.transports.bonding.choice import Mode
from shared.transports.bonding.client import BondedClient, Link
from shared.transports.lines.framing import FEND
from shared.transports.memory import Faults, MemoryClient, MemoryStation
from shared.transports.mqtt.topics import Topics
from tests.transports.delivery import until
from tests.transports.line_fakes import Cable, FakeTnc
from tests.transports.mosquitto import Mosquitto

GROUND = SecretKey.generate(Role.STATION)
SENDERS = tuple(SecretKey.generate(Role.SENDER) for _ in range(3))

FAULTS = {"loss": 0.05, "duplication": 0.1, "reordering": 0.05, "corruption": 0.05}
"""Of each way. The last packets of a session wait for others that pass them, so that each of these counts as a loss."""

_names = count(1)


def free_port(family: socket.AddressFamily, kind: socket.SocketKind) -> int:
    with socket.socket(family, kind) as probe:
        probe.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Place:
    """One address. A station may listen there, end, and come back; senders by their numbers from 0 may come and go.

    Args:
        folder: for files.

    Attributes:
        reports: what transports opened here reported, each line behind the name of the end.
    """

    def __init__(self, folder: Path) -> None:
        self.reports: list[str] = []
        self._folder = folder
        self._opened: list[ClientTransport | StationTransport] = []

    async def __aenter__(self) -> Self:
        await self.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        # What a test that failed has left open would hold up others.
        for transport in self._opened:
            await transport.close()
        await self.end()

    async def begin(self) -> None:
        """Make the place."""

    async def end(self) -> None:
        """Take it away."""

    async def station(self, **options: Any) -> StationTransport:
        made = StationOptions(station=GROUND.identity, report=self._reports_of("station"), **options)
        self._opened.append(station := await self._open_station(made))
        return station

    async def client(self, number: int = 0, **options: Any) -> ClientTransport:
        report = self._reports_of(f"sender {number}")
        made = ClientOptions(sender=SENDERS[number].identity, report=report, **options)
        self._opened.append(client := await self._open_client(number, made))
        return client

    def _reports_of(self, end: str) -> Callable[[str], None]:
        return lambda line: self.reports.append(f"{end}: {line}")

    async def settle(self) -> None:
        """Wait until nothing is on its way that would only be lost."""

    async def lose(self, station: StationTransport) -> None:
        """Take away what carries packets."""
        await station.close()

    async def restore(self, station: StationTransport) -> StationTransport:
        """Bring it back; returns the station that is there then."""
        return await self.station()

    async def bother(self, station: StationTransport, chance: random.Random) -> None:
        """What strangers can do beside sending packets of nonsense; returns when the transport has counted it."""

    def lost(self, client: ClientTransport, station: StationTransport) -> int:
        """Packets that both ends counted as lost, dropped or refused."""
        raise NotImplementedError

    async def _open_station(self, options: StationOptions) -> StationTransport:
        raise NotImplementedError

    async def _open_client(self, number: int, options: ClientOptions) -> ClientTransport:
        raise NotImplementedError


class _Addressed(Place):
    """A place with a URL for stations and one for senders."""

    station_url = ""
    client_url = ""

    async def _open_station(self, options: StationOptions) -> StationTransport:
        return await open_station(self.station_url, options)

    async def _open_client(self, number: int, options: ClientOptions) -> ClientTransport:
        return await open_client(self.client_url, options)


class ZeroMQ(_Addressed):
    def __init__(self, folder: Path, host: str = "127.0.0.1", *, curve: bool = False) -> None:
        super().__init__(folder)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._where = (host.strip("[]"), free_port(family, socket.SOCK_STREAM))
        self.station_url = self.client_url = f"tcp://{host}:{self._where[1]}"
        self._curve = curve

    async def _open_station(self, options: StationOptions) -> StationTransport:
        if self._curve:
            listed = {sender.public.curve for sender in SENDERS}
            options = replace(options, secret=GROUND, admits=listed.__contains__)
        return await super()._open_station(options)

    async def _open_client(self, number: int, options: ClientOptions) -> ClientTransport:
        if self._curve:
            options = replace(options, secret=SENDERS[number], station=GROUND.public)
        return await super()._open_client(number, options)

    async def bother(self, station: Any, chance: random.Random) -> None:
        def turned_away() -> int:
            return int(station.connections_ended + station.handshakes_failed)

        before = turned_away()
        _, writer = await asyncio.open_connection(*self._where)
        # To ZeroMQ this may well be the oldest version of its protocol, so that some of it is taken for packets.
        writer.write(chance.randbytes(5000))
        writer.close()
        await until(lambda: turned_away() > before)
        before = turned_away()
        foreign = station.foreign
        context = zmq.asyncio.Context()
        dealer = context.socket(zmq.DEALER)
        try:
            dealer.setsockopt(zmq.LINGER, 0)
            dealer.setsockopt(zmq.IPV6, 1)
            dealer.connect(self.client_url)
            if not self._curve:
                await dealer.send_multipart([b"two", b"parts"])
                await dealer.send(chance.randbytes(LARGEST_PACKET + 1))
                await until(lambda: station.foreign >= foreign + 2)
                await dealer.send(chance.randbytes(LARGEST_PACKET + 1000))
            await until(lambda: turned_away() > before)
        finally:
            dealer.close()
            await asyncio.to_thread(context.term)

    def lost(self, client: Any, station: Any) -> int:
        return int(client.dropped + station.dropped)


class Udp(_Addressed):
    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        super().__init__(folder)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._host = host
        self.station_url = self.client_url = f"udp://{host}:{free_port(family, socket.SOCK_DGRAM)}"

    def lost(self, client: Any, station: Any) -> int:
        return int(client.errors + station.dropped + station.counters.lost_in_kernel)


class Bonded(Udp):
    """Two UDP links of each sender to one station."""

    async def _open_client(self, number: int, options: ClientOptions) -> ClientTransport:
        async def open_link(name: str) -> ClientTransport:
            own = replace(options, report=lambda line: options.report(f"{name}: {line}"))
            return await open_client(self.client_url, own)

        names = [f"link {i} of {self.client_url}" for i in range(2)]
        links = [Link(name, partial(open_link, name), None, LARGEST_PACKET) for name in names]
        return await BondedClient.open(links, Mode.BOND, report=options.report)

    def lost(self, client: Any, station: Any) -> int:
        return int(client.dropped + station.dropped + station.counters.lost_in_kernel)


class Relayed(Udp):
    """Senders reach a station over UDP through a relay, which reaches it over UDP."""

    async def begin(self) -> None:
        self.client_url = f"udp://127.0.0.1:{free_port(socket.AF_INET, socket.SOCK_DGRAM)}"
        await self._begin_relay()

    async def end(self) -> None:
        self._stop.set()
        await self._task

    async def settle(self) -> None:
        await until(lambda: not self.relay.waiting_bytes)

    async def lose(self, station: StationTransport) -> None:
        await self.end()

    async def restore(self, station: StationTransport) -> StationTransport:
        await self._begin_relay()
        return station

    async def bother(self, station: Any, chance: random.Random) -> None:
        client = await open_client(self.client_url)
        foreign = self.relay.counters.foreign
        await client.send(b"")
        await client.send(b"\0" * 100)
        await until(lambda: self.relay.counters.foreign == foreign + 2)
        await client.close()

    def lost(self, client: Any, station: Any) -> int:
        ear: Any = self.relay._listeners[0]
        counters = self.relay.counters
        return super().lost(client, station) + self.lost_at(ear) + counters.crowded + counters.failed

    def lost_at(self, ear: Any) -> int:
        return int(ear.dropped + ear.counters.lost_in_kernel)

    async def _begin_relay(self) -> None:
        async def open_upstream() -> ClientTransport:
            return await open_client(self.station_url)

        ears = [await open_station(self.client_url)]
        settings = RelaySettings(insecure=True, idle=2.0)
        report = self._reports_of("relay")
        self.relay = Relay(ears, open_upstream, settings, report=report, clock=time.monotonic)
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self.relay.run(self._stop))


class Mqtt(_Addressed):
    async def begin(self) -> None:
        self._broker = Mosquitto(self._folder)
        await asyncio.to_thread(self._broker.start)
        self.station_url = self.client_url = self._broker.url

    async def end(self) -> None:
        self._broker.kill()

    async def lose(self, station: StationTransport) -> None:
        self._broker.kill()

    async def restore(self, station: StationTransport) -> StationTransport:
        await asyncio.to_thread(self._broker.start)
        return station

    async def bother(self, station: Any, chance: random.Random) -> None:
        up = Topics().up(SENDERS[1].identity, 0)
        async with aiomqtt.Client("127.0.0.1", self._broker.port) as stranger:
            await stranger.publish(up, chance.randbytes(LARGEST_PACKET + 1))
            await stranger.publish(up, chance.randbytes(100), retain=True)
            await stranger.publish("pinhole/v2/up/99/nobody/base", b"nonsense")
            await stranger.publish("pinhole/v2/state/sender/00000001/birth", chance.randbytes(100))
        counts = station.counts
        await until(lambda: counts.oversized > 0 and counts.retained > 0 and counts.foreign > 1)

    def lost(self, client: Any, station: Any) -> int:
        return int(station.counts.overflowed + client.counts.refused)


class Wire(Place):
    """A cable between two serial devices.

    Args:
        folder: not used.
        url: of a device, with a gap for its path.
    """

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self._url = url

    async def begin(self) -> None:
        self._cable = Cable()

    async def end(self) -> None:
        self._cable.unplug()

    async def lose(self, station: StationTransport) -> None:
        self._cable.unplug()

    async def bother(self, station: Any, chance: random.Random) -> None:
        damaged = station.damaged
        for _ in range(LARGEST_PACKET // 1000 * 3):
            # Without an end of a frame of either kind.
            self._cable.write(0, bytes(chance.randrange(1, 0xC0) for _ in range(1000)))
            await asyncio.sleep(0.001)
        for _ in range(10):
            self._cable.write(0, chance.randbytes(200) + bytes([0, FEND]))
            await asyncio.sleep(0.001)
        await until(lambda: station.damaged > damaged)

    def lost(self, client: Any, station: Any) -> int:
        return int(station.dropped + station.damaged)

    async def _open_station(self, options: StationOptions) -> StationTransport:
        return await open_station(self._url.format(self._cable.devices[0]), options)

    async def _open_client(self, number: int, options: ClientOptions) -> ClientTransport:
        return await open_client(self._url.format(self._cable.devices[1]), options)


class Channel(_Addressed):
    """A channel that all modems hear, each end at a port of its own modem."""

    async def begin(self) -> None:
        self._tnc = FakeTnc()
        await self._tnc.start()
        self.station_url = self.client_url = self._tnc.url

    async def end(self) -> None:
        await self._tnc.stop()

    async def lose(self, station: StationTransport) -> None:
        await self._tnc.stop()

    async def bother(self, station: Any, chance: random.Random) -> None:
        port = int(self._tnc.url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        damaged, ignored = station.damaged, station._framing.ignored
        # An escape that stands for nothing, and a packet of another port.
        writer.write(b"\xc0\x00\xdb\x01\xc0" + b"\xc0\x50other\xc0")
        await until(lambda: station.damaged > damaged and station._framing.ignored > ignored)
        writer.close()

    def lost(self, client: Any, station: Any) -> int:
        return int(station.dropped + station.damaged)


class Memory(_Addressed):
    def __init__(self, folder: Path, faults: dict[str, float] | None = None) -> None:
        super().__init__(folder)
        self._faults = faults or {}
        self._name = f"place{next(_names)}"
        self.station_url = self.client_url = f"memory://{self._name}"

    async def _open_client(self, number: int, options: ClientOptions) -> ClientTransport:
        if not self._faults:
            return await super()._open_client(number, options)
        return MemoryClient(
            self._name, Faults(seed=2 * number, **self._faults), Faults(seed=2 * number + 1, **self._faults)
        )

    async def bother(self, station: Any, chance: random.Random) -> None:
        assert isinstance(station, MemoryStation)
        # The station of the link counts these.
        station.take(MemoryClient(self._name), chance.randbytes(LARGEST_PACKET + 1))
        station.take(MemoryClient(self._name), b"")

    def lost(self, client: Any, station: Any) -> int:
        return int(station.dropped)


Makes = Callable[[Path], Place]
