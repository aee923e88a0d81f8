"""Credit, bounds, reconnection and CURVE of the ZeroMQ transport, over real sockets."""

import asyncio
import random
import socket
from collections.abc import Callable, Coroutine

import pytest
import zmq
import zmq.asyncio

from shared.errors import PinholeError
from shared.link.keys import Role, SecretKey
from shared.transports.address import parse_address
from shared.transports.options import ClientOptions, StationOptions
from shared.transports.zeromq import ZeroMQClient, ZeroMQStation, open_zeromq_client, open_zeromq_station
from shared.transports.zeromq.credit import ANSWER_WINDOW, Allowance, Grant, Hello, Tally, parse_message, window_for
from shared.transports.zeromq.peers import Limits, Peers
from shared.transports.zeromq.sockets import BackOff, heartbeat_seconds

LIMIT = 60.0
PACKET = bytes([0x80]) + bytes(999)
SLOW = ClientOptions(rate=8000.0, packet_bytes=1000)
STATION_KEYS = SecretKey.generate(Role.STATION)


def run(scenario: Coroutine[None, None, None]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(LIMIT):
            await scenario

    asyncio.run(in_time())


def numbered(number: int, size: int = 1000) -> bytes:
    return bytes([0x80]) + number.to_bytes(4, "big") + bytes(size - 5)


def client_at(url: str, options: ClientOptions = SLOW, *, ask_again: float = 10.0) -> ZeroMQClient:
    return ZeroMQClient(parse_address(url), options, back_off=BackOff(0.02, 0.2), ask_again=ask_again)


async def station_at(
    url: str = "tcp://127.0.0.1:0", *, admits: Callable[[bytes], bool] | None = None, limits: Limits | None = None
) -> ZeroMQStation:
    options = StationOptions() if admits is None else StationOptions(secret=STATION_KEYS, admits=admits)
    return await open_zeromq_station(parse_address(url), options, limits=limits)


def sealed(secret: SecretKey, station: SecretKey = STATION_KEYS) -> ClientOptions:
    return ClientOptions(rate=8000.0, packet_bytes=1000, secret=secret, station=station.public)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.005)


# --- Messages and counters


@pytest.mark.parametrize("message", [Grant(0), Grant(2**32 - 1), Hello(2400, 0), Hello(262144, 2**32 - 1)])
def test_messages_of_the_transport_are_read_as_written_and_are_no_packets(message: Grant | Hello) -> None:
    data = message.encode()
    assert parse_message(data) == message
    assert data[0] & 0xC0 == 0
    assert parse_message(data + b"\0") is None
    assert parse_message(data[:-1]) is None
    assert parse_message(bytes([data[0] | 0x80]) + data[1:]) is None


def test_the_bytes_of_the_messages_are_those_of_the_protocol_document() -> None:
    assert Grant(0x01020304).encode().hex() == "0101020304"
    assert Hello(2400, 7).encode().hex() == "020000096000000007"
    assert parse_message(b"") is None


@pytest.mark.parametrize(
    ("rate", "packet", "window"),
    [(2400.0, 300, 1200), (2400.0, 1200, 2400), (None, 1200, 262144), (1e9, 1200, 262144), (100.0, 48, 96)],
)
def test_the_window_is_four_seconds_of_the_link_within_bounds(rate: float | None, packet: int, window: int) -> None:
    assert window_for(rate, packet) == window


def test_counters_agree_across_the_wrap_of_their_numbers() -> None:
    allowance = Allowance(1000)
    allowance.granted(2**32 - 300)  # wild, and too old or too new to mean anything
    sent = allowance.sent
    tally = Tally(1000, sent)
    passed = 0
    chance = random.Random(1)
    for _ in range(100):
        size = chance.randrange(1, 500)
        while not allowance.fits(size):
            pytest.fail("a packet of half a window must always fit when everything was taken")
        allowance.spend(size)
        tally.take(size)
        passed += size
        if tally.due:
            allowance.granted(tally.grant.total)
            tally.told()
        assert allowance.under_way <= 1000
    assert allowance.sent == (sent + passed) % 2**32

    near_the_end = Allowance(1000)
    near_the_end.spend(2**32 - 100)
    near_the_end.restart()
    tally = Tally(1000, near_the_end.sent)
    near_the_end.spend(600)
    assert near_the_end.under_way == 600
    assert not near_the_end.fits(401)
    tally.take(600)
    assert tally.grant == Grant(500)
    near_the_end.granted(500)
    assert near_the_end.under_way == 0


def test_old_grants_change_nothing_and_those_of_a_better_memory_are_taken_over() -> None:
    allowance = Allowance(1000)
    allowance.spend(900)
    allowance.granted(600)
    allowance.granted(200)
    assert allowance.under_way == 300
    allowance.granted(5000)
    assert (allowance.sent, allowance.under_way) == (5000, 0)


@pytest.mark.parametrize("rate", [50.0, 300.0, 2400.0, 9600.0, 1e6])
def test_heartbeats_take_less_than_a_hundredth_of_the_link(rate: float) -> None:
    ping_and_acknowledgement = 113
    allowed = 0.012 if rate < 60 else 0.01  # the interval has an end where the links do
    assert ping_and_acknowledgement * 8 / heartbeat_seconds(rate) <= allowed * rate * 1.001


def test_pauses_double_to_their_end_with_jitter_and_start_again() -> None:
    back_off = BackOff(0.5, 30.0, random.Random(3))
    pauses = [back_off.pause() for _ in range(12)]
    for number, pause in enumerate(pauses):
        full = min(0.5 * 2**number, 30.0)
        assert 0.5 * full <= pause <= full
    assert len({pause / 30.0 for pause in pauses[7:]}) == 5
    back_off.reset()
    assert back_off.pause() <= 0.5


# --- What a station remembers


def test_ten_thousand_strangers_leave_nothing_behind() -> None:
    peers = Peers(Limits(of_one=5000, of_all=200_000, peers=100))
    for number in range(10_000):
        path = number.to_bytes(5, "big")
        peers.greet(path, Hello(2**32 - 1, number))
        peers.put(path, PACKET)
        assert len(peers) <= 100
    assert peers.dropped == 9_900
    taken = 0
    while peers.take() is not None:
        taken += 1
    assert taken == 100
    assert not peers.full


def test_a_sender_that_ignores_its_credit_loses_packets_and_others_have_their_turn() -> None:
    peers = Peers(Limits(of_one=10_640, of_all=1 << 20, peers=10))
    for number in range(50):
        peers.put(b"loud", numbered(number))
    peers.put(b"quiet", numbered(1000))
    assert peers.dropped == 40
    order = []
    while (taken := peers.take()) is not None:
        order.append(taken[0])
    assert order[:3] == [b"loud", b"quiet", b"loud"]
    assert order.count(b"loud") == 10


def test_packets_before_the_hello_are_among_those_that_it_counts() -> None:
    peers = Peers()
    peers.put(b"a", PACKET)
    peer = peers.greet(b"a", Hello(4000, 5000))
    assert peers.take() is not None
    assert peer.tally.grant == Grant(5000)
    again = peers.greet(b"a", Hello(8000, 9000))
    assert again.tally.grant == Grant(5000)
    assert again.tally.window == 8000


# --- Credit over sockets


def test_a_station_that_does_not_read_holds_its_sender_at_the_window() -> None:
    async def scenario() -> None:
        station = await station_at()
        client = client_at(station.url)
        sent = 0

        async def send_all() -> None:
            nonlocal sent
            for number in range(50):
                await client.send(numbered(number))
                sent += 1
                assert client.under_way <= 4000

        sending = asyncio.create_task(send_all())
        await until(lambda: sent == 4)
        for _ in range(20):
            await asyncio.sleep(0.005)
            assert (sent, client.under_way) == (4, 4000)
        async with asyncio.timeout(LIMIT):
            for number in range(50):
                assert (await station.receive())[1] == numbered(number)
            await sending
        assert station.dropped == 0
        await client.close()
        await station.close()

    run(scenario())


def test_a_packet_of_any_size_passes_a_small_window() -> None:
    async def scenario() -> None:
        station = await station_at()
        client = client_at(station.url, ClientOptions(rate=300.0, packet_bytes=48))
        sizes = [48] * 5 + [65507, 48, 30000, 65507, 1, 65507, 65507]

        async def send_all() -> None:
            for number, size in enumerate(sizes):
                await client.send(numbered(number, size) if size >= 5 else b"\x80")

        sending = asyncio.create_task(send_all())
        async with asyncio.timeout(LIMIT):
            for size in sizes:
                assert len((await station.receive())[1]) == size
            await sending
        await client.close()
        await station.close()

    run(scenario())


def test_a_station_that_is_full_stops_reading_and_loses_nothing() -> None:
    async def scenario() -> None:
        station = await station_at(limits=Limits(of_all=10_000))
        options = ClientOptions(packet_bytes=1000)
        clients = [client_at(station.url, options) for _ in range(3)]

        async def send_all(client: ZeroMQClient) -> None:
            for number in range(100):
                await client.send(numbered(number))

        sending = [asyncio.create_task(send_all(client)) for client in clients]
        await until(lambda: all(task.done() for task in sending) and station.held >= 10_000)
        await asyncio.sleep(0.05)
        assert station.held < 10_000 + 1064
        numbers: dict[object, list[int]] = {}
        async with asyncio.timeout(LIMIT):
            for _ in range(300):
                path, packet = await station.receive()
                numbers.setdefault(path, []).append(int.from_bytes(packet[1:5], "big"))
        assert [*numbers.values()] == [[*range(100)]] * 3
        assert station.dropped == 0
        for client in clients:
            await client.close()
        await station.close()

    run(scenario())


def test_a_flood_beyond_its_credit_is_dropped_and_an_honest_sender_passes() -> None:
    async def scenario() -> None:
        station = await station_at(limits=Limits(of_one=50_000))
        context = zmq.asyncio.Context()
        flooder = context.socket(zmq.DEALER)
        flooder.connect(station.url)
        for number in range(500):
            await flooder.send(numbered(number))
        await until(lambda: station.dropped == 500 - 50_000 // 1064)
        flooded = station.held
        client = client_at(station.url)
        honest = b"\xbfhonest"
        await client.send(honest)
        await until(lambda: station.held > flooded)
        async with asyncio.timeout(LIMIT):
            first = [(await station.receive())[1] for _ in range(10)]
        assert honest in first
        flooder.close(linger=0)
        context.term()
        await client.close()
        await station.close()

    run(scenario())


def test_answers_that_nobody_fetches_are_bounded_and_go_on_when_somebody_does() -> None:
    async def scenario() -> None:
        station = await station_at()
        client = client_at(station.url)
        await client.send(PACKET)
        async with asyncio.timeout(LIMIT):
            path, _ = await station.receive()
        for number in range(200):
            await station.send(path, numbered(number))
        allowed = ANSWER_WINDOW // 1000
        assert station.answers_dropped == 200 - allowed
        async with asyncio.timeout(LIMIT):
            for number in range(allowed):
                assert await client.receive() == numbered(number)
            answering = asyncio.create_task(client.receive())
            while not answering.done():
                await station.send(path, numbered(999))
                await asyncio.sleep(0.01)
        assert answering.result() == numbered(999)
        assert client.dropped == 0
        await station.send(b"nobody", PACKET)
        await station.send("no path", PACKET)
        await client.close()
        await station.close()

    run(scenario())


def test_a_sender_that_the_station_forgot_asks_and_goes_on() -> None:
    async def scenario() -> None:
        station = await station_at(limits=Limits(peers=1))
        first = client_at(station.url, ask_again=0.05)
        second = client_at(station.url, ask_again=0.05)

        async def send_all(client: ZeroMQClient) -> None:
            for number in range(20):
                await client.send(numbered(number))

        async def take() -> None:
            while True:
                await station.receive()

        taking = asyncio.create_task(take())
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(send_all(first), send_all(second))
        assert station.peers == 1
        taking.cancel()
        await first.close()
        await second.close()
        await station.close()

    run(scenario())


# --- Connections


def test_a_station_that_restarts_unread_does_not_hold_its_sender_for_ever() -> None:
    async def scenario() -> None:
        station = await station_at()
        url = station.url
        client = client_at(url)
        sent = 0

        async def send_all() -> None:
            nonlocal sent
            for number in range(30):
                await client.send(numbered(number))
                sent += 1

        sending = asyncio.create_task(send_all())
        await until(lambda: sent == 4)
        await station.close()
        await until(lambda: client.trouble is not None)
        assert url in str(client.trouble)
        assert "\n" not in str(client.trouble)
        station = await station_at(url)
        async with asyncio.timeout(LIMIT):
            numbers = [int.from_bytes((await station.receive())[1][1:5], "big") for _ in range(26)]
            await sending
        assert numbers == [*range(4, 30)], "what was lost with the connection is the link's to repair, nothing else is"
        assert client.trouble is None
        assert client.connections == 2
        await client.close()
        await station.close()

    run(scenario())


def test_a_client_that_closes_while_it_waits_ends() -> None:
    async def scenario() -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            client = client_at(f"tcp://127.0.0.1:{probe.getsockname()[1]}")
            sending = asyncio.create_task(client.send(PACKET))
            await until(lambda: client.trouble is not None)
            await client.close()
            await client.close()
            async with asyncio.timeout(LIMIT):
                with pytest.raises(PinholeError, match="closed"):
                    await sending

    run(scenario())


# --- CURVE


def test_a_listed_key_passes_both_ways() -> None:
    async def scenario() -> None:
        keys = SecretKey.generate(Role.SENDER)
        station = await station_at(admits=lambda key: key == keys.public.curve)
        client = client_at(station.url, sealed(keys))
        await client.send(PACKET)
        async with asyncio.timeout(LIMIT):
            path, packet = await station.receive()
            assert packet == PACKET
            await station.send(path, b"\x88answer")
            assert await client.receive() == b"\x88answer"
        assert station.refused == 0
        await client.close()
        await station.close()

    run(scenario())


def test_an_unlisted_key_gets_nothing_through_until_it_is_listed() -> None:
    async def scenario() -> None:
        keys = SecretKey.generate(Role.SENDER)
        listed: set[bytes] = set()
        station = await station_at(admits=listed.__contains__)
        client = client_at(station.url, sealed(keys))
        sending = asyncio.create_task(client.send(PACKET))
        await until(lambda: station.refused >= 2)
        assert station.refused_keys == (keys.public.curve,)
        await until(lambda: client.trouble is not None)
        assert "does not list" in str(client.trouble)
        assert station.peers == 0
        assert not sending.done()
        listed.add(keys.public.curve)
        async with asyncio.timeout(LIMIT):
            assert (await station.receive())[1] == PACKET
            await sending
        assert client.trouble is None
        await client.close()
        await station.close()

    run(scenario())


def test_a_revoked_key_is_refused_at_its_next_connection() -> None:
    async def scenario() -> None:
        keys = SecretKey.generate(Role.SENDER)
        listed = {keys.public.curve}
        station = await station_at(admits=listed.__contains__)
        url = station.url
        client = client_at(url, sealed(keys))
        await client.send(PACKET)
        async with asyncio.timeout(LIMIT):
            await station.receive()
        listed.clear()
        await station.close()
        station = await station_at(url, admits=listed.__contains__)
        sending = asyncio.create_task(client.send(PACKET))
        await until(lambda: station.refused >= 2)
        # At most one packet left before the end of the old connection was noticed; it is lost with that.
        if sending.done():
            sending = asyncio.create_task(client.send(PACKET))
            await asyncio.sleep(0.05)
        assert not sending.done()
        assert station.peers == 0
        await client.close()
        with pytest.raises(PinholeError, match="closed"):
            await sending
        await station.close()

    run(scenario())


def test_a_list_that_cannot_be_read_admits_nobody_and_ends_nothing() -> None:
    async def scenario() -> None:
        keys = SecretKey.generate(Role.SENDER)
        broken = True

        def admits(key: bytes) -> bool:
            if broken:
                raise OSError("the list is on a disk that is away")
            return key == keys.public.curve

        station = await station_at(admits=admits)
        client = client_at(station.url, sealed(keys))
        await until(lambda: station.refused >= 1)
        broken = False
        async with asyncio.timeout(LIMIT):
            await client.send(PACKET)
            await station.receive()
        await client.close()
        await station.close()

    run(scenario())


def test_plain_and_mistaken_clients_at_a_sealed_station_do_no_harm() -> None:
    async def scenario() -> None:
        keys = SecretKey.generate(Role.SENDER)
        station = await station_at(admits=lambda key: key == keys.public.curve)
        plain = client_at(station.url)
        mistaken = client_at(station.url, sealed(keys, SecretKey.generate(Role.STATION)))
        waiting = [asyncio.create_task(client.send(PACKET)) for client in (plain, mistaken)]
        await until(lambda: station.handshakes_failed >= 6)
        await until(lambda: plain.trouble is not None and mistaken.trouble is not None)
        assert all("check" in str(client.trouble) for client in (plain, mistaken))
        honest = client_at(station.url, sealed(keys))
        await honest.send(b"\x80honest")
        async with asyncio.timeout(LIMIT):
            assert (await station.receive())[1] == b"\x80honest"
        assert station.peers == 1
        assert not any(task.done() for task in waiting)
        for client in (plain, mistaken, honest):
            await client.close()
        for task in waiting:
            with pytest.raises(PinholeError, match="closed"):
                await task
        await station.close()

    run(scenario())


def test_a_sealed_client_tells_a_plain_station_nothing() -> None:
    async def scenario() -> None:
        station = await station_at()
        client = client_at(station.url, sealed(SecretKey.generate(Role.SENDER)))
        waiting = asyncio.create_task(client.send(PACKET))
        await until(lambda: station.handshakes_failed >= 2 and client.trouble is not None)
        assert "both ends seal" in str(client.trouble) or "sealed" in str(client.trouble)
        plain = client_at(station.url)
        await plain.send(b"\x80plain")
        async with asyncio.timeout(LIMIT):
            assert (await station.receive())[1] == b"\x80plain"
        assert not waiting.done()
        await client.close()
        with pytest.raises(PinholeError, match="closed"):
            await waiting
        await plain.close()
        await station.close()

    run(scenario())


def test_half_of_the_keys_or_an_unknown_option_is_one_clear_error() -> None:
    async def scenario() -> None:
        address = parse_address("tcp://127.0.0.1:5555")
        keys = SecretKey.generate(Role.SENDER)
        with pytest.raises(PinholeError, match="station's public key"):
            await open_zeromq_client(address, ClientOptions(secret=keys))
        with pytest.raises(PinholeError, match="own key"):
            await open_zeromq_client(address, ClientOptions(station=STATION_KEYS.public))
        with pytest.raises(PinholeError, match="list"):
            await open_zeromq_station(address, StationOptions(secret=STATION_KEYS))
        with pytest.raises(PinholeError, match="unknown setting 'mtu'"):
            await open_zeromq_client(parse_address("tcp://127.0.0.1:5555?mtu=4"), ClientOptions())

    run(scenario())
