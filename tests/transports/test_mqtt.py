"""MQTT against a real broker, and where a real one would not misbehave, against a scripted one."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import aiomqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import CorruptDataError, PinholeError
from shared.link import LayerAcknowledged, LayerReceived, SenderSession, Station
from shared.link.keys import Role
from shared.transports.base import LARGEST_PACKET
from shared.transports.mqtt import connection as mqtt_connection
from shared.transports.mqtt.ends import MqttClient, MqttStation, open_mqtt_client, open_mqtt_station, parse_mqtt
from shared.transports.mqtt.presence import Presence, PresenceTable, State, encode_presence, parse_presence
from shared.transports.mqtt.settings import read_settings
from shared.transports.mqtt.shards import ALL_SHARDS, owner
from shared.transports.mqtt.topics import SHARDS, StateTopic, Topics, UpTopic, shard_of
from shared.transports.options import ClientOptions, StationOptions, TlsOptions
from tests.transports.mosquitto import Authority, Mosquitto
from tests.transports.test_transports import brisk, deliver, some_pictures

LIMIT = 60.0
TOPICS = Topics()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.01)


def _taken_by(reports: list[str] | None) -> Callable[[str], None]:
    return (reports if reports is not None else []).append


async def a_client(url: str, sender: int = 1, reports: list[str] | None = None, **options: object) -> MqttClient:
    made = ClientOptions(sender=sender, **options)  # type: ignore[arg-type]
    return await open_mqtt_client(parse_mqtt(url), replace(made, report=_taken_by(reports)))


async def a_station(url: str, station: int = 1, reports: list[str] | None = None, **options: object) -> MqttStation:
    made = StationOptions(station=station, **options)  # type: ignore[arg-type]
    return await open_mqtt_station(parse_mqtt(url), replace(made, report=_taken_by(reports)))


@asynccontextmanager
async def driven(transport: MqttStation, received: list[LayerReceived]) -> AsyncIterator[Station]:
    """A station that stores what it gets."""
    station = Station(brisk(), now=time.monotonic())

    async def serve() -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    path, packet = await transport.receive()
                    station.receive_packet(packet, time.monotonic(), path)
            while (event := station.next_event()) is not None:
                received.append(event)
                station.acknowledge(event.sender, event.sequence, event.layer, time.monotonic())
            station.handle_timer(time.monotonic())
            for back, answer in station.packets_to_send(time.monotonic()):
                await transport.send(back, answer)

    task = asyncio.create_task(serve())
    try:
        yield station
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await transport.close()


def layers_of(pictures: dict[int, list[bytes]]) -> dict[tuple[int, int], bytes]:
    return {(sequence, layer): data for sequence, layers in pictures.items() for layer, data in enumerate(layers)}


def stored(received: list[LayerReceived], sender: int) -> dict[tuple[int, int], bytes]:
    """As the archive does: the first of each kind counts, others must be the same."""
    kept: dict[tuple[int, int], bytes] = {}
    for event in received:
        if event.sender == sender:
            assert kept.setdefault((event.sequence, event.layer), event.payload) == event.payload
    return kept


@pytest.mark.parametrize("parity", [0.0, 0.5])
@pytest.mark.parametrize("query", ["", "?qos_base=0&qos_refinements=1", "?receive_maximum=1"])
def test_hundreds_of_layers_of_two_senders_cross(tmp_path: Path, parity: float, query: str) -> None:
    async def scenario(url: str) -> None:
        received: list[LayerReceived] = []
        async with driven(await a_station(url), received):
            pictures = {number: some_pictures(number, 30) for number in (11, 12)}
            config = brisk(parity=parity, base_parity=parity)
            jobs = [
                deliver(
                    SenderSession.unsealed(config, sender=number, epoch=1, now=time.monotonic()),
                    await a_client(url + query, number),
                    pictures[number],
                )
                for number in pictures
            ]
            for number, events in zip(pictures, await asyncio.gather(*jobs), strict=True):
                assert all(isinstance(event, LayerAcknowledged) for event in events)
                assert stored(received, number) == layers_of(pictures[number])
            assert len(received) == 240

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker.url))


def test_a_broker_that_is_killed_and_started_again_costs_nothing(tmp_path: Path) -> None:
    async def scenario(broker: Mosquitto) -> None:
        received: list[LayerReceived] = []
        pictures = some_pictures(3, 30)
        reports: list[str] = []
        async with driven(await a_station(broker.url), received):
            config = brisk(rate=200_000.0, burst_bytes=1200)
            session = SenderSession.unsealed(config, sender=5, epoch=1, now=time.monotonic())
            client = await a_client(broker.url, 5, reports, rate=200_000.0)
            job = asyncio.create_task(deliver(session, client, pictures))
            for threshold in (20, 60):
                await until(lambda most=threshold: len(received) >= most)  # type: ignore[misc]
                assert not job.done()
                broker.kill()
                await asyncio.sleep(0.3)
                broker.start()
            events = await job
        assert len(events) == 120
        assert stored(received, 5) == layers_of(pictures)
        assert client.counts.connections == 3
        assert sum("again, for ever" in line for line in reports) >= 2
        assert sum("connected again" in line for line in reports) == 2

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker))


def test_a_client_waits_for_a_broker_that_is_not_there_yet(tmp_path: Path) -> None:
    async def scenario(broker: Mosquitto) -> None:
        client = await a_client(broker.url)
        sending = asyncio.create_task(client.send(b"packet"))
        await asyncio.sleep(0.1)
        assert not sending.done()
        broker.start()
        station = await a_station(broker.url)
        async with asyncio.timeout(LIMIT):
            await sending
            assert await station.receive() == (1, b"packet")
        await client.close()
        await station.close()

    broker = Mosquitto(tmp_path)
    try:
        asyncio.run(scenario(broker))
    finally:
        broker.kill()


def test_packets_wait_at_the_broker_for_a_station_that_is_away_for_a_moment(tmp_path: Path) -> None:
    async def scenario(url: str) -> None:
        await (await a_station(url)).close()
        client = await a_client(url)
        for number in range(10):
            await client.send(b"base%d" % number, 0)
            await client.send(b"refinement", 1)
        # Closing waits for what the broker has not acknowledged.
        await client.close()
        station = await a_station(url)
        async with asyncio.timeout(LIMIT):
            assert [await station.receive() for _ in range(10)] == [(1, b"base%d" % i) for i in range(10)]
        await station.close()

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker.url))


# Who may in.

ACCESS = """
pattern write pinhole/v2/up/+/%u/+
pattern read pinhole/v2/down/%u
pattern write pinhole/v2/state/sender/%u/+

user ground
topic read pinhole/v2/up/#
topic write pinhole/v2/down/+
topic read pinhole/v2/state/#
topic write pinhole/v2/state/station/00000001/+
"""


class Guarded:
    """A broker with TLS, client certificates, users and an access list, and what others need to come in."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder, "authority")
        signed = self.authority.sign("client")
        self.tls = TlsOptions(self.authority.file, signed.certificate, signed.key)
        self.users = {"ground": "g", "0000000a": "a", "0000000b": "b"}
        self.passwords = {}
        for user, word in [*self.users.items(), ("wrong", "w")]:
            self.passwords[user] = folder / f"{user}.password"
            self.passwords[user].write_text(f"{word}\n")
            self.passwords[user].chmod(0o600)
        self.broker = Mosquitto(folder, authority=self.authority, users=self.users, acl=ACCESS)

    def url(self, user: str) -> str:
        return self.broker.url.replace("://", f"://{user}@")


def test_tls_with_client_certificate_user_and_access_list(tmp_path: Path) -> None:
    async def scenario(guarded: Guarded) -> None:
        received: list[LayerReceived] = []
        station = await a_station(guarded.url("ground"), tls=guarded.tls, password_file=guarded.passwords["ground"])
        async with driven(station, received):
            user = "0000000a"
            client = await a_client(guarded.url(user), 10, tls=guarded.tls, password_file=guarded.passwords[user])
            pictures = some_pictures(7, 10)
            session = SenderSession.unsealed(brisk(), sender=10, epoch=1, now=time.monotonic())
            assert len(await deliver(session, client, pictures)) == 40
            assert stored(received, 10) == layers_of(pictures)
            assert station.presence()[10].counter == 1

    guarded = Guarded(tmp_path)
    with guarded.broker:
        asyncio.run(scenario(guarded))


@pytest.mark.parametrize(
    ("case", "complaint"),
    [
        ("wrong CA", "certificate is not to be trusted"),
        ("no client certificate", "wants a client certificate"),
        ("certificate of a foreign CA", "refuses this client's certificate"),
        ("no TLS", "mqtts://"),
        ("wrong password", "check user name"),
        ("no password", "check user name"),
        ("another's id", "messages to pinhole/v2/state/sender/0000000b/birth"),
    ],
)
def test_what_keeps_a_sender_out_is_one_clear_line(tmp_path: Path, case: str, complaint: str) -> None:
    guarded = Guarded(tmp_path)
    tls, url, sender, password = guarded.tls, guarded.url("0000000a"), 10, guarded.passwords["0000000a"]
    foreign = Authority(tmp_path, "foreign")
    match case:
        case "wrong CA":
            tls = TlsOptions(foreign.file, tls.certificate_file, tls.key_file)
        case "no client certificate":
            tls = TlsOptions(tls.ca_file)
        case "certificate of a foreign CA":
            signed = foreign.sign("stranger")
            tls = TlsOptions(tls.ca_file, signed.certificate, signed.key)
        case "no TLS":
            tls, url = TlsOptions(), url.replace("mqtts", "mqtt")
        case "wrong password":
            password = guarded.passwords["wrong"]
        case "another's id":
            sender = 11

    async def scenario() -> None:
        reports: list[str] = []
        options = {} if case == "no password" else {"password_file": password}
        if case == "no TLS":
            # The broker just hangs up, as one that restarts would, so we go on trying.
            client = await a_client(url, sender, reports, tls=tls, **options)
            await client.close()
            assert len(reports) == 1
            raise PinholeError(reports[0])
        await a_client(url, sender, reports, tls=tls, **options)

    with guarded.broker, pytest.raises(PinholeError, match=complaint) as caught:
        asyncio.run(scenario())
    assert "\n" not in str(caught.value)


def test_tls_to_a_broker_without_it_is_one_clear_line(tmp_path: Path) -> None:
    async def scenario(url: str) -> None:
        reports: list[str] = []
        client = await a_client(url, 1, reports)
        await client.close()
        assert len(reports) == 1
        assert "is that its TLS port?" in reports[0]

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker.url.replace("mqtt", "mqtts")))


def test_packets_that_the_access_list_forbids_are_counted_and_reported_once(tmp_path: Path) -> None:
    async def scenario(url: str) -> None:
        reports: list[str] = []
        client = await a_client(url, 1, reports)
        for _ in range(5):
            await client.send(b"packet")
        await until(lambda: client.counts.refused == 5)
        assert len(reports) == 1
        assert "refuses messages to pinhole/v2/up/" in reports[0]
        assert "access list" in reports[0]
        await client.close()

    with Mosquitto(tmp_path, acl="topic readwrite pinhole/v2/state/#\ntopic read pinhole/v2/down/#\n") as broker:
        asyncio.run(scenario(broker.url))


def test_a_broker_that_takes_small_packets_only_is_one_clear_line(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path, settings=["max_packet_size 600"]) as broker,
        pytest.raises(PinholeError, match="600 bytes a message, 1456 are needed"),
    ):
        asyncio.run(a_client(broker.url))


def test_password_files_and_certificates_are_checked(tmp_path: Path) -> None:
    password = tmp_path / "password"

    def complaint(url: str, **options: object) -> str:
        with pytest.raises(PinholeError) as caught:
            asyncio.run(a_client(url, **options))  # type: ignore[arg-type]
        return str(caught.value)

    assert "cannot be read" in complaint("mqtt://me@127.0.0.1", password_file=password)
    password.write_text("\n")
    password.chmod(0o644)
    assert "chmod 600" in complaint("mqtt://me@127.0.0.1", password_file=password)
    password.chmod(0o600)
    assert "is empty" in complaint("mqtt://me@127.0.0.1", password_file=password)
    assert "needs a user" in complaint("mqtt://127.0.0.1", password_file=password)
    assert "use mqtts://" in complaint("mqtt://127.0.0.1", tls=TlsOptions(password))
    assert "cannot be read" in complaint("mqtts://127.0.0.1", tls=TlsOptions(password))
    assert "needs its key" in complaint("mqtts://127.0.0.1", tls=TlsOptions(None, password))


# Presence.

ALONE = """
import asyncio, sys
from shared.transports.mqtt.ends import open_mqtt_client, open_mqtt_station, parse_mqtt
from shared.transports.options import ClientOptions, StationOptions

async def main():
    role, url, identity = sys.argv[1:]
    if role == "sender":
        end = await open_mqtt_client(parse_mqtt(url), ClientOptions(sender=int(identity)))
    else:
        end = await open_mqtt_station(parse_mqtt(url), StationOptions(station=int(identity)))
    print("up", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


class Alone(AbstractContextManager["Alone"]):
    """An end in a process of its own, to be killed."""

    def __init__(self, role: Role, url: str, identity: int) -> None:
        command = [sys.executable, "-c", ALONE, role, url, str(identity)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)

    async def up(self) -> None:
        output = self._process.stdout
        assert output is not None
        async with asyncio.timeout(LIMIT):
            assert await asyncio.to_thread(output.readline) == b"up\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __exit__(self, *_: object) -> None:
        self.kill()


def raw(url: str) -> aiomqtt.Client:
    """A client that knows nothing of us."""
    address = parse_mqtt(url)
    return aiomqtt.Client(address.host, address.port, protocol=aiomqtt.ProtocolVersion.V5)


def test_births_deaths_and_late_deaths(tmp_path: Path) -> None:
    async def scenario(url: str) -> None:
        station = await a_station(url)
        with Alone(Role.SENDER, url, 7) as sender:
            await sender.up()
            await until(lambda: 7 in station.presence())
            assert station.presence()[7].state is State.ALIVE
            sender.kill()
            await until(lambda: station.presence()[7].state is State.LOST)
        client = await a_client(url, 7)
        await until(lambda: station.presence()[7].state is State.ALIVE)
        now = station.presence()[7]
        async with raw(url) as stranger:
            # The will of a connection before this one, held up on its way.
            late = encode_presence(now._replace(counter=now.counter - 1, state=State.LOST))
            await stranger.publish(TOPICS.state(Role.SENDER, 7, birth=False), late, qos=1, retain=True)
            await stranger.publish(TOPICS.state(Role.SENDER, 9, birth=True), b"\xc1", qos=1)
            await until(lambda: station.counts.foreign == 1)
        assert station.presence()[7] == now
        newcomer = await a_station(url, 2)
        await until(lambda: 7 in newcomer.presence())
        assert newcomer.presence()[7] == now
        await until(lambda: station.presence(Role.STATION).keys() == {1, 2})
        await client.close()
        await until(lambda: newcomer.presence()[7].state is State.CLOSED)
        await newcomer.close()
        await until(lambda: station.presence(Role.STATION)[2].state is State.CLOSED)
        await station.close()

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker.url))


def test_the_counter_grows_at_each_connection(tmp_path: Path) -> None:
    async def scenario(broker: Mosquitto) -> None:
        client, station = await a_client(broker.url, 7), await a_station(broker.url)
        await until(lambda: 7 in station.presence())
        first = station.presence()[7]
        broker.kill()
        broker.start()
        await until(lambda: station.presence()[7].counter > first.counter)
        assert station.presence()[7].incarnation == first.incarnation
        await client.close()
        await station.close()

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker))


def test_the_presence_table_does_not_care_about_order_and_is_bounded() -> None:
    birth, death = StateTopic(Role.SENDER, 1, True), StateTopic(Role.SENDER, 1, False)
    messages = [(birth, Presence(5, 2, State.ALIVE)), (death, Presence(5, 1, State.LOST))]
    for order in (messages, messages[::-1]):
        table = PresenceTable()
        for topic, presence in order:
            table.take(topic, encode_presence(presence))
        assert table.of(Role.SENDER)[1].state is State.ALIVE
        table.take(death, encode_presence(Presence(5, 2, State.LOST)))
        table.take(death, encode_presence(Presence(4, 9, State.LOST)))
        assert table.of(Role.SENDER)[1] == Presence(5, 2, State.LOST)
        table.take(birth, encode_presence(Presence(6, 1, State.ALIVE)))
        assert table.of(Role.SENDER)[1].state is State.ALIVE
    with pytest.raises(CorruptDataError, match="opposite"):
        table.take(birth, encode_presence(Presence(6, 1, State.LOST)))
    small = PresenceTable(limit=3)
    for number in range(5):
        small.take(StateTopic(Role.SENDER, number, True), encode_presence(Presence(1, 1, State.ALIVE)))
        small.take(StateTopic(Role.SENDER, number, False), encode_presence(Presence(1, number % 2, State.LOST)))
    assert sorted(small.of(Role.SENDER)) == [0, 2, 4]
    assert small.forgotten == 2
    small.take(StateTopic(Role.SENDER, 0, True), b"")
    small.take(StateTopic(Role.SENDER, 0, False), b"")
    assert len(small) == 2


# What is on the wire.


def test_quality_of_service_expiry_and_topics_as_a_stranger_sees_them(tmp_path: Path) -> None:
    async def scenario(url: str) -> None:
        async with raw(url) as stranger:
            await stranger.subscribe("pinhole/v2/up/#", qos=2)
            await stranger.subscribe("pinhole/v2/down/#", qos=2)
            client = await a_client(url, 0xABC, max_age=90.4)
            station = await a_station(url)
            # Twice, for the second of a kind goes by its alias.
            for number in range(4):
                await client.send(b"packet", number % 2)
                await station.receive()
            await station.send(0xABC, b"answer")
            seen = []
            async with asyncio.timeout(LIMIT):
                async for message in stranger.messages:
                    expiry = getattr(message.properties, "MessageExpiryInterval", None)
                    seen.append((str(message.topic), message.qos, expiry, message.retain))
                    if len(seen) == 5:
                        break
            await client.close()
            await station.close()
        root = f"pinhole/v2/up/{shard_of(0xABC)}/00000abc"
        packets = [(f"{root}/base", 1, 91, False), (f"{root}/refinement", 0, 91, False)]
        assert seen == [*packets, *packets, ("pinhole/v2/down/00000abc", 0, 60, False)]

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker.url))


def test_replays_strange_topics_and_oversized_messages_are_dropped_and_counted(tmp_path: Path) -> None:
    async def scenario(url: str) -> None:
        up = TOPICS.up(1, 0)
        async with raw(url) as stranger:
            await stranger.publish(up, b"kept since long", qos=1, retain=True)
            station = await a_station(url)
            await stranger.publish(up, b"replay", qos=1, retain=True)
            await until(lambda: station.counts.retained == 1)
            for topic in ("pinhole/v2/up/0/xyz/base", "pinhole/v2/up/77/00000001/base", up.upper(), up + "s"):
                await stranger.publish(topic, b"packet", qos=1)
            await until(lambda: station.counts.foreign == 3)
            await stranger.publish(up, bytes(LARGEST_PACKET + 1), qos=1)
            await until(lambda: station.counts.oversized == 1)
            await stranger.publish(up, bytes(LARGEST_PACKET), qos=1)
            async with asyncio.timeout(LIMIT):
                assert await station.receive() == (1, bytes(LARGEST_PACKET))
            await station.send("nobody", b"answer")
            await station.close()

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker.url))


def test_what_nobody_fetches_is_bounded(tmp_path: Path) -> None:
    async def scenario(url: str) -> None:
        station, client = await a_station(url), await a_client(url)
        async with asyncio.timeout(LIMIT):
            for _ in range(400):
                await client.send(bytes(60_000))
        await until(lambda: station.counts.overflowed > 0)
        await client.close()
        held = 0
        with suppress(TimeoutError):
            while True:
                async with asyncio.timeout(0.5):
                    held += len((await station.receive())[1])
        assert 8 << 20 < held <= 16 << 20
        await station.close()

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker.url))


# Many stations.


def test_stations_of_a_group_share_whole_senders_and_take_over_from_a_dead_one(tmp_path: Path) -> None:
    async def scenario(url: str) -> None:
        first = await a_station(f"{url}?share=ground", 1)
        await until(lambda: len(first.shards) == SHARDS)
        clients = [await a_client(url, number) for number in range(40)]
        with Alone(Role.STATION, f"{url}?share=ground", 2) as second:
            await second.up()
            await until(lambda: len(first.shards) < SHARDS)
            kept = first.shards
            assert kept
            lost = [sender for sender in range(40) if shard_of(sender) not in kept]
            assert lost
            second.kill()
            await until(lambda: len(first.shards) == SHARDS)
        third = await a_station(f"{url}?share=ground", 2)
        await until(lambda: first.shards | third.shards == frozenset(range(SHARDS)) and first.shards == kept)
        assert not first.shards & third.shards
        heard: dict[int, set[MqttStation]] = {}

        async def listen(station: MqttStation) -> None:
            while True:
                path, _ = await station.receive()
                assert isinstance(path, int)
                heard.setdefault(path, set()).add(station)
                counts[path] = counts.get(path, 0) + 1

        counts: dict[int, int] = {}
        tasks = [asyncio.create_task(listen(station)) for station in (first, third)]
        for _ in range(5):
            for client in clients:
                await client.send(b"packet")
        await until(lambda: sum(counts.values()) == 200)
        assert {sender for sender, stations in heard.items() if stations == {third}} == set(lost)
        assert all(len(stations) == 1 for stations in heard.values())
        await third.close()
        await until(lambda: len(first.shards) == SHARDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in clients:
            await client.close()
        await first.close()

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker.url))


def test_stations_that_name_their_shards_get_these_senders_alone(tmp_path: Path) -> None:
    async def scenario(url: str) -> None:
        low, high = await a_station(f"{url}?shards=0-7", 1), await a_station(f"{url}?shards=8-14,15", 2)
        clients = {number: await a_client(url, number) for number in range(20)}
        for number, client in clients.items():
            await client.send(b"packet")
            async with asyncio.timeout(LIMIT):
                assert (await (low if shard_of(number) < 8 else high).receive())[0] == number
            await client.close()
        await low.close()
        await high.close()

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker.url))


@given(st.dictionaries(st.integers(0, 2**32 - 1), st.integers(1, ALL_SHARDS), min_size=1, max_size=6), st.data())
def test_a_station_that_goes_moves_no_shard_of_the_others(willing: dict[int, int], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(willing)))
    left = {station: shards for station, shards in willing.items() if station != gone}
    for shard in range(SHARDS):
        before = owner(shard, willing)
        assert before is None or willing[before] >> shard & 1
        if before != gone:
            assert owner(shard, left) == before
        elif any(shards >> shard & 1 for shards in left.values()):
            assert owner(shard, left) is not None


def test_shards_are_spread_evenly() -> None:
    for start in (0, 2**31, 0xA0B0C0D0):
        counts = [0] * SHARDS
        for sender in range(start, start + 1600):
            counts[shard_of(sender)] += 1
        assert all(80 <= count <= 120 for count in counts)


# Two with one id, slow brokers, strange brokers.


def test_two_clients_with_one_id_do_not_fight(tmp_path: Path) -> None:
    async def scenario(url: str) -> None:
        reports: list[str] = []
        station = await a_station(url)
        first = await a_client(url, 7, reports)
        second = await a_client(url, 7)
        # The first one comes back once to see who it was, the second one returns from that and stays.
        await until(lambda: first.counts.taken_over == 1 and second.counts.connections == 2)
        heard: set[bytes] = set()
        async with asyncio.timeout(LIMIT):
            for number in range(100):
                await second.send(b"%d" % number)
                while b"%d" % number not in heard:
                    heard.add((await station.receive())[1])
        assert first.counts.connections == 1
        assert second.counts.taken_over == 0
        assert sum("another client with this id" in line for line in reports) == 1
        await until(lambda: station.presence()[7].state is State.ALIVE)
        await first.close()
        await second.close()
        await station.close()

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker.url))


def test_an_old_birth_that_a_broker_got_back_from_its_disk_is_no_rival(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_connection, "_FIRST_WAIT_TAKEN", 0.1)

    async def scenario(broker: Mosquitto) -> None:
        client = await a_client(broker.url, 7)
        broker.kill()
        broker.start()
        async with raw(broker.url) as stranger:
            old = encode_presence(Presence(1, 1, State.ALIVE))
            await stranger.publish(TOPICS.state(Role.SENDER, 7, birth=True), old, qos=1, retain=True)
        await until(lambda: client.counts.connections == 2)
        assert client.counts.taken_over == 1
        station = await a_station(broker.url)
        await client.send(b"packet")
        async with asyncio.timeout(LIMIT):
            assert await station.receive() == (7, b"packet")
        await client.close()
        await station.close()

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker))


async def accepted(client: MqttClient, size: int, priority: int, most: int) -> int:
    """How many packets the client takes before it makes us wait."""
    for number in range(most):
        try:
            async with asyncio.timeout(1.0):
                await client.send(bytes(size), priority)
        except TimeoutError:
            return number
    return most


def test_a_broker_that_stops_to_answer_gets_no_more_than_the_window(tmp_path: Path) -> None:
    async def scenario(broker: Mosquitto) -> None:
        station = await a_station(broker.url)
        client = await a_client(f"{broker.url}?receive_maximum=50", rate=9600.0, packet_bytes=1000)
        slow = await a_client(f"{broker.url}?receive_maximum=5", 2, rate=9600.0, packet_bytes=1000)
        broker.signal(signal.SIGSTOP)
        try:
            # 30 s at 9600 bit/s; the broker's own receive maximum is 20.
            assert await accepted(client, 3000, 0, 100) == 12
            assert await accepted(slow, 1000, 0, 100) == 5
        finally:
            broker.signal(signal.SIGCONT)
        async with asyncio.timeout(LIMIT):
            for _ in range(17):
                await station.receive()
        await client.close()
        await slow.close()
        await station.close()

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker))


@asynccontextmanager
async def scripted(welcome: bytes, suback: int = 0, puback: int = 0) -> AsyncIterator[tuple[str, list[int]]]:
    """A broker that answers the first four packets and then neither reads nor answers any more."""
    packets: list[int] = []
    over = asyncio.Event()
    listener = socket.socket()
    # Before connections are there, for only then the window is small as well.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listener.bind(("127.0.0.1", 0))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            for _ in range(4):
                kind = (await reader.readexactly(1))[0]
                size = shift = 0
                while True:
                    byte = (await reader.readexactly(1))[0]
                    size |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                body = await reader.readexactly(size)
                packets.append(kind)
                if kind == 0x10:
                    writer.write(welcome)
                elif kind == 0x82:
                    writer.write(b"\x90\x04" + body[:2] + bytes([0, suback]))
                else:
                    topic = int.from_bytes(body[:2], "big")
                    writer.write(b"\x40\x04" + body[2 + topic : 4 + topic] + bytes([puback, 0]))
            await over.wait()
        writer.close()

    server = await asyncio.start_server(serve, sock=listener, limit=1024)
    try:
        yield f"mqtt://127.0.0.1:{listener.getsockname()[1]}?timeout=1", packets
    finally:
        over.set()
        server.close()
        await server.wait_closed()


WELCOME = b"\x20\x03\x00\x00\x00"


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the system cannot bound what waits in the kernel")
def test_little_waits_in_the_kernel_for_a_slow_line() -> None:
    async def scenario() -> None:
        async with scripted(WELCOME) as (url, _):
            client = await a_client(url, rate=9600.0, packet_bytes=200)
            taken = await accepted(client, 200, 1, 20_000)
            # Four seconds are 4800 bytes; the rest is what the two small windows of the test's connection hold.
            assert 24 <= taken < 500
            await client.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("welcome", "suback", "puback", "complaint"),
    [
        (WELCOME, 0x87, 0, "refuses the subscription to pinhole/v2/[a-z/0-9]* .not authorized"),
        (WELCOME, 0, 0x97, "refuses messages to pinhole/v2/state/sender/00000001/birth .quota exceeded"),
        (b"\x20\x03\x00\x84\x00", 0, 0, "MQTT version 5"),
        (b"\x20\x03\x00\x85\x00", 0, 0, "client id"),
        (b"\x20\x03\x00\x9a\x00", 0, 0, "retained"),
    ],
)
def test_a_broker_that_refuses_is_one_clear_line(welcome: bytes, suback: int, puback: int, complaint: str) -> None:
    async def scenario() -> None:
        async with scripted(welcome, suback, puback) as (url, _):
            await a_client(url)

    with pytest.raises(PinholeError, match=complaint) as caught:
        asyncio.run(scenario())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("welcome", "report"),
    [(b"", "does not answer in time"), (b"\x20\x03\x00\x89\x00", "busy"), (b"\xf0\xff\xff\xff\xff\xff", "at once")],
)
def test_a_broker_that_may_get_better_is_tried_again(welcome: bytes, report: str) -> None:
    async def scenario() -> None:
        reports: list[str] = []
        async with scripted(welcome) as (url, packets):
            client = await a_client(url, reports=reports)
            await until(lambda: packets.count(0x10) >= 2)
            await client.close()
        assert len(reports) == 1
        assert report in reports[0]

    asyncio.run(scenario())


@pytest.mark.parametrize("when", ["up", "broker away", "broker stopped"])
def test_closing_leaves_nothing_behind(tmp_path: Path, when: str) -> None:
    async def scenario(broker: Mosquitto) -> None:
        client = await a_client(broker.url)
        stations = [await a_station(broker.url), await a_station(f"{broker.url}?share=g", 2)]
        ends: list[MqttClient | MqttStation] = [client, *stations]
        waiting = [asyncio.ensure_future(client.receive()), *(asyncio.ensure_future(s.receive()) for s in stations)]
        if when == "broker away":
            broker.kill()
        if when == "broker stopped":
            broker.signal(signal.SIGSTOP)
        async with asyncio.timeout(LIMIT):
            for end in ends:
                await end.close()
                await end.close()
            for outcome in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(outcome, ConnectionError)
        with pytest.raises(ConnectionError):
            await client.send(b"packet")
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with Mosquitto(tmp_path) as broker:
        asyncio.run(scenario(broker), debug=True)


# Parsers.


@given(st.integers(0, 2**32 - 1), st.integers(0, 1), st.sampled_from([*Role]), st.booleans())
def test_topics_are_read_back(identity: int, priority: int, role: Role, birth: bool) -> None:
    assert TOPICS.parse(TOPICS.up(identity, priority)) == UpTopic(identity, priority)
    assert TOPICS.parse(TOPICS.state(role, identity, birth=birth)) == StateTopic(role, identity, birth)


@given(
    st.one_of(
        st.text(max_size=80),
        st.lists(
            st.sampled_from(
                ["pinhole", "v2", "up", "state", "down", "0", "15", "00000001", "0000000A", "base", "\u0660", ""]
            )
        ).map("/".join),
        st.tuples(st.integers(0, 40), st.text(max_size=2)).map(
            lambda change: (up := TOPICS.up(1, 0))[: change[0]] + change[1] + up[change[0] :]
        ),
    )
)
def test_topics_are_the_links_or_refused(topic: str) -> None:
    try:
        place = TOPICS.parse(topic)
    except CorruptDataError:
        return
    if isinstance(place, UpTopic):
        assert TOPICS.up(*place) == topic
    else:
        assert TOPICS.state(place.role, place.identity, birth=place.birth) == topic


@given(st.binary(max_size=200))
def test_presence_payloads_are_presences_or_refused(payload: bytes) -> None:
    with suppress(CorruptDataError):
        presence = parse_presence(payload)
        assert parse_presence(encode_presence(presence)) == presence


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.sampled_from([*State]),
    st.one_of(st.just(("", 0)), st.tuples(st.just("ground"), st.integers(1, ALL_SHARDS))),
)
def test_presences_are_read_back(incarnation: int, counter: int, state: State, group: tuple[str, int]) -> None:
    presence = Presence(incarnation, counter, state, *group)
    payload = encode_presence(presence)
    assert parse_presence(payload) == presence
    for end in range(len(payload)):
        with pytest.raises(CorruptDataError):
            parse_presence(payload[:end])


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x93\x01\x01\xc3",
        b"\x93\x01\x01\x03",
        b"\x93\x01\x01\xff",
        b"\x92\x01\x01",
        b"\x95\x01\x01\x02\xa1/\x01",
        b"\x95\x01\x01\x02\xa1g\x00",
        b"\x95\x01\x01\x02\xa1g\xce\x00\x01\x00\x00",
        b"\x94\x01\x01\x02\xa1g",
        b"\x91" * 128,
        b"\x93\xcf\x00\x00\x00\x01\x00\x00\x00\x00\x01\x02",
    ],
)
def test_wrong_presences_are_refused(payload: bytes) -> None:
    with pytest.raises(CorruptDataError):
        parse_presence(payload)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("mqtt://host:0", "port above 0"),
        ("mqtt://me:secret@host", "holds no password"),
        ("mqtt://host/a+b", "prefix"),
        ("mqtt://host/$SYS", "prefix"),
        ("mqtt://host//a", "prefix"),
        ("mqtt://host?shards=0-16", "0 to 15"),
        ("mqtt://host?shards=7-3", "0 to 15"),
        ("mqtt://host?shards=a", "0 to 15"),
        ("mqtt://host?share=a/b", "name the group"),
        ("mqtt://host?keepalive=1", "number from 5"),
        ("mqtt://host?receive_maximum=1.5", "whole number"),
        ("mqtt://host?qos_base=1", "qos_base"),
        ("mqtt://host?colour=red", "colour"),
    ],
)
def test_wrong_addresses_are_one_clear_error(url: str, complaint: str) -> None:
    with pytest.raises(PinholeError, match=complaint) as caught:
        read_settings(parse_mqtt(url), station=True)
    assert "\n" not in str(caught.value)


def test_addresses_are_read() -> None:
    address = parse_mqtt("mqtts://me%40home@[::1]/a/b?keepalive=30&qos_base=0&qos_refinements=1&timeout=90")
    settings = read_settings(address, station=False)
    assert (address.port, address.url) == (8883, "mqtts://[::1]:8883/a/b")
    assert (settings.username, settings.topics.prefix, settings.keepalive) == ("me@home", "a/b", 30)
    assert (settings.qos, settings.timeout, settings.shards) == ((0, 1), 90.0, ALL_SHARDS)
    assert parse_mqtt("mqtt://host").url == "mqtt://host:1883/pinhole"
    assert read_settings(parse_mqtt("mqtt://host?shards=0,2-3,15"), station=True).shards == 0b1000_0000_0000_1101
