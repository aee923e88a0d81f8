"""Serial lines over pseudo-terminals that lose and damage bytes, and KISS over a real TCP connection."""

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import serial
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import PinholeError
from shared.link import LayerReceived, SenderSession
from shared.link.plain import PlainSender
from shared.transports.byte_queue import COST_OF_A_PACKET
from shared.transports.lines.byte_stream import QUEUED_BYTES, Inbox, StreamClient, StreamStation
from shared.transports.lines.pace import LinePace, Turns
from shared.transports.lines.serial_line import open_serial_client, open_serial_station, parse_kiss_tcp, parse_serial
from shared.transports.options import ClientOptions, StationOptions
from tests.transports.delivery import LIMIT, brisk, deliver, driven, some_pictures
from tests.transports.line_fakes import Cable, FakeTnc

FAST = "baud=4000000"


async def client(url: str, packet_bytes: int = 1200) -> StreamClient:
    parse = parse_kiss_tcp if url.startswith("kiss+tcp") else parse_serial
    return await open_serial_client(parse(url), ClientOptions(packet_bytes=packet_bytes))


async def station(url: str, packet_bytes: int = 1200) -> StreamStation:
    parse = parse_kiss_tcp if url.startswith("kiss+tcp") else parse_serial
    return await open_serial_station(parse(url), StationOptions(packet_bytes=packet_bytes))


async def crosses(sender: StreamClient, ground: StreamStation, pictures: int = 10) -> None:
    received: list[LayerReceived] = []
    wanted = some_pictures(5, pictures)
    async with driven(ground, received):
        session = SenderSession(brisk(rate=2_000_000.0), PlainSender(9, 1), now=time.monotonic())
        events = await deliver(session, sender, wanted)
    assert len(events) == 4 * pictures
    got = {(event.sequence, event.layer): event.payload for event in received}
    assert got == {(number, layer): data for number, layers in wanted.items() for layer, data in enumerate(layers)}


@pytest.mark.parametrize(
    "options",
    [
        ("serial", ""),
        ("serial", "&flow=xonxoff"),
        ("serial", "&flow=rtscts&parity=E"),
        ("serial", "&half_duplex=1"),
        ("kiss", "&port=12"),
        ("kiss", "&callsign=N0CALL-{end}"),
    ],
)
@pytest.mark.parametrize("clean", [True, False])
def test_a_link_crosses_a_line(options: tuple[str, str], clean: bool) -> None:
    async def scenario() -> None:
        cable = Cable(loss=0.0 if clean else 2e-4, damage=0.0 if clean else 2e-4)
        scheme, more = options
        urls = [f"{scheme}://{device}?{FAST}{more.format(end=i)}" for i, device in enumerate(cable.devices)]
        ground = await station(urls[0])
        sender = await client(urls[1])
        await crosses(sender, ground)
        assert cable.carried > 20_000
        assert (cable.harmed == 0) == clean
        cable.unplug()

    asyncio.run(scenario())


def test_noise_on_a_silent_line_costs_no_packet() -> None:
    async def scenario() -> None:
        cable = Cable()
        ground = await station(f"serial://{cable.devices[0]}?{FAST}")
        sender = await client(f"serial://{cable.devices[1]}?{FAST}")
        async with asyncio.timeout(LIMIT):
            for number in range(5):
                cable.write(0, b"\x05\x01noise")
                await asyncio.sleep(0.01)
                await sender.send(bytes([number]) * 100)
                got = b""
                while got != bytes([number]) * 100:
                    _, got = await ground.receive()
        await sender.close()
        await sender.close()
        await ground.close()
        cable.unplug()

    asyncio.run(scenario())


def test_an_unplugged_device_ends_both_ways_with_an_error() -> None:
    async def scenario() -> None:
        cable = Cable()
        ground = await station(f"serial://{cable.devices[0]}?{FAST}")
        sender = await client(f"serial://{cable.devices[1]}?{FAST}")
        await sender.send(b"last words")
        async with asyncio.timeout(LIMIT):
            assert await ground.receive() == ("line", b"last words")
            waiting = asyncio.create_task(ground.receive())
            await asyncio.sleep(0)
            cable.unplug()
            for broken in (waiting, sender.receive(), ground.receive()):
                with pytest.raises(PinholeError, match="gone"):
                    await broken
            with pytest.raises(PinholeError, match="gone"):
                await sender.send(b"to nobody")
            with pytest.raises(PinholeError, match="gone"):
                await ground.send("line", b"to nobody")
            await sender.close()
            await ground.close()

    asyncio.run(scenario())


def test_a_stuck_line_holds_its_sender_and_nothing_else_and_resumes_in_step() -> None:
    async def scenario() -> None:
        cable = Cable(cut=True)
        ground = await station(f"serial://{cable.devices[0]}?{FAST}")
        sender = await client(f"serial://{cable.devices[1]}?{FAST}")
        sent = 0

        async def talk() -> None:
            nonlocal sent
            while True:
                await sender.send(bytes([sent % 250 + 1]) * 1200)
                sent += 1

        talking = asyncio.create_task(talk())
        async with asyncio.timeout(LIMIT):
            before = -1
            while sent != before or not sent:
                before = sent
                await asyncio.sleep(0.3)
            assert not talking.done()
            talking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await talking
            cable.join()
            await sender.send(b"after")
            got = b""
            while got != b"after":
                _, got = await ground.receive()
        await sender.close()
        await ground.close()
        cable.unplug()

    asyncio.run(scenario())


def test_a_device_has_one_user_and_is_free_after_closing() -> None:
    async def scenario() -> None:
        cable = Cable()
        url = f"serial://{cable.devices[0]}?{FAST}"
        first = await client(url)
        with pytest.raises(PinholeError, match="in use"):
            await client(url)
        await first.close()
        second = await client(url)
        await second.close()
        with pytest.raises(PinholeError, match="closed"):
            await second.send(b"late")
        cable.unplug()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("number", "complaint"), [(errno.EACCES, "dialout"), (errno.EBUSY, "in use"), (errno.ENXIO, "plugged in")]
)
def test_refusals_of_the_system_are_named(number: int, complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise serial.SerialException(number, os.strerror(number))

    monkeypatch.setattr(serial, "Serial", refuse)
    with pytest.raises(PinholeError, match=complaint):
        asyncio.run(client("serial:///dev/ttyUSB0?baud=9600"))


def test_what_is_no_device_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    for path, complaint in ((file, "no serial device"), (tmp_path / "nothing", "no such device")):
        with pytest.raises(PinholeError, match=complaint) as caught:
            asyncio.run(client(f"serial://{path}?baud=9600"))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parse", "url", "complaint"),
    [
        (parse_serial, "serial:///dev/ttyS0", r"\?baud=9600"),
        (parse_serial, "serial://host:80?baud=9600", "/dev/"),
        (parse_serial, "serial:///dev/ttyS0?baud=fast", "baud"),
        (parse_serial, "serial:///dev/ttyS0?baud=9600.5", "whole"),
        (parse_serial, "serial:///dev/ttyS0?baud=9600&flow=some", "flow"),
        (parse_serial, "serial:///dev/ttyS0?baud=9600&parity=M", "parity"),
        (parse_serial, "serial:///dev/ttyS0?baud=9600&half_duplex=2", "half_duplex"),
        (parse_serial, "serial:///dev/ttyS0?baud=9600&txdelay=100", "txdelay"),
        (parse_serial, "kiss:///dev/ttyS0?baud=9600&flow=xonxoff", "KISS"),
        (parse_serial, "kiss:///dev/ttyS0?baud=9600&port=16", "port"),
        (parse_serial, "kiss:///dev/ttyS0?baud=9600&txdelay=2560", "txdelay"),
        (parse_serial, "kiss:///dev/ttyS0?baud=9600&callsign=QUITELONG", "call sign"),
        (parse_serial, "kiss:///dev/ttyS0?baud=9600&destination=N0CALL", "callsign"),
        (parse_kiss_tcp, "kiss+tcp://host:0", "above 0"),
        (parse_kiss_tcp, "kiss+tcp://host?baud=9600", "baud"),
        (parse_kiss_tcp, "kiss+tcp://", "host"),
    ],
)
def test_wrong_urls_are_one_clear_error(parse: Callable[[str], object], url: str, complaint: str) -> None:
    with pytest.raises(PinholeError, match=complaint) as caught:
        parse(url)
    assert "\n" not in str(caught.value)


def test_packets_larger_than_frames_are_refused_at_opening() -> None:
    for url in ("kiss:///dev/ttyS0?baud=9600&mtu=256", "serial:///dev/ttyS0?baud=9600&mtu=256"):
        with pytest.raises(PinholeError, match="300 bytes do not fit into its frames of 256"):
            asyncio.run(client(url, packet_bytes=300))
        with pytest.raises(PinholeError, match="mtu"):
            asyncio.run(station(url, packet_bytes=300))


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_several_senders_share_a_kiss_channel_over_tcp(loss: float) -> None:
    async def scenario() -> None:
        tnc = FakeTnc(loss)
        await tnc.start()
        received: list[LayerReceived] = []
        ground = await station(f"{tnc.url}?callsign=N0CALL-1")
        pictures = {number: some_pictures(number, 5) for number in (31, 32)}
        async with driven(ground, received):
            jobs = []
            for number in pictures:
                session = SenderSession(brisk(rate=500_000.0), PlainSender(number, 1), now=time.monotonic())
                sender = await client(
                    f"{tnc.url}?txdelay=300&persistence=63&slottime=100&callsign=N0CALL-{number % 16}"
                )
                jobs.append(deliver(session, sender, pictures[number]))
            assert [len(events) for events in await asyncio.gather(*jobs)] == [20, 20]
        assert len(received) == 40
        for event in received:
            assert event.payload == pictures[event.sender][event.sequence][event.layer]
        assert sorted(tnc.commands) == sorted([b"\x01\x1e", b"\x02\x3f", b"\x03\x0a"] * 2)
        await tnc.stop()

    asyncio.run(scenario())


def test_a_modem_that_ends_or_is_not_there_is_an_error() -> None:
    async def scenario() -> None:
        tnc = FakeTnc()
        await tnc.start()
        sender = await client(f"{tnc.url}?fullduplex=1")
        async with asyncio.timeout(LIMIT):
            while not tnc.commands:
                await asyncio.sleep(0.01)
            await tnc.stop()
            with pytest.raises(PinholeError, match="ended"):
                await sender.receive()
            with pytest.raises(PinholeError, match="ended"):
                await sender.send(b"to nobody")
            await sender.close()
            with pytest.raises(PinholeError, match="cannot connect"):
                await client(tnc.url)
            with pytest.raises(PinholeError, match="cannot connect"):
                await client("kiss+tcp://no-such-host.invalid")

    asyncio.run(scenario())


def test_a_modem_that_reads_nothing_makes_its_sender_wait() -> None:
    async def scenario() -> None:
        async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(LIMIT)

        server = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1)
        sender = await client(f"kiss+tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        sent = 0

        async def talk() -> None:
            nonlocal sent
            while True:
                await sender.send(bytes(1200))
                sent += 1

        talking = asyncio.create_task(talk())
        async with asyncio.timeout(LIMIT):
            before = -1
            while sent != before:
                before = sent
                await asyncio.sleep(0.3)
        assert not talking.done()
        talking.cancel()
        await sender.close()
        server.close()

    asyncio.run(scenario())


def test_received_packets_are_bounded_in_bytes_and_the_rest_counted() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        for _ in range(1000):
            inbox.put(None, bytes(1000))
        kept = QUEUED_BYTES // (1000 + COST_OF_A_PACKET)
        assert inbox.dropped == 1000 - kept
        inbox.fail("the end")
        for _ in range(kept):
            assert len(await inbox.next()) == 1000
        with pytest.raises(PinholeError, match="the end"):
            await inbox.next()

    asyncio.run(scenario())


SIZES = st.lists(st.integers(1, 2000), min_size=1, max_size=40)


@given(sizes=SIZES, rate=st.floats(5, 500_000), depth=st.integers(10, 2000), pause=st.floats(0, 3))
def test_a_driver_never_holds_more_than_the_depth_and_one_frame(
    sizes: list[int], rate: float, depth: int, pause: float
) -> None:
    pace = LinePace(rate, depth)
    now, sent = 100.0, 0
    holds, looked = 0.0, now
    for size in sizes:
        ready = pace.ready_at(now)
        assert ready >= now
        now = ready
        holds = max(0.0, holds - (now - looked) * rate)
        looked = now
        assert holds <= depth * (1 + 1e-6) + 1e-3
        pace.written(size, now)
        holds += size
        sent += size
        assert pace.idle_at == pytest.approx(now + holds / rate)
        now += pause / len(sizes)
    # Nor does the line ever rest for it while there is something to send.
    assert pace.idle_at <= 100.0 + pause + sent / rate + 1e-6


def test_half_duplex_listens_while_others_talk_and_leaves_gaps() -> None:
    turns = Turns(quiet=0.1, talk=2.0, gap=0.5)
    assert turns.ready_at(0.0) == 0.0
    turns.heard(1.0)
    assert turns.ready_at(1.0) == pytest.approx(1.1)
    turns.talked(2.0, 3.0)
    assert turns.ready_at(3.0) == 3.0
    turns.talked(3.0, 4.0)
    assert turns.ready_at(4.0) == pytest.approx(4.5)
    turns.talked(4.5, 5.0)
    assert turns.ready_at(5.0) == 5.0, "a gap ends the stretch"
    turns.talked(5.0, 7.0)
    turns.heard(7.2)
    assert turns.ready_at(7.2) == pytest.approx(7.3), "another end has had its say"


@given(
    events=st.lists(st.tuples(st.booleans(), st.floats(0.01, 1.0)), max_size=60),
)
def test_half_duplex_never_talks_over_others_nor_for_long(events: list[tuple[bool, float]]) -> None:
    turns = Turns(quiet=0.1, talk=2.0, gap=0.5)
    now, heard, began, ended = 0.0, -10.0, None, -10.0
    for talks, span in events:
        if not talks:
            now += span
            heard = now
            began = None
            turns.heard(now)
            continue
        now = turns.ready_at(now)
        assert now >= heard + 0.1 - 1e-9
        if began is None or now >= ended + 0.5:
            began = now
        assert now - began <= 2.0 + 1.0, "at most one frame over the time to talk"
        turns.talked(now, now + span)
        now = ended = now + span
