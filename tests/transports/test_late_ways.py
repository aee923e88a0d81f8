"""Ways that come late, or come and go: nothing is given up, nobody waits for them, and little is said of it."""

import asyncio
import errno
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zmq

from receiver.listeners import Listeners
from shared.errors import PinholeError, UsageError
from shared.transports import ClientOptions, StationOptions, open_client, open_station
from shared.transports import lasting as lasting_module
from shared.transports.address import parse_address
from shared.transports.lasting import _again, open_lasting_station
from shared.transports.udp import client as udp_client
from shared.transports.udp import lookup as udp_lookup
from shared.transports.udp import settings as udp_settings
from shared.transports.udp.client import UdpClient
from shared.transports.udp.settings import still_in_group
from shared.transports.zeromq import station as zeromq_station
from tests.transports.delivery import LIMIT, until

PACKET = bytes([0xA0]) + bytes(99)


def test_a_number_of_an_interface_that_is_not_there_yet_is_tried_until_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(udp_client, "_FIRST_PAUSE", 0.02)
        station = await open_station("udp://127.0.0.1:0")
        client = await open_client(f"udp://[fe80::1%25nowhere0]:{station.url.rpartition(':')[2]}")
        assert isinstance(client, UdpClient)
        assert "cannot be found" in str(client.trouble)

        async def found(*_: Any, **__: Any) -> list[tuple[socket.AddressFamily, str]]:
            return [(socket.AF_INET, "127.0.0.1")]

        monkeypatch.setattr(udp_lookup, "resolve_all", found)
        async with asyncio.timeout(LIMIT):
            await client.send(PACKET)
            assert (await station.receive())[1] == PACKET
        await client.close()
        await station.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("way", ["none", "too small"])
def test_packets_that_are_lost_at_once_let_others_run(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_way(*_: Any) -> socket.socket:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    async def scenario() -> None:
        if way == "none":
            monkeypatch.setattr(udp_client, "client_socket", no_way)
        client = await open_client("udp://127.0.0.1:9?mtu=99", ClientOptions(packet_bytes=99))
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        running = asyncio.create_task(other())
        for _ in range(50):
            await client.send(PACKET)
        assert turns >= 40
        running.cancel()
        await client.close()

    asyncio.run(scenario())


class Prohibited(socket.socket):
    """As behind a route of the kind `prohibit`; where ``broadcast`` is set, as for a broadcast address."""

    broadcast = False

    def connect(self, address: Any) -> None:
        if not (self.broadcast and self.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)):
            raise PermissionError(errno.EACCES, "Permission denied")


class Broadcast(Prohibited):
    broadcast = True


def test_a_route_that_is_prohibited_for_now_is_no_broadcast_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(kind: type[socket.socket]) -> Callable[[socket.AddressFamily], socket.socket]:
        return lambda family: kind(family, socket.SOCK_DGRAM)

    async def scenario() -> None:
        monkeypatch.setattr(udp_settings, "_socket", make(Prohibited))
        client = await open_client("udp://192.0.2.1:9")
        assert isinstance(client, UdpClient)
        assert "permission denied" in str(client.trouble)
        await client.close()
        monkeypatch.setattr(udp_settings, "_socket", make(Broadcast))
        with pytest.raises(UsageError, match="broadcast"):
            await open_client("udp://192.0.2.255:9")

    asyncio.run(scenario())


def test_a_port_that_ends_every_connection_is_tried_and_told_ever_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    async def end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def scenario() -> None:
        monkeypatch.setattr(lasting_module, "_FIRST_PAUSE", 0.02)
        server = await asyncio.start_server(end, "127.0.0.1", 0)
        lines: list[str] = []
        url = f"kiss+tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        station = await open_lasting_station(url, StationOptions(), lines.append)
        receiving = asyncio.create_task(station.receive())
        await asyncio.sleep(1.0)
        # After 0.02, 0.04, 0.08, 0.16 and 0.32 seconds, not fifty times.
        assert 2 <= len(lines) <= 12
        await station.close()
        with pytest.raises(PinholeError):
            await receiving
        server.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("asked", "taken", "again"),
    [
        ("udp://[fe80::1%25eth0]:0?mtu=500", "udp://[fe80::1]:4711", "udp://[fe80::1%25eth0]:4711?mtu=500"),
        ("tcp://*:0", "tcp://[::]:4711", "tcp://*:4711"),
        ("tcp://*:5000", "tcp://[::]:5000", "tcp://*:5000"),
    ],
)
def test_a_listener_comes_back_on_its_port_and_otherwise_as_asked_for(asked: str, taken: str, again: str) -> None:
    assert _again(asked, taken) == again


def test_an_ipv6_group_that_no_interface_asks_for_any_more_needs_another_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = parse_address("udp://[ff05::4711]:0")
    asked = tmp_path / "igmp6"
    monkeypatch.setattr(udp_settings, "_ASKED_FOR", asked)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        assert still_in_group(address, sock, address.host, None)  # a kernel that does not tell
        asked.write_text("1    lo              ff020000000000000000000000000001     1 0000000C 0\n")
        assert not still_in_group(address, sock, address.host, None)
        assert still_in_group(address, sock, address.host, "lo")
        asked.write_text("2    eth0            ff050000000000000000000000004711     1 00000004 0\n")
        assert still_in_group(address, sock, address.host, None)


def test_what_zeromq_says_is_an_error_that_owners_know(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise zmq.ZMQError(errno.EMFILE)

    async def scenario() -> None:
        station = await open_station("tcp://127.0.0.1:0")
        await asyncio.sleep(0)
        monkeypatch.setattr(station, "_socket", SimpleNamespace(send_multipart=full))
        with pytest.raises(PinholeError, match="too many open files"):
            await station.send(b"peer", PACKET)
        monkeypatch.undo()

        async def failing() -> None:
            full()

        assert isinstance(station, zeromq_station.ZeroMQStation)
        station._reader.cancel()
        await asyncio.gather(station._reader, return_exceptions=True)
        station._reader = asyncio.create_task(failing())
        await asyncio.gather(station._reader, return_exceptions=True)
        with pytest.raises(PinholeError, match="too many open files"):
            await station.receive()
        await station.close()
        monkeypatch.setattr(zeromq_station, "station_socket", full)
        with pytest.raises(PinholeError, match="too many open files"):
            await open_station("tcp://127.0.0.1:0")

    asyncio.run(scenario())


def test_listeners_given_up_while_they_are_opened_leave_none_open(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        reached = asyncio.Event()

        async def never(*_: Any) -> Any:
            reached.set()
            await asyncio.Event().wait()

        real = open_lasting_station

        async def choose(url: str, *rest: Any) -> Any:
            return await (real if url.startswith("memory") else never)(url, *rest)

        monkeypatch.setattr("receiver.listeners.open_lasting_station", choose)
        opening = asyncio.create_task(Listeners.open(["memory://given-up", "udp://127.0.0.1:0"]))
        async with asyncio.timeout(LIMIT):
            await until(reached.is_set)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await (await open_station("memory://given-up")).close()

    asyncio.run(scenario())
