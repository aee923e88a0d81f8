"""The two sides of a relay as its command opens them: devices that go and come, modems that are late, brokers."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pinhole.cli import run
from pinhole.relay import RelaySettings
from pinhole.relay_command import run_relay
from shared.link.keys import Role
from shared.transports import ClientOptions, StationOptions, lasting, open_client, open_station
from shared.transports.mqtt.ends import MqttStation
from shared.transports.mqtt.presence import State
from tests.transports.delivery import LIMIT, until
from tests.transports.mosquitto import Mosquitto

PACKET = bytes([0xA0]) + bytes(30)


class Console:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def print(self, line: str, **_: Any) -> None:
        self.lines.append(line)

    def said(self, words: str) -> bool:
        return any(words in line for line in self.lines)


@asynccontextmanager
async def relaying(listen: list[str], to: str, *, shared: bool = False) -> AsyncIterator[Console]:
    """The command's relay, from when it listens."""
    console = Console()
    task = asyncio.create_task(run_relay(listen, to, RelaySettings(shared=shared), console))  # type: ignore[arg-type]
    try:
        await until(lambda: console.said("relaying from"), task)
        yield console
        assert not task.done(), "the relay ended early"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Device:
    """A serial device that can be unplugged and plugged in again, under one name."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tty"
        self.url = f"kiss://{self.path}?baud=9600"
        self._master = self._slave = -1

    def plug_in(self) -> None:
        self._master, self._slave = os.openpty()
        self.path.symlink_to(os.ttyname(self._slave))

    def unplug(self) -> None:
        self.path.unlink()
        os.close(self._slave)
        os.close(self._master)

    def hear(self, packet: bytes) -> None:
        os.write(self._master, b"\xc0\x00" + packet + b"\xc0")


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasting, "_FIRST_PAUSE", 0.05)
    monkeypatch.setattr(lasting, "_LONGEST_PAUSE", 0.1)


@pytest.mark.usefixtures("short_pauses")
def test_a_listener_whose_device_is_unplugged_is_opened_again_and_the_other_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        device = Device(tmp_path)
        device.plug_in()
        ground = await open_station("memory://ground-of-devices")
        async with (
            asyncio.timeout(LIMIT),
            relaying([device.url, "memory://by-another-way"], "memory://ground-of-devices") as console,
        ):
            device.hear(PACKET)
            assert (await ground.receive())[1] == PACKET
            device.unplug()
            await until(lambda: console.said("opening it again for ever"))
            other = await open_client("memory://by-another-way")
            await other.send(PACKET + b"other")
            assert (await ground.receive())[1] == PACKET + b"other"
            device.plug_in()
            await until(lambda: console.said("is open again"))
            device.hear(PACKET + b"again")
            assert (await ground.receive())[1] == PACKET + b"again"
        await ground.close()
        device.unplug()

    asyncio.run(scenario())


@pytest.mark.usefixtures("short_pauses")
def test_a_relay_that_ends_while_a_device_is_away_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        device = Device(tmp_path)
        device.plug_in()
        async with asyncio.timeout(LIMIT), relaying([device.url], "memory://nobody") as console:
            device.unplug()
            await until(lambda: console.said("opening it again for ever"))

    asyncio.run(scenario())


@pytest.mark.usefixtures("short_pauses")
def test_closing_ends_a_receiver_that_waits_for_its_device(tmp_path: Path) -> None:
    async def scenario() -> None:
        device = Device(tmp_path)
        device.plug_in()
        lines: list[str] = []
        station = await lasting.open_lasting_station(device.url, StationOptions(), lines.append)
        receiving = asyncio.create_task(station.receive())
        device.unplug()
        await until(lambda: bool(lines))
        await station.close()
        async with asyncio.timeout(LIMIT):
            with pytest.raises(Exception, match="closed"):
                await receiving

    asyncio.run(scenario())


def test_a_modem_on_the_stations_side_may_be_plugged_in_later(tmp_path: Path) -> None:
    async def scenario() -> None:
        device = Device(tmp_path)
        async with asyncio.timeout(LIMIT), relaying(["memory://late"], device.url, shared=True) as console:
            assert console.said("no such device")
            assert console.said("trying again")
            device.plug_in()
            sender = await open_client("memory://late")
            await sender.send(PACKET)
            assert PACKET in await asyncio.to_thread(os.read, device._master, 1000)
        device.unplug()

    asyncio.run(scenario())


def test_two_relays_at_one_broker_are_two_stations_there_and_the_same_after_a_restart(tmp_path: Path) -> None:
    async def scenario(url: str) -> None:
        grounds = [await open_station(f"memory://ground{number}") for number in range(2)]
        observer = await open_station(url, StationOptions(station=1))
        assert isinstance(observer, MqttStation)

        def there() -> set[int]:
            alive = {who for who, word in observer.presence(Role.STATION).items() if word.state is State.ALIVE}
            return alive - {1}

        async with asyncio.timeout(LIMIT):
            async with relaying([url], "memory://ground0") as first, relaying([url], "memory://ground1") as second:
                await until(lambda: len(there()) == 2)
                ids = there()
                sender = await open_client(url, ClientOptions(sender=7))
                for number in range(3):
                    packet = PACKET + bytes([number])
                    await sender.send(packet)
                    assert [(await ground.receive())[1] for ground in grounds] == [packet, packet]
                await sender.close()
                assert not first.said("another client")
                assert not second.said("another client")
            await until(lambda: not there())
            async with relaying([url], "memory://ground0"):
                await until(lambda: len(there()) == 1)
                assert there() < ids
        await observer.close()
        for ground in grounds:
            await ground.close()

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker.url))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--listen", "memory://x", "--to", "udp://127.0.0.1:9"], "memory://x"),
        (["--listen", "udp://127.0.0.1:0", "--to", "memory://x"], "memory://x"),
        (["--listen", "udp://127.0.0.1:0", "--to", "tcp://127.0.0.1:9?colour=red"], "colour"),
        (["--listen", "udp://127.0.0.1:0", "--listen", "udp://127.0.0.1:0?ttl=3", "--to", "udp://127.0.0.1:9"], "ttl"),
    ],
)
def test_wrong_addresses_are_wrong_usage(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["relay", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert complaint in error
