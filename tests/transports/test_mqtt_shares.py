"""Stations of a group at a real broker whose answers to subscriptions do not come in time."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import aiomqtt
import pytest
from paho.mqtt.subscribeoptions import SubscribeOptions

from shared.transports import ClientOptions, StationOptions, open_client, open_station
from shared.transports.mqtt import ends
from shared.transports.mqtt.broker import Broker
from shared.transports.mqtt.ends import MqttStation
from shared.transports.mqtt.topics import SHARDS
from tests.transports.delivery import LIMIT, until
from tests.transports.mosquitto import Mosquitto

PACKET = bytes([0xA0]) + bytes(30)


async def a_station(url: str, number: int) -> MqttStation:
    station = await open_station(f"{url}?share=ground", StationOptions(station=number))
    assert isinstance(station, MqttStation)
    return station


@pytest.fixture
def unanswered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What fails next, "join" or "leave", as if the broker had not answered in time."""
    missed: list[str] = []
    join, leave = Broker.join, Broker.leave

    async def join_unanswered(self: Broker, filters: Sequence[tuple[str, SubscribeOptions]]) -> None:
        if missed[:1] == ["join"] and any(topic.startswith("$share/") for topic, _ in filters):
            missed.pop(0)
            raise aiomqtt.MqttError("Operation timed out")
        await join(self, filters)

    async def leave_unanswered(self: Broker, filters: Sequence[str]) -> None:
        if missed[:1] == ["leave"] and filters:
            missed.pop(0)
            raise aiomqtt.MqttError("Operation timed out")
        await leave(self, filters)

    monkeypatch.setattr(Broker, "join", join_unanswered)
    monkeypatch.setattr(Broker, "leave", leave_unanswered)
    monkeypatch.setattr(ends, "_SHARE_AGAIN", 0.05)
    return missed


def test_a_subscription_that_is_not_answered_is_asked_for_again(tmp_path: Path, unanswered: list[str]) -> None:
    async def scenario(url: str) -> None:
        unanswered[:] = ["join", "join"]
        station = await a_station(url, 1)
        await until(lambda: len(station.shards) == SHARDS)
        client = await open_client(url, ClientOptions(sender=7))
        async with asyncio.timeout(LIMIT):
            await client.send(PACKET)
            assert await station.receive() == (7, PACKET)
        assert station.counts.connections == 1
        await client.close()
        await station.close()

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker.url))
    assert not unanswered


def test_no_shard_stays_with_two_stations(tmp_path: Path, unanswered: list[str]) -> None:
    """The broker would deal a sender's packets out to both."""

    async def scenario(url: str) -> None:
        first = await a_station(url, 1)
        await until(lambda: len(first.shards) == SHARDS)
        unanswered[:] = ["leave"]
        second = await a_station(url, 2)
        await until(lambda: bool(second.shards) and not unanswered)
        await until(lambda: len(first.shards) + len(second.shards) == SHARDS)
        assert not first.shards & second.shards
        for number in range(8):
            sender = await open_client(url, ClientOptions(sender=number))
            took = set()
            for _ in range(4):
                await sender.send(PACKET)
                took.add(await taker([first, second]))
            assert len(took) == 1
            await sender.close()
        await first.close()
        await second.close()

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker.url))


async def taker(stations: Sequence[MqttStation]) -> int:
    """The number of the station that gets the next packet."""
    tasks = [asyncio.create_task(station.receive()) for station in stations]
    async with asyncio.timeout(LIMIT):
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    took = [number for number, task in enumerate(tasks) if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(took) == 1
    return took[0]
