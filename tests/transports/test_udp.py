"""Pacing, sizes, families, groups, bounds and failures of the UDP transport, over real sockets."""

import asyncio
import errno
import itertools
import socket
from collections.abc import Callable, Coroutine

import pytest

from shared.errors import PinholeError
from shared.transports import ClientOptions, StationOptions, open_client, open_station
from shared.transports.address import Address, parse_address
from shared.transports.byte_queue import COST_OF_A_PACKET, ByteQueue
from shared.transports.options import tell_nobody
from shared.transports.pacing import Pacer
from shared.transports.trouble import Trouble
from shared.transports.udp import client as udp
from shared.transports.udp import station as udp_station
from shared.transports.udp.client import UdpClient
from shared.transports.udp.settings import UdpOptions
from shared.transports.udp.station import UdpStation

LIMIT = 60.0
PACKET = bytes([0x80]) + bytes(299)


def run(scenario: Coroutine[None, None, None]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(LIMIT):
            await scenario

    asyncio.run(in_time())


class VirtualTime:
    """A clock that moves only while somebody sleeps by it."""

    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


async def a_client(url: str, options: ClientOptions | None = None) -> UdpClient:
    client = await open_client(url, options)
    assert isinstance(client, UdpClient)
    return client


async def a_station(url: str = "udp://127.0.0.1:0", options: StationOptions | None = None) -> UdpStation:
    station = await open_station(url, options)
    assert isinstance(station, UdpStation)
    return station


async def paced_client(url: str, pacer: Pacer, packet_bytes: int = 300) -> UdpClient:
    address = parse_address(url)
    client = UdpClient(address, UdpOptions.of_client(address, packet_bytes), pacer, Trouble(tell_nobody))
    await client.open()
    return client


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


# --- Pacing


def most_within(sent: list[tuple[float, int]], seconds: float) -> int:
    """Bytes in the fullest interval of so many seconds, both ends counted."""
    return max(sum(size for at, size in sent if start <= at <= start + seconds) for start, _ in sent)


@pytest.mark.parametrize("overhead", [0, 28])
def test_datagrams_leave_evenly_at_the_rate(overhead: int) -> None:
    async def scenario() -> None:
        time = VirtualTime()
        rate, size = 2400.0, 300
        burst = 2 * (size + overhead)
        pacer = Pacer(rate, burst, clock=time.clock, sleep=time.sleep)
        station = await a_station()
        client = await paced_client(f"{station.url}?overhead={overhead}", pacer)
        sent = []
        for _ in range(60):
            await client.send(PACKET)
            sent.append((time.now, size + overhead))
        async with asyncio.timeout(LIMIT):
            for _ in range(60):
                assert (await station.receive())[1] == PACKET
        for seconds in (0.0, 0.5, 1.0, 4.0, 20.0):
            assert most_within(sent, seconds) <= burst + rate * seconds / 8 + 1e-3
        # And no slower: everything beyond the burst took exactly its time.
        assert time.now - 100.0 == pytest.approx((60 * (size + overhead) - burst) * 8 / rate)
        gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(sent[2:])]
        assert gaps == pytest.approx([(size + overhead) * 8 / rate] * len(gaps))
        await client.close()
        await station.close()

    run(scenario())


def test_a_packet_larger_than_the_burst_waits_until_it_is_paid() -> None:
    async def scenario() -> None:
        time = VirtualTime()
        pacer = Pacer(8000.0, 500, clock=time.clock, sleep=time.sleep)
        await pacer.wait(2500)
        assert time.now - 100.0 == pytest.approx(2.0)

    run(scenario())


def test_those_who_wait_are_served_in_the_order_they_came() -> None:
    async def scenario() -> None:
        time = VirtualTime()
        pacer = Pacer(8000.0, 500, clock=time.clock, sleep=time.sleep)
        served: list[int] = []

        async def one(number: int) -> None:
            await pacer.wait(400)
            served.append(number)

        await asyncio.gather(*[one(number) for number in range(10)])
        assert served == [*range(10)]
        assert time.now - 100.0 == pytest.approx((4000 - 500) / 1000.0)

    run(scenario())


# --- Options and sizes


@pytest.mark.parametrize(
    ("url", "packet_bytes", "complaint"),
    [
        ("udp://127.0.0.1:9?mtu=1000", 1200, "do not fit"),
        ("udp://127.0.0.1:9?mtu=47", 40, "mtu"),
        ("udp://127.0.0.1:9?mtu=many", 40, "mtu"),
        ("udp://127.0.0.1:9?overhead=-1", 1200, "overhead"),
        ("udp://127.0.0.1:9?mtv=1400", 1200, "did you mean 'mtu'"),
        ("udp://127.0.0.1:9?ttl=2", 1200, "multicast"),
        ("udp://127.0.0.1:9?interface=lo", 1200, "multicast"),
        ("udp://239.7.7.7:9?interface=no-such-0", 1200, "no interface"),
        ("udp://239.7.7.7:9?ttl=256", 1200, "ttl"),
        ("udp://255.255.255.255:9", 1200, "broadcast=1"),
    ],
)
def test_wrong_options_are_one_clear_error(url: str, packet_bytes: int, complaint: str) -> None:
    with pytest.raises(PinholeError, match=complaint) as caught:
        asyncio.run(open_client(url, ClientOptions(packet_bytes=packet_bytes)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("udp://127.0.0.1:0?mtu=1000", "do not fit"),
        ("udp://127.0.0.1:0?ttl=2", "unknown setting"),
        ("udp://127.0.0.1:0?interface=lo", "multicast"),
        ("udp://239.7.7.7:0?interface=no-such-0", "no interface"),
        ("udp://203.0.113.77:0", "cannot listen"),
    ],
)
def test_wrong_options_of_a_station_are_one_clear_error(url: str, complaint: str) -> None:
    with pytest.raises(PinholeError, match=complaint) as caught:
        asyncio.run(open_station(url))
    assert "\n" not in str(caught.value)


def test_a_packet_above_the_mtu_is_lost_and_told_and_others_pass() -> None:
    async def scenario() -> None:
        station = await a_station()
        client = await a_client(f"{station.url}?mtu=400", ClientOptions(packet_bytes=400))
        await client.send(bytes(401))
        assert (client.errors, client.counters.oversize) == (1, 1)
        assert "401 bytes do not fit" in str(client.trouble)
        await client.send(PACKET)
        assert client.trouble is None
        async with asyncio.timeout(LIMIT):
            assert (await station.receive())[1] == PACKET
        await client.close()
        await station.close()

    run(scenario())


@needs_ipv6
def test_what_does_not_fit_the_way_is_refused_not_fragmented() -> None:
    # 65,507 bytes fit the loopback interface of Linux with the headers of IPv4, not with those of IPv6.
    async def scenario() -> None:
        with pytest.raises(PinholeError, match="carry 65488"):
            await open_client("udp://[::1]:9", ClientOptions(packet_bytes=65507))
        station = await a_station("udp://[::1]:0")
        client = await a_client(station.url)
        await client.send(bytes(65507))
        assert client.counters.oversize == 1
        assert "do not fit" in str(client.trouble)
        await client.send(bytes(65488))
        async with asyncio.timeout(LIMIT):
            assert len((await station.receive())[1]) == 65488
        await client.close()
        await station.close()

    run(scenario())


# --- Addresses


@needs_ipv6
@pytest.mark.parametrize("url", ["udp://*:0", "udp://[::]:0"])
def test_a_station_on_every_interface_hears_both_families_and_answers(url: str) -> None:
    async def scenario() -> None:
        station = await a_station(url)
        port = station.url.rpartition(":")[2]
        for host in ("127.0.0.1", "[::1]"):
            client = await a_client(f"udp://{host}:{port}")
            await client.send(host.encode())
            async with asyncio.timeout(LIMIT):
                path, packet = await station.receive()
                assert packet == host.encode()
                await station.send(path, b"\x88answer")
                assert await client.receive() == b"\x88answer"
            await client.close()
        await station.close()

    run(scenario())


def test_a_client_hears_only_its_station() -> None:
    async def scenario() -> None:
        station = await a_station()
        client = await a_client(station.url)
        await client.send(PACKET)
        async with asyncio.timeout(LIMIT):
            path, _ = await station.receive()
        stranger = await a_station()
        await stranger.send(path, b"\x88forged")
        await station.send(path, b"\x88true")
        async with asyncio.timeout(LIMIT):
            assert await client.receive() == b"\x88true"
        for end in (client, station, stranger):
            await end.close()

    run(scenario())


def test_everybody_on_the_net_hears_a_broadcast_when_that_was_asked_for() -> None:
    async def scenario() -> None:
        station = await a_station("udp://0.0.0.0:0")
        port = station.url.rpartition(":")[2]
        client = await a_client(f"udp://127.255.255.255:{port}?broadcast=1")
        await client.send(PACKET)
        async with asyncio.timeout(LIMIT):
            path, packet = await station.receive()
            assert packet == PACKET
            await station.send(path, b"\x88answer")
            assert await client.receive() == b"\x88answer"
        await client.close()
        await station.close()

    run(scenario())


async def _two_stations_hear(group: str, interface: str) -> None:
    first = await a_station(f"udp://{group}:0?interface={interface}")
    second = await a_station(f"{first.url}?interface={interface}")
    client = await a_client(f"{first.url}?interface={interface}&ttl=1")
    await client.send(PACKET)
    if client.trouble is not None:
        pytest.skip(f"this machine has no multicast route for {group} on {interface}: {client.trouble}")
    async with asyncio.timeout(LIMIT):
        for number, station in enumerate((first, second)):
            path, packet = await station.receive()
            assert packet == PACKET
            await station.send(path, bytes([0x88, number]))
        assert {await client.receive(), await client.receive()} == {b"\x88\x00", b"\x88\x01"}
    for end in (client, first, second):
        await end.close()


@pytest.mark.parametrize("interface", ["lo", "127.0.0.1"])
def test_two_stations_hear_one_sender_of_a_group(interface: str) -> None:
    run(_two_stations_hear("239.195.17.4", interface))


@needs_ipv6
def test_two_stations_hear_one_sender_of_an_ipv6_group() -> None:
    async def scenario() -> None:
        for _, name in socket.if_nameindex():
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex(name))
                try:
                    probe.sendto(b"", ("ff02::7069", 9))
                except OSError:
                    continue
            await _two_stations_hear("[ff02::7069]", name)
            return
        pytest.skip("no interface of this machine has a route for IPv6 multicast")

    run(scenario())


@needs_ipv6
def test_a_group_of_one_link_needs_the_name_of_the_link() -> None:
    with pytest.raises(PinholeError, match="interface=NAME"):
        asyncio.run(open_station("udp://[ff02::7069]:0"))


# --- Bounds


def test_a_queue_is_bounded_in_bytes_and_keeps_the_oldest() -> None:
    async def scenario() -> None:
        queue: ByteQueue[int] = ByteQueue(10 * (100 + COST_OF_A_PACKET))
        for number in range(30):
            queue.put(number, bytes(100))
        assert queue.held == 10 * (100 + COST_OF_A_PACKET)
        assert queue.dropped == 20
        assert [await queue.get() for _ in range(10)] == [(number, bytes(100)) for number in range(10)]
        assert queue.held == 0
        for _ in range(1000):
            queue.put(0, b"")
        assert queue.dropped == 20 + 1000 - 10 * (100 + COST_OF_A_PACKET) // COST_OF_A_PACKET

    run(scenario())


def test_a_wait_that_is_cancelled_loses_no_packet() -> None:
    async def scenario() -> None:
        queue: ByteQueue[int] = ByteQueue(1000)
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.put(1, b"x")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(LIMIT):
            assert await queue.get() == (1, b"x")

    run(scenario())


def test_a_flood_leaves_a_station_with_bounded_bytes_and_a_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_station, "_QUEUED", 100_000)

    async def scenario() -> None:
        station = await a_station()
        client = await a_client(station.url)
        large = bytes(9000)
        async with asyncio.timeout(LIMIT):
            while station.dropped < 20:
                await client.send(large)
            for _ in range(100_000 // (9000 + COST_OF_A_PACKET)):
                assert (await station.receive())[1] == large
        await client.close()
        await station.close()

    run(scenario())


# --- Failures


def test_a_station_that_comes_late_is_heard_of_as_losses() -> None:
    async def scenario() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        client = await a_client(f"udp://127.0.0.1:{port}")
        async with asyncio.timeout(LIMIT):
            while client.errors < 3:
                await client.send(PACKET)
        station = await a_station(f"udp://127.0.0.1:{port}")
        await client.send(PACKET)
        async with asyncio.timeout(LIMIT):
            assert (await station.receive())[1] == PACKET
        await client.close()
        await station.close()

    run(scenario())


class Failing(socket.socket):
    """A socket whose network says no, as often as it is told to."""

    failures: list[int]

    def send(self, *args: object) -> int:
        if self.failures:
            raise OSError(number := self.failures.pop(0), errno.errorcode[number])
        return super().send(*args)  # type: ignore[arg-type]


def failing(*numbers: int) -> Callable[[], socket.socket]:
    def make() -> socket.socket:
        sock = Failing(socket.AF_INET, socket.SOCK_DGRAM)
        sock.failures = [*numbers]
        return sock

    return make


def _opens(sockets: list[Callable[[], socket.socket]]) -> Callable[..., socket.socket]:
    def open_next(address: Address, *_: object) -> socket.socket:
        sock = sockets.pop(0)()
        sock.setblocking(False)
        sock.connect((address.host, address.port))
        return sock

    return open_next


def test_whatever_the_network_says_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        station = await a_station()

        def no_route() -> socket.socket:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

        sockets = [no_route, no_route, failing(errno.ENOBUFS, errno.EPERM, errno.ENETDOWN), no_route, failing()]
        monkeypatch.setattr(udp, "client_socket", _opens(sockets))
        client = await a_client(station.url)
        assert "network is unreachable" in str(client.trouble)
        for number in range(7):
            await client.send(bytes([0x80, number]))
        # Lost: without a route, no buffers, no permission, interface down, without a route again.
        assert client.errors == 5
        assert client.trouble is None
        assert not sockets, "a connected socket is made anew when its interface may have another address"
        async with asyncio.timeout(LIMIT):
            assert [(await station.receive())[1][1] for _ in range(2)] == [5, 6]
        await client.close()
        await client.close()
        with pytest.raises(PinholeError, match="closed"):
            await client.send(PACKET)
        await station.close()
        await station.send(("127.0.0.1", 9), PACKET)

    run(scenario())


def test_the_refusal_of_an_earlier_packet_does_not_cost_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        station = await a_station()
        monkeypatch.setattr(udp, "client_socket", _opens([failing(errno.ECONNREFUSED)]))
        client = await a_client(station.url)
        await client.send(PACKET)
        assert client.errors == 1
        async with asyncio.timeout(LIMIT):
            assert (await station.receive())[1] == PACKET
        await client.close()
        await station.close()

    run(scenario())
