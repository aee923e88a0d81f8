"""One suite over all kinds of transports: the same link, the same behaviour. `kinds` says what is asked of whom."""

import asyncio
import gc
import os
import random
import time
from collections.abc import Callable, Coroutine, Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from shared.errors import PinholeError
from shared.link import LayerAcknowledged, LayerReceived, LayerSent, LinkConfig, SenderEvent, SenderSession, Station
from shared.link.keys import ListedSender
from shared.link.plain import PlainSender
from shared.link.sealed import SealedSender
from shared.link.sealed_gate import SealedGate
from shared.transports import ClientTransport, StationTransport, memory, open_client, open_station
from shared.transports.bonding import client as bonded
from shared.transports.mqtt import connection as mqtt_connection
from shared.transports.mqtt import ends as mqtt
from shared.transports.udp import station as udp_station
from shared.transports.zeromq import client as zeromq_client
from tests.transports.delivery import LIMIT, brisk, carried, deliver, driven, layers_of, some_pictures, stored, until
from tests.transports.kinds import KINDS, NOT_ASKED, UNREAD, Behaviour, Kind, Nobody, asked
from tests.transports.places import GROUND, SENDERS

__all__ = ["LIMIT", "brisk", "deliver", "some_pictures"]

ENDED = (PinholeError, OSError)
"""What a transport that is closed or has failed raises."""


@pytest.fixture(autouse=True)
def short_pauses_and_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeromq_client, "_FIRST_PAUSE", 0.05)
    monkeypatch.setattr(zeromq_client, "_LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(mqtt_connection, "_FIRST_WAIT", 0.1)
    monkeypatch.setattr(mqtt_connection, "_LONGEST_WAIT", 0.5)
    monkeypatch.setattr(bonded, "_FIRST_PAUSE", 0.1)
    monkeypatch.setattr(udp_station, "_QUEUED", UNREAD)
    monkeypatch.setattr(memory, "_QUEUED_AT_STATION", UNREAD)
    monkeypatch.setattr(mqtt, "_INBOX_BYTES_AT_STATION", UNREAD)


def over(behaviour: Behaviour) -> pytest.MarkDecorator:
    """Run for all kinds of which it is asked."""
    return pytest.mark.parametrize("kind", asked(behaviour), ids=lambda kind: kind.name)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(LIMIT):
            await scenario

    asyncio.run(in_time())


def session_of(number: int, config: LinkConfig, *, seal: bool = False, start: int = 1) -> SenderSession:
    """A session of a sender of `places`."""
    secret = SENDERS[number]
    if seal:
        envelope = SealedSender(secret, GROUND.public, sender=secret.identity, session=start)
        return SenderSession(config, envelope, now=time.monotonic())
    return SenderSession(config, PlainSender(secret.identity, start), now=time.monotonic())


def a_station(*, seal: bool = False) -> Station:
    listed = [ListedSender(f"sender {number}", secret.public) for number, secret in enumerate(SENDERS)]
    return Station(LinkConfig(), now=time.monotonic(), gate=SealedGate([GROUND], listed) if seal else None)


async def receive(station: StationTransport, wanted: Callable[[bytes], bool]) -> tuple[Hashable, bytes]:
    """The next packet at a station that is wanted."""
    while True:
        path, packet = await station.receive()
        if wanted(packet):
            return path, packet


async def cross(client: ClientTransport, station: StationTransport, packet: bytes) -> Hashable:
    """Send a packet until the station has it, for it may be lost; returns its path."""
    waiting = asyncio.create_task(receive(station, lambda got: got == packet))
    try:
        while not waiting.done():
            await client.send(packet)
            await asyncio.wait([waiting], timeout=0.2)
        return waiting.result()[0]
    finally:
        waiting.cancel()


def word(text: str) -> bytes:
    """A packet as relays let it pass: of this protocol's version, and not too short."""
    return bytes([0x80]) + text.encode().ljust(20)


def numbered(number: int, size: int = 1000) -> bytes:
    return bytes([0x80]) + number.to_bytes(4, "big") + bytes(size - 5)


def test_what_is_not_asked_is_of_kinds_and_behaviours_that_there_are() -> None:
    assert {name for name, _ in NOT_ASKED} <= {*KINDS}
    assert all(reason for reason in NOT_ASKED.values())
    for behaviour in Behaviour:
        assert len(asked(behaviour)) >= 5, behaviour


@over(Behaviour.CROSSING)
@pytest.mark.parametrize("seal", [False, True], ids=["unsealed", "sealed"])
def test_hundreds_of_layers_cross(kind: Kind, seal: bool, tmp_path: Path) -> None:
    configs = [
        brisk(parity=0.0, base_parity=0.0),
        brisk(parity=0.5, base_parity=0.5),
        brisk(adapt=True),
    ]
    pictures = {number: some_pictures(number, 20) for number in range(3)}
    received: list[LayerReceived] = []

    async def send(place: Any, number: int) -> None:
        session = session_of(number, configs[number], seal=seal)
        events = await deliver(session, await place.client(number), pictures[number])
        told = {(event.sequence, event.layer) for event in events if isinstance(event, LayerAcknowledged)}
        assert told == {*layers_of(pictures[number])}
        assert len(events) == len(told)
        assert session.backlog_bytes == 0

    async def scenario() -> None:
        async with kind.place(tmp_path) as place:
            async with driven(await place.station(), received, a_station(seal=seal)) as station:
                if kind.senders == 1:
                    for number in range(3):
                        await send(place, number)
                else:
                    await asyncio.gather(*[send(place, number) for number in range(3)])
                if kind.name == "faulty":
                    assert station.totals.symbols_duplicate + station.totals.packets_replayed > 0
                    assert station.totals.packets_rejected + station.totals.packets_unknown > 0
            assert place.reports == [], "nothing happened that anybody need know"
        for number, secret in enumerate(SENDERS):
            assert stored(received, secret.identity) == layers_of(pictures[number])
        assert len(received) == 240

    run(scenario())


@over(Behaviour.LATE)
def test_a_station_that_comes_late_and_restarts_gets_everything(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        pictures = some_pictures(3, 20)
        first: list[LayerReceived] = []
        second: list[LayerReceived] = []
        session = session_of(0, brisk(rate=1_200_000.0, burst_bytes=1200))
        async with kind.place(tmp_path) as place:
            job = asyncio.create_task(deliver(session, await place.client(), pictures))
            await asyncio.sleep(0.1)
            async with driven(await place.station(), first):
                await until(lambda: len(first) >= 20)
            async with driven(await place.station(), second):
                events = await job
        assert len(events) == 80
        assert second, "the station ended after the sender, nothing was shown"
        assert stored([*first, *second], SENDERS[0].identity) == layers_of(pictures)

    run(scenario())


class Listening:
    """A client that counts what it hears."""

    def __init__(self, inner: ClientTransport) -> None:
        self._inner = inner
        self.heard = 0

    async def send(self, packet: bytes, priority: int = 0) -> None:
        await self._inner.send(packet, priority)

    async def receive(self) -> bytes:
        packet = await self._inner.receive()
        self.heard += 1
        return packet

    async def close(self) -> None:
        await self._inner.close()


@over(Behaviour.SIMPLEX)
def test_simplex_tells_what_was_sent_and_hears_nothing(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        received: list[LayerReceived] = []
        pictures = some_pictures(4, 5)
        async with kind.place(tmp_path) as place, driven(await place.station(), received) as station:
            client = Listening(await place.client())
            config = brisk(simplex=True, rate=2_000_000.0, burst_bytes=1200)
            events = await deliver(session_of(0, config), client, pictures)
            assert len(events) == 20
            assert all(isinstance(event, LayerSent) for event in events)
            await until(lambda: len(received) >= (1 if kind.name == "faulty" else 20))
            assert station.totals.reports_sent == 0
            assert client.heard == 0

    run(scenario())


@over(Behaviour.STRANGERS)
def test_strangers_do_no_harm_and_are_counted(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        received: list[LayerReceived] = []
        pictures = some_pictures(6, 5)
        chance = random.Random(5)
        async with kind.place(tmp_path) as place:
            transport = await place.station()
            async with driven(transport, received) as station:
                honest = await place.client(0)
                # On a line with two ends, nonsense comes from the other end.
                stranger = honest if kind.senders == 1 else await place.client(1)
                await place.bother(transport, chance)
                for _ in range(200):
                    await stranger.send(chance.randbytes(chance.randrange(1, 200)))
                await deliver(session_of(0, brisk()), honest, pictures)
                await stranger.close()
                assert stored(received, SENDERS[0].identity) == layers_of(pictures)
                assert {event.sender for event in received} == {SENDERS[0].identity}
                totals = station.totals
                assert totals.packets_rejected + totals.packets_unknown + totals.packets_other_version > 0

    run(scenario())


@over(Behaviour.IN_USE)
def test_an_address_in_use_is_one_clear_error(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with kind.place(tmp_path) as place:
            station = await place.station()
            for _ in range(2):
                with pytest.raises(PinholeError, match=r"another|in use") as caught:
                    await place.station()
                assert "\n" not in str(caught.value)
                assert "://" in str(caught.value)
            # The attempt has harmed nothing, and the address is free afterwards.
            await cross(await place.client(), station, word("still there"))
            await station.close()
            await (await place.station()).close()

    run(scenario())


@pytest.mark.parametrize(
    ("url", "complaint", "end"),
    [
        pytest.param(url, complaint, end, id=f"{end} {url[:40]}")
        for kind in asked(Behaviour.ADDRESSES)
        for url, complaint, ends in kind.wrong
        for end in ends.split()
    ],
)
def test_wrong_addresses_are_one_clear_error(url: str, complaint: str, end: str) -> None:
    with pytest.raises(PinholeError, match=complaint) as caught:
        asyncio.run(open_client(url) if end == "client" else open_station(url))
    assert "\n" not in str(caught.value)


def test_every_kind_of_which_it_is_asked_has_wrong_addresses() -> None:
    assert all(len(kind.wrong) >= 5 for kind in asked(Behaviour.ADDRESSES))


@over(Behaviour.NOBODY)
def test_while_nobody_is_there_packets_wait_or_are_lost_as_documented(kind: Kind, tmp_path: Path) -> None:
    early, late = word("early"), word("late")

    async def scenario() -> None:
        async with kind.place(tmp_path) as place:
            client = await place.client()
            if kind.nobody is Nobody.WAIT:
                sending = asyncio.create_task(client.send(early))
                await asyncio.sleep(0.2)
                assert not sending.done()
                station = await place.station()
                assert (await receive(station, bool))[1] == early
                await sending
                await cross(client, station, late)
            else:
                for _ in range(50):
                    await client.send(early)
                await place.settle()
                station = await place.station()
                waiting = asyncio.create_task(receive(station, lambda got: kind.nobody is Nobody.LOST or got == late))
                while not waiting.done():
                    await client.send(late)
                    await asyncio.wait([waiting], timeout=0.2)
                assert waiting.result()[1] == late
            await client.close()
            await station.close()

    run(scenario())


@over(Behaviour.UNREAD)
def test_what_is_handed_over_and_not_fetched_is_bounded_and_the_rest_counted(kind: Kind, tmp_path: Path) -> None:
    size = min(kind.largest, 60_000)
    handed = 0

    async def scenario() -> None:
        async with kind.place(tmp_path) as place:
            client = await place.client(packet_bytes=size)
            station = await place.station()
            await cross(client, station, word("begin"))
            before = place.lost(client, station)

            async def talk() -> None:
                nonlocal handed
                while handed * size < 1.2 * kind.unread:
                    await client.send(numbered(handed, size))
                    handed += 1

            talking = asyncio.create_task(talk())
            seen = -1
            while not talking.done() and seen != handed:
                seen = handed
                await asyncio.wait([talking], timeout=0.5)
            assert talking.done() == (kind.nobody is not Nobody.WAIT), "streams wait, others go on"
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)
            delivered = await drain(client, station)
            assert 0 < delivered * size <= kind.unread
            lost = place.lost(client, station) - before
            assert handed == delivered + lost, "what is not delivered is counted"
            assert (lost == 0) == (kind.nobody is Nobody.WAIT)
            await client.close()
            await station.close()

    async def drain(client: ClientTransport, station: StationTransport) -> int:
        """Fetch all; two markers from each of several links are behind everything else."""
        taken: list[bytes] = []

        async def take() -> None:
            while True:
                taken.append((await station.receive())[1])

        taking = asyncio.create_task(take())
        for number in range(4):
            await asyncio.sleep(0.05)
            await client.send(marker := word(f"end{number}"))
            await until(lambda marker=marker: marker in taken, taking)  # type: ignore[misc]
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        return sum(len(packet) == size for packet in taken)

    run(scenario())


@over(Behaviour.CLOSING)
def test_what_waits_ends_when_its_transport_closes_and_closing_twice_does_nothing(kind: Kind, tmp_path: Path) -> None:
    async def talk(client: ClientTransport) -> None:
        while True:
            await client.send(numbered(1))

    async def scenario() -> None:
        async with kind.place(tmp_path) as place:
            station = await place.station()
            # The rate of a very slow link: most kinds then wait within send.
            client = await place.client(rate=300.0, packet_bytes=1000)
            path = await cross(client, station, word("begin"))
            waiting = [
                asyncio.create_task(client.receive()),
                asyncio.create_task(talk(client)),
                asyncio.create_task(talk(client)),
            ]
            await asyncio.sleep(0.1)
            assert not any(task.done() for task in waiting)
            await client.close()
            await client.close()
            for task in waiting:
                with pytest.raises(ENDED, match="closed"):
                    await task
            for late in (client.send(word("late")), client.receive()):
                with pytest.raises(ENDED, match="closed"):
                    await late
            while True:
                hearing = asyncio.create_task(station.receive())
                await asyncio.wait([hearing], timeout=0.2)
                if not hearing.done():
                    break
            await station.close()
            await station.close()
            for hears in (hearing, station.receive()):
                with pytest.raises(ENDED, match="closed"):
                    await hears
            await station.send(path, word("late"))
            assert all("://" in line and "\n" not in line for line in place.reports)

    run(scenario())


def open_files() -> list[str]:
    """What this process has open, but for the list itself."""
    names = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            names.append(os.readlink(f"/proc/self/fd/{number}").partition(":")[0])
    return sorted(names)


@over(Behaviour.LEAKS)
def test_nothing_is_left_open(kind: Kind, tmp_path: Path) -> None:
    async def use(place: Any) -> None:
        lone = await place.client()
        sending = asyncio.create_task(lone.send(word("to nobody")))
        await asyncio.sleep(0.05)
        await lone.close()
        await asyncio.gather(sending, return_exceptions=True)
        station = await place.station()
        client = await place.client()
        await cross(client, station, word("packet"))
        hearing = asyncio.create_task(station.receive())
        if (kind.name, Behaviour.IN_USE) not in NOT_ASKED:
            with pytest.raises(PinholeError):
                await place.station()
        for url, _, ends in kind.wrong:
            if "invalid" not in url:
                with pytest.raises(PinholeError):
                    await (open_client(url) if "client" in ends else open_station(url))
        # The station first: its senders lose it before they close.
        await station.close()
        await client.close()
        await asyncio.gather(hearing, return_exceptions=True)

    async def scenario() -> None:
        async with kind.place(tmp_path) as place:
            await use(place)
            gc.collect()
            files, tasks = open_files(), len(asyncio.all_tasks())
            for _ in range(3):
                await use(place)
            gc.collect()
            with suppress(TimeoutError):
                async with asyncio.timeout(10.0):
                    await until(lambda: len(open_files()) <= len(files) and len(asyncio.all_tasks()) <= tasks)
            assert len(open_files()) <= len(files), (files, open_files())
            assert len(asyncio.all_tasks()) <= tasks, asyncio.all_tasks()

    run(scenario())


@over(Behaviour.LARGEST)
def test_the_largest_packet_crosses_and_a_larger_one_is_told_or_counted(kind: Kind, tmp_path: Path) -> None:
    chance = random.Random(8)
    most = kind.largest
    up, down = (bytes([0x80]) + chance.randbytes(most - 1) for _ in range(2))

    async def scenario() -> None:
        async with kind.place(tmp_path) as place:
            client = await place.client(packet_bytes=most)
            station = await place.station(packet_bytes=most)
            path = await cross(client, station, up)
            answering = asyncio.create_task(client.receive())
            while not answering.done():
                await station.send(path, down)
                await asyncio.wait([answering], timeout=0.2)
            assert answering.result() == down
            if kind.refuses:
                with pytest.raises(PinholeError, match=str(most + 1)) as caught:
                    await client.send(bytes(most + 1))
                assert "\n" not in str(caught.value)
            else:
                await client.send(bytes(most + 1))
            await station.send(path, bytes(most + 1))
            # Neither has cost the connection.
            assert await cross(client, station, word("small")) == path
            if not kind.refuses:
                counts: Any = getattr(station, "counts", None) or getattr(client, "counters", None)
                assert getattr(counts, "oversized", 0) + getattr(counts, "oversize", 0) == 1
            await client.close()
            await station.close()

    run(scenario())


@over(Behaviour.ANSWERS)
def test_answers_find_the_sender_that_they_are_for(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with kind.place(tmp_path) as place:
            station = await place.station()
            clients = [await place.client(number) for number in range(kind.senders)]
            paths = [await cross(client, station, numbered(number)) for number, client in enumerate(clients)]
            assert len({*paths}) == kind.senders
            heard: list[list[bytes]] = [[] for _ in clients]

            async def hear(number: int) -> None:
                while True:
                    heard[number].append(await clients[number].receive())

            hearing = [asyncio.create_task(hear(number)) for number in range(kind.senders)]
            while not all(heard):
                for number, path in enumerate(paths):
                    for _ in range(5):
                        await station.send(path, word(f"answer{number}"))
                await asyncio.sleep(0.02)
            # To nobody that there is: dropped.
            for stranger in (0, b"nobody", "nobody", ("127.0.0.1", 9), None):
                await station.send(stranger, word("to nobody"))
            await asyncio.sleep(0.05)
            for number, packets in enumerate(heard):
                assert {*packets} == {word(f"answer{number}")}
            for task in hearing:
                task.cancel()
            await asyncio.gather(*hearing, return_exceptions=True)
            for client in clients:
                await client.close()
            await station.close()

    run(scenario())


@over(Behaviour.ROAMING)
def test_answers_follow_a_sender_to_another_path(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        received: list[LayerReceived] = []
        events: list[SenderEvent] = []
        pictures = some_pictures(9, 15)
        session = session_of(0, brisk(rate=1_600_000.0, burst_bytes=1200))
        for sequence, layers in pictures.items():
            session.submit(sequence, layers, time.monotonic())
        async with kind.place(tmp_path) as place, driven(await place.station(), received):
            for enough in (15, 60):
                async with carried(session, await place.client(), events) as task:
                    await until(lambda enough=enough: len(events) >= enough, task)  # type: ignore[misc]
                assert enough == 60 or len(events) < 60, "all was done before it roamed, nothing was shown"
        assert all(isinstance(event, LayerAcknowledged) for event in events)
        assert stored(received, SENDERS[0].identity) == layers_of(pictures)

    run(scenario())


@over(Behaviour.TROUBLE)
def test_a_lost_connection_is_told_and_nothing_else_is(
    kind: Kind, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> None:
        async with kind.place(tmp_path) as place:
            station = await place.station()
            client = await place.client()
            await cross(client, station, word("before"))
            assert place.reports == []
            if kind.survives:
                await survive(place, client, station)
            else:
                await end(place, client, station)
            # Defects of tasks that nobody waits for are told when they are collected.
            gc.collect()

    async def survive(place: Any, client: ClientTransport, station: StationTransport) -> None:
        await place.lose(station)

        async def talk() -> None:
            while True:
                await client.send(word("nobody hears this"))
                await asyncio.sleep(0.01)

        talking = asyncio.create_task(talk())
        await until(lambda: len(place.reports) > 0, talking)
        await asyncio.sleep(0.3)
        assert len(place.reports) == len({*place.reports}) <= 4, "each trouble is told once"
        assert all("://" in line and "\n" not in line for line in place.reports)
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
        station = await place.restore(station)
        await cross(client, station, word("after"))
        await client.close()
        await station.close()

    async def end(place: Any, client: ClientTransport, station: StationTransport) -> None:
        waiting = [asyncio.create_task(client.receive()), asyncio.create_task(station.receive())]
        await asyncio.sleep(0)
        await place.lose(station)
        for broken in (*waiting, client.send(word("x")), client.receive(), station.receive()):
            with pytest.raises(ENDED) as caught:
                await broken
            assert "://" in str(caught.value)
            assert "\n" not in str(caught.value)
        await client.close()
        await station.close()
        assert place.reports == [], "the owner has the error and opens another; that is told there"

    run(scenario())
    gc.collect()
    assert [record.getMessage() for record in caplog.records] == []
    assert capfd.readouterr().err == ""
