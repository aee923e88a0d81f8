"""Hosts that have names: not found yet, found later, with several addresses, moved."""

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.transports import ClientOptions, StationOptions, open_client, open_station
from shared.transports.address import Address, parse_address
from shared.transports.mqtt import connection as mqtt_connection
from shared.transports.options import tell_nobody
from shared.transports.pacing import Pacer
from shared.transports.trouble import Trouble
from shared.transports.udp import client as udp_client
from shared.transports.udp import lookup as udp_lookup
from shared.transports.udp.client import UdpClient
from shared.transports.udp.lookup import FORGIVE, Lookup, Target
from shared.transports.udp.settings import UdpOptions
from shared.transports.zeromq import client as zeromq_client
from tests.transports.delivery import LIMIT, until
from tests.transports.mosquitto import Mosquitto

NAME = "ground.example"
PACKET = bytes([0xA0]) + bytes(99)


class Names:
    """What the name stands for; nothing at first, and every looking-up counts."""

    def __init__(self) -> None:
        self.numbers: list[str] = []
        self.asked = 0
        self._real = socket.getaddrinfo

    def look_up(self, host: Any, port: Any, *rest: Any, **others: Any) -> Any:
        if host != NAME:
            return self._real(host, port, *rest, **others)
        self.asked += 1
        if not self.numbers:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [one for number in self.numbers for one in self._real(number, port, *rest, **others)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    made = Names()
    monkeypatch.setattr(socket, "getaddrinfo", made.look_up)
    monkeypatch.setattr(udp_client, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(udp_client, "_LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(zeromq_client, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(mqtt_connection, "_FIRST_WAIT", 0.05)
    return made


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as running:
        yield running


@pytest.mark.parametrize("scheme", ["tcp", "udp", "mqtt"])
def test_a_name_that_is_not_found_yet_is_told_once_and_tried_until_it_is(
    scheme: str, names: Names, broker: Mosquitto
) -> None:
    async def scenario() -> None:
        reports: list[str] = []
        async with asyncio.timeout(LIMIT):
            station = await open_station(broker.url if scheme == "mqtt" else f"{scheme}://127.0.0.1:0")
            port = station.url.rpartition(":")[2]
            port = port if scheme != "mqtt" else str(broker.port)
            client = await open_client(f"{scheme}://{NAME}:{port}", ClientOptions(report=reports.append))
            sending = asyncio.create_task(client.send(PACKET))
            asked = names.asked
            await until(lambda: names.asked > asked + 1)
            assert not sending.done()
            assert len(reports) == 1
            assert "the host cannot be found (temporary failure" in reports[0].lower()
            names.numbers = ["127.0.0.1"]
            assert (await station.receive())[1] == PACKET
            await sending
            await client.close()
            await station.close()

    asyncio.run(scenario())


def test_a_station_waits_for_the_name_of_its_broker(names: Names, broker: Mosquitto) -> None:
    async def scenario() -> None:
        reports: list[str] = []
        async with asyncio.timeout(LIMIT):
            station = await open_station(f"mqtt://{NAME}:{broker.port}", StationOptions(report=reports.append))
            assert "the host cannot be found" in reports[0]
            names.numbers = ["127.0.0.1"]
            client = await open_client(broker.url)
            while not station.counts.connections:  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)
            await client.send(PACKET)
            assert (await station.receive())[1] == PACKET
            await client.close()
            await station.close()

    asyncio.run(scenario())


def test_closing_ends_a_send_that_waits_for_a_name(names: Names) -> None:
    async def scenario() -> None:
        client = await open_client(f"udp://{NAME}:9")
        sending = asyncio.create_task(client.send(PACKET))
        asked = names.asked
        await until(lambda: names.asked > asked)
        await client.close()
        with pytest.raises(Exception, match="closed"):
            await sending

    asyncio.run(scenario())


def test_datagrams_go_to_the_next_address_of_a_name_where_one_refuses_them(names: Names) -> None:
    async def scenario() -> None:
        names.numbers = ["127.0.0.2", "127.0.0.1"]
        station = await open_station("udp://127.0.0.1:0")
        client = await open_client(f"udp://{NAME}:{station.url.rpartition(':')[2]}")
        assert isinstance(client, UdpClient)
        hearing = asyncio.create_task(station.receive())
        async with asyncio.timeout(LIMIT):
            while not hearing.done():
                await client.send(PACKET)
                await asyncio.sleep(0.01)
            assert client._target == (socket.AF_INET, "127.0.0.1")
            # And its answers are heard.
            await station.send(hearing.result()[0], b"answer")
            assert await client.receive() == b"answer"
        await client.close()
        await station.close()

    asyncio.run(scenario())


def test_datagrams_follow_a_name_whose_station_has_moved(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_client, "_LOOK_AGAIN", 0.05)

    async def scenario() -> None:
        names.numbers = ["127.0.0.1"]
        # It says nothing against packets, as a host that is switched off does.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as old:
            old.bind(("127.0.0.1", 0))
            port = old.getsockname()[1]
            station = await open_station(f"udp://127.0.0.2:{port}")
            client = await open_client(f"udp://{NAME}:{port}")
            await client.send(PACKET)
            names.numbers = ["127.0.0.2"]
            hearing = asyncio.create_task(station.receive())
            async with asyncio.timeout(LIMIT):
                while not hearing.done():
                    await client.send(PACKET)
                    await asyncio.sleep(0.01)
            await client.close()
            await station.close()

    asyncio.run(scenario())


def test_a_name_is_not_looked_up_again_while_nothing_is_sent(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_client, "_LOOK_AGAIN", 0.01)

    async def scenario() -> None:
        names.numbers = ["127.0.0.1"]
        station = await open_station("udp://127.0.0.1:0")
        client = await open_client(f"udp://{NAME}:{station.url.rpartition(':')[2]}")
        assert isinstance(client, UdpClient)
        async with asyncio.timeout(LIMIT):
            await asyncio.sleep(0.2)
            assert names.asked == 1
            await client.send(PACKET)
            await until(lambda: names.asked > 1)
        await client.close()
        await station.close()

    asyncio.run(scenario())


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_of_several_addresses_the_first_that_gave_no_error_lately_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")]
    first, second = (Target(*one) for one in found)

    async def look_up(address: Address, **_: object) -> list[tuple[socket.AddressFamily, str]]:
        return found

    monkeypatch.setattr(udp_lookup, "resolve_all", look_up)

    async def scenario() -> None:
        clock = Clock()
        lookup = Lookup(parse_address("udp://ground.example:1"), clock)
        assert await lookup.choose() == first
        lookup.note_failure(first)
        assert lookup.evading
        assert await lookup.choose() == second
        clock.now = 1.0
        lookup.note_failure(second)
        assert await lookup.choose() == first, "its error is the older one"
        clock.now = FORGIVE
        assert await lookup.choose() == first
        clock.now = FORGIVE + 1.0
        evading = lookup.evading
        found.reverse()
        assert await lookup.choose() == second
        assert evading is False

    asyncio.run(scenario())


def failing_socket(number: int) -> Callable[..., socket.socket]:
    class Failing(socket.socket):
        def send(self, *_: object) -> int:
            raise OSError(number, "no")

    def make(*_: object) -> socket.socket:
        sock = Failing(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        return sock

    return make


@pytest.mark.parametrize(("number", "doubtful"), [(errno.EHOSTUNREACH, True), (errno.EMSGSIZE, False)])
def test_only_errors_of_the_way_put_an_address_in_doubt(
    number: int, doubtful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(udp_client, "client_socket", failing_socket(number))
        address = parse_address("udp://127.0.0.1:9")
        client = UdpClient(address, UdpOptions.of_client(address, 300), Pacer(None, 600), Trouble(tell_nobody))
        await client.open()
        await client.send(PACKET)
        assert client._lookup.evading is doubtful
        assert client._doubtful.is_set() is doubtful
        await client.close()

    asyncio.run(scenario())
