"""Links that lack their connection, and links none of which can be opened: what several as one make of it."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from shared.errors import PinholeError
from shared.transports import ClientOptions, open_client, open_station
from shared.transports.base import ClientTransport, KeepsConnection
from shared.transports.bonding import client as bonded
from shared.transports.bonding.choice import LinkChoice, Mode
from shared.transports.bonding.client import BondedClient, Link
from shared.transports.mqtt import connection as mqtt_connection
from tests.transports.delivery import LIMIT, until
from tests.transports.kinds import KINDS
from tests.transports.mosquitto import Mosquitto

PACKET = bytes([0xA0]) + bytes(99)
ENDLESS = 1e9
"""Seconds of patience that no test outlasts: whatever is given up here is given up for another reason."""


def test_a_link_that_is_stuck_is_given_up_at_once_and_is_as_good_as_before_when_it_has_passed_its_packet_on() -> None:
    made = LinkChoice([None, None], [2400, 2400], mode=Mode.FALLBACK, patience=ENDLESS, simplex=False, now=0.0)
    made.opened(0, 0.0)
    made.opened(1, 0.0)
    made.stuck(0)
    assert made.stalled(1.0) == [], "it holds nothing"
    assert made.choose(100, 0, 1.0).link == 0
    assert made.choose(100, 0, 2.0).link is None
    made.stuck(0)
    assert made.next_stall() < 2.0
    assert made.stalled(2.0) == [0]
    made.stuck(0)
    assert made.stalled(3.0) == [], "it was told already"
    assert made.choose(100, 0, 3.0).link == 1
    made.finished(1, 3.0)
    made.finished(0, 4.0)
    assert made.choose(100, 0, 4.0).link == 0


async def fallback(first: str, second: str, lines: list[str]) -> BondedClient:
    links = [Link(name, partial(open_client, url)) for name, url in (("first", first), ("second", second))]
    return await BondedClient.open(links, Mode.FALLBACK, patience=ENDLESS, report=lines.append)


@pytest.mark.parametrize("kind", ["zeromq", "mqtt"])
def test_a_link_without_connection_is_given_up_before_its_silence_tells(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bonded, "UNCONNECTED_FOR", 0.2)
    monkeypatch.setattr(bonded, "_LOOK_EVERY", 0.05)
    monkeypatch.setattr(mqtt_connection, "_FIRST_WAIT", 0.5)

    async def scenario() -> None:
        lines: list[str] = []
        async with KINDS[kind].place(tmp_path) as place, asyncio.timeout(LIMIT):
            ground = await place.station()
            other = await open_station("memory://second-way")
            client = await fallback(place.client_url, "memory://second-way", lines)  # type: ignore[attr-defined]
            await until(lambda: len(client._open_links) == 2)
            await client.send(PACKET)
            path, packet = await ground.receive()
            assert packet == PACKET
            await ground.send(path, PACKET)
            await client.receive()
            await place.lose(ground)
            hearing = asyncio.create_task(other.receive())
            while not hearing.done():
                await client.send(PACKET)
                await asyncio.sleep(0.01)
            assert "first: stuck; going on without it" in lines
            assert lines[-1] == "second: carries the packets now"
            # When it is connected again, what it held goes out and what follows too.
            hearing = asyncio.create_task((await place.restore(ground)).receive())
            while lines[-1] != "first: carries the packets now" or not hearing.done():
                await client.send(PACKET)
                await asyncio.sleep(0.01)
            await client.close()
            await other.close()

    asyncio.run(scenario())


def test_a_connection_that_is_back_soon_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bonded, "_LOOK_EVERY", 0.01)
    monkeypatch.setattr(bonded, "_LINGER", 0.0)

    class Flapping:
        def __init__(self) -> None:
            self.looks = 0
            self.away = False

        @property
        def lacks_connection(self) -> bool:
            self.looks += 1
            return self.away

        async def send(self, packet: bytes, priority: int = 0) -> None:
            await asyncio.Event().wait()

        async def receive(self) -> bytes:
            await asyncio.Event().wait()
            return b""

        async def close(self) -> None: ...

    async def scenario() -> None:
        flapping, lines = Flapping(), list[str]()

        async def open_() -> ClientTransport:
            return flapping

        now = 0.0
        client = BondedClient(
            [Link("only", open_)], Mode.FALLBACK, patience=ENDLESS, report=lines.append, clock=lambda: now
        )
        await client.send(PACKET)
        for number in range(10):
            flapping.away = number % 2 == 0
            looks = flapping.looks
            await until(lambda: flapping.looks >= looks + 4)  # noqa: B023
            now += 0.0 if flapping.away else 2 * bonded.UNCONNECTED_FOR
        await client.close()
        assert not any("stuck" in line for line in lines)

    asyncio.run(scenario())


def test_links_none_of_which_can_be_opened_are_told_once_each_and_opened_when_they_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bonded, "_FIRST_PAUSE", 0.02)
    attempts = 0

    async def missing(name: str) -> ClientTransport:
        nonlocal attempts
        attempts += 1
        if attempts < 7:
            raise PinholeError(f"{name} is missing")
        return await open_client("memory://at-last")

    async def scenario() -> None:
        lines: list[str] = []
        ground = await open_station("memory://at-last")
        links = [Link(name, partial(missing, name)) for name in ("one", "two")]
        client = await BondedClient.open(links, Mode.FALLBACK, report=lines.append)
        assert sorted(lines) == [
            f"{name}: failed ({name} is missing); opening it again for ever" for name in ("one", "two")
        ]
        async with asyncio.timeout(LIMIT):
            await client.send(PACKET)
            assert (await ground.receive())[1] == PACKET
        await client.close()
        await ground.close()
        assert sum("failed" in line for line in lines) == 2

    asyncio.run(scenario())


def test_connections_that_a_transport_keeps_itself_are_known_to_it(tmp_path: Path) -> None:
    async def scenario(broker: Mosquitto) -> None:
        for url in (broker.url, "tcp://127.0.0.1:1"):
            client = await open_client(url, ClientOptions(sender=1))
            assert isinstance(client, KeepsConnection)
            if url == broker.url:
                assert not client.lacks_connection
                broker.kill()
            await until(lambda: client.lacks_connection)  # noqa: B023
            await client.close()

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker))
