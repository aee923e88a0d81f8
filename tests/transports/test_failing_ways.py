"""Ways that stand still, take less than they get, or lead nowhere: what must not fail with them."""

import asyncio
import gc
import os
import socket
import termios
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pinhole.relay import Relay, RelaySettings
from pinhole.relay_command import run_relay
from receiver.listeners import Listeners
from shared.errors import PinholeError, UsageError
from shared.transports import ClientOptions, open_client, open_station
from shared.transports.address import parse_address
from shared.transports.base import ClientTransport
from shared.transports.bonding.choice import Mode
from shared.transports.bonding.client import BondedClient, Link
from shared.transports.lasting import LastingStation
from shared.transports.lines import serial_port
from shared.transports.lines.byte_stream import ANSWER_BYTES, StreamStation
from shared.transports.memory import MemoryClient
from shared.transports.udp.settings import UdpOptions, station_socket, still_in_group
from shared.transports.udp.station import UdpStation
from tests.transports.delivery import LIMIT

SEALED = b"\xa0"


class Modem:
    """A KISS port whose owner decides whether it reads."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._server.setblocking(False)
        self._opened: list[socket.socket] = []
        self.url = f"kiss+tcp://127.0.0.1:{self._server.getsockname()[1]}"

    async def accept(self) -> socket.socket:
        opened, _ = await asyncio.get_running_loop().sock_accept(self._server)
        self._opened.append(opened)
        return opened

    def close(self) -> None:
        for one in [*self._opened, self._server]:
            one.close()


def test_a_modem_that_reads_nothing_holds_no_sender_on_another_way() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        modem = Modem()
        async with asyncio.timeout(LIMIT):
            listeners = await Listeners.open([modem.url, "udp://127.0.0.1:0"])
            await loop.sock_sendall(await modem.accept(), b"\xc0\x00" + SEALED + b"by radio\xc0")
            radio, _ = await listeners.receive()
            client = await open_client(listeners.url.split(", ")[1])
            await client.send(SEALED + b"by datagram")
            path, _ = await listeners.receive()
            for _ in range(500):
                await listeners.send(radio, bytes(1000))
            await listeners.send(path, b"answer")
            assert await client.receive() == b"answer"
            ear = listeners._transports[0]
            assert isinstance(ear, LastingStation)
            stuck = ear.transport
            assert isinstance(stuck, StreamStation)
            assert stuck.answers_dropped > 400
            assert stuck._answers.held < ANSWER_BYTES + 2000
            await client.close()
            await listeners.close()
        modem.close()

    asyncio.run(scenario())


def test_a_strangers_large_packet_costs_a_relay_that_packet_only() -> None:
    async def scenario() -> None:
        modem = Modem()
        lines: list[str] = []
        async with asyncio.timeout(LIMIT):
            listener = await open_station("udp://127.0.0.1:0")
            relay = Relay(
                [listener],
                lambda: open_client(modem.url),
                RelaySettings(shared=True),
                report=lines.append,
                clock=time.monotonic,
            )
            stop = asyncio.Event()
            running = asyncio.create_task(relay.run(stop))
            client = await open_client(listener.url, ClientOptions(packet_bytes=4000))
            for number in range(5):
                await client.send(SEALED + bytes(2999))
                await client.send(SEALED + b"honest %d" % number)
            while relay.counters.up < 5:
                await asyncio.sleep(0.01)
            stop.set()
            await running
            await client.close()
        modem.close()
        assert relay.counters.outages == relay.counters.failed == 0
        assert "5 too large for the way" in relay.counters.summary()
        assert [line for line in lines if "over the limit of 2048" in line] == lines[:1]

    asyncio.run(scenario())


class Lines:
    """A console that keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def print(self, line: str, **_: Any) -> None:
        self.lines.append(line)


@pytest.mark.parametrize("options", ["", "?mtu=200"])
def test_a_relay_passes_to_small_ways_and_tells_that_nobody_is_there(options: str) -> None:
    async def scenario() -> None:
        console = Lines()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        listen, nobody = f"udp://127.0.0.1:{port}{options}", f"127.0.0.1:1{options}"
        relaying = asyncio.create_task(
            run_relay([listen], f"{'udp' if options else 'tcp'}://{nobody}", RelaySettings(), console)  # type: ignore[arg-type]
        )
        async with asyncio.timeout(LIMIT):
            while not console.lines:
                assert not relaying.done()
                await asyncio.sleep(0.01)
            client = await open_client(f"udp://127.0.0.1:{port}")
            while not any("nobody listens" in line or "connection refused" in line for line in console.lines):
                await client.send(SEALED + bytes(20))
                await asyncio.sleep(0.05)
            await client.close()
        relaying.cancel()
        await asyncio.gather(relaying, return_exceptions=True)

    asyncio.run(scenario())


def test_a_device_that_goes_while_it_is_opened_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        master, slave = os.openpty()
        device = tmp_path / "tty"
        device.symlink_to(os.ttyname(slave))
        lines: list[str] = []
        listeners = await Listeners.open([f"serial://{device}?baud=9600"], report=lines.append)
        real, failures = termios.tcgetattr, [termios.error(5, "Input/output error")]

        def flapping(descriptor: int) -> list[Any]:
            # pyserial has a termios of its own name, but it is the same module.
            if failures and len(lines) == 1 and device.exists():
                raise failures.pop()
            return real(descriptor)

        monkeypatch.setattr(serial_port, "termios", _Termios(flapping))
        os.close(slave)
        os.close(master)
        master, slave = os.openpty()
        device.unlink()
        device.symlink_to(os.ttyname(slave))
        async with asyncio.timeout(LIMIT):
            while not lines or not lines[-1].endswith("open again"):
                await asyncio.sleep(0.05)
            os.write(master, b"\0\x04abc\0")
            assert (await listeners.receive())[1] == b"abc"
        assert not failures
        await listeners.close()
        os.close(slave)
        os.close(master)

    asyncio.run(scenario())


class _Termios:
    """The module with another `tcgetattr`."""

    def __init__(self, tcgetattr: Any) -> None:
        self.tcgetattr = tcgetattr

    def __getattr__(self, name: str) -> Any:
        return getattr(termios, name)


def test_a_defect_in_opening_again_ends_the_reception_and_does_not_leave_it_deaf() -> None:
    async def defective() -> NoReturn:
        raise RuntimeError("a defect")

    async def scenario() -> None:
        station = await open_station("memory://defect")
        listeners = Listeners([LastingStation(station, defective)])
        await station.close()
        async with asyncio.timeout(LIMIT):
            with pytest.raises(RuntimeError, match="a defect"):
                await listeners.receive()
        await listeners.close()

    asyncio.run(scenario())


def test_a_wrong_address_among_several_is_told_and_not_tried_for_ever() -> None:
    async def good() -> ClientTransport:
        return MemoryClient("nobody")

    async def bad() -> ClientTransport:
        await asyncio.sleep(0.05)
        return await open_client("tcp://127.0.0.1:1?colour=red")

    async def scenario() -> None:
        lines: list[str] = []
        # It is found wrong after the other was opened, which must go on.
        client = await BondedClient.open([Link("good", good), Link("bad", bad)], Mode.BOND, report=lines.append)
        async with asyncio.timeout(LIMIT):
            while not lines:
                await asyncio.sleep(0.01)
            await client.send(SEALED + b"goes on")
        assert "colour" in lines[0]
        assert lines[0].endswith("going on without it")
        assert client._tasks[1].done()
        await client.close()
        with pytest.raises(UsageError, match="colour"):
            await BondedClient.open([Link("bad", bad)], Mode.BOND)

    asyncio.run(scenario())


def test_a_host_with_two_addresses_is_found_at_the_one_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        real = loop.getaddrinfo

        async def two(host: str, port: int, **others: Any) -> Any:
            if host != "ground.example":
                return await real(host, port, **others)
            return [*await real("127.0.0.2", port, **others), *await real("127.0.0.1", port, **others)]

        monkeypatch.setattr(loop, "getaddrinfo", two)
        station = await open_station("tcp://127.0.0.1:0")
        client = await open_client(f"tcp://ground.example:{station.url.rpartition(':')[2]}")
        async with asyncio.timeout(LIMIT):
            await client.send(SEALED + b"found")
            assert (await station.receive())[1] == SEALED + b"found"
        await client.close()
        await station.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_every_interface_means_both_families_to_zeromq_too(host: str) -> None:
    async def scenario() -> None:
        station = await open_station("tcp://*:0")
        client = await open_client(f"tcp://{host}:{station.url.rpartition(':')[2]}")
        async with asyncio.timeout(LIMIT):
            await client.send(SEALED)
            assert (await station.receive())[1] == SEALED
        await client.close()
        await station.close()

    if not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("no IPv6 on this machine")
    asyncio.run(scenario())


@pytest.mark.parametrize("listen", ["*", "0.0.0.0"])
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_datagrams_are_answered_from_the_address_that_they_were_sent_to(listen: str, host: str) -> None:
    async def scenario() -> None:
        station = await open_station(f"udp://{listen}:0")
        client = await open_client(f"udp://{host}:{station.url.rpartition(':')[2]}")
        async with asyncio.timeout(LIMIT):
            await client.send(SEALED)
            path, _ = await station.receive()
            await station.send(path, b"answer")
            assert await client.receive() == b"answer"
        await client.close()
        await station.close()

    asyncio.run(scenario())


def test_a_group_is_asked_for_again_and_a_socket_of_another_interface_given_up() -> None:
    async def scenario() -> None:
        asked: list[bool] = []
        address = parse_address("udp://239.255.7.7:0?interface=127.0.0.1")
        options = UdpOptions.of_station(address, 1200)
        sock = station_socket(address, socket.AF_INET, "239.255.7.7", options)
        request = socket.inet_aton("239.255.7.7") + socket.inet_aton("127.0.0.1") + bytes(4)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, request)  # as if the interface had gone
        assert still_in_group(address, sock, "239.255.7.7", options.interface)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, request)  # fails if it were not a member again

        def look() -> bool:
            asked.append(True)
            return False

        station = UdpStation(sock, look)
        async with asyncio.timeout(LIMIT):
            with pytest.raises(PinholeError, match="interface"):
                await station.receive()
        assert asked == [True]
        await station.close()

    asyncio.run(scenario())


def test_a_broker_that_never_answers_leaves_no_traceback_and_holds_no_closing() -> None:
    async def scenario() -> list[str]:
        troubles: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: troubles.append(context["message"]))
        with socket.create_server(("127.0.0.1", 0)) as mute:
            port = mute.getsockname()[1]
            client = await open_client(f"mqtt://127.0.0.1:{port}?timeout=1")
            await asyncio.sleep(0.5)
            await client.close()
            opening = asyncio.create_task(open_client(f"mqtt://127.0.0.1:{port}?timeout=60"))
            await asyncio.sleep(0.5)
            began = time.monotonic()
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            assert time.monotonic() - began < 10.0
        gc.collect()
        await asyncio.sleep(0)
        return troubles

    assert asyncio.run(scenario()) == []


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("somewhere", "known kind"),
        ("tcp://host", "not an address"),
        ("tcp://me@host:1", "not an address"),
        ("udp://me@host:1", "not an address"),
        ("serial://me@/dev/null?baud=9600", "not an address"),
        ("tcp://127.0.0.1:1?colour=red", "colour"),
        ("tcp://127.0.0.1:1?curve=0.5", "whole number"),
        ("udp://127.0.0.1:1?mtu=1200.5", "whole number"),
        ("udp://127.0.0.1:1?mtu=100", "do not fit"),
        ("mqtt://me:secret@host", "--password-file"),
        ("mqtts://me:secret@host:port", "not an address"),
        ("mqtt://me:a/secret@host", "not an address"),
        ("me:secret@host", "known kind"),
        ("mqtt:/me:secret@host", "known kind"),
        ("udp://*:1", "name it"),
        ("mqtt://host/a+b", "prefix"),
        ("serial:///dev/null", "speed of the line"),
    ],
)
def test_a_wrong_address_is_wrong_usage_and_no_password_is_repeated(url: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as refused:
        asyncio.run(open_client(url))
    assert "secret" not in str(refused.value)


def test_the_interface_of_a_link_local_number_may_be_written_by_the_standard() -> None:
    assert parse_address("tcp://[fe80::1%25eth0]:1").host == parse_address("tcp://[fe80::1%eth0]:1").host
