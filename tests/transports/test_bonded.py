"""Several links of one sender: the choice on a virtual clock, and whole transfers over links that die and stick."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import PinholeError
from shared.link import LayerReceived, SenderSession
from shared.link.plain import PlainSender
from shared.transports import open_station
from shared.transports.base import ClientTransport
from shared.transports.bonding.choice import PROBE_FOR, LinkChoice, Mode
from shared.transports.bonding.client import BondedClient, Link
from shared.transports.memory import Faults, MemoryClient
from tests.transports.delivery import LIMIT, brisk, deliver, driven, some_pictures

PATIENCE = 30.0


def choice(
    mode: Mode, rates: list[float | None], *, simplex: bool = False, bursts: list[int] | None = None
) -> LinkChoice:
    made = LinkChoice(rates, bursts or [2400] * len(rates), mode=mode, patience=PATIENCE, simplex=simplex, now=0.0)
    for link in range(len(rates)):
        made.opened(link, 0.0)
    return made


def simulate(
    made: LinkChoice,
    until: float,
    *,
    begin: float = 0.0,
    size: int = 1200,
    priority: int = 1,
    takes: Callable[[int], float] = lambda link: 0.0,
    answers: Callable[[int, float], bool] = lambda link, at: True,
    pause: float = 0.0,
) -> list[tuple[float, int]]:
    """Send for a while on a virtual clock: when each packet was given to which link.

    ``takes`` are the seconds that a link is busy with a packet, ``answers`` whether the station is heard at once after.
    """
    now = begin
    given: list[tuple[float, int]] = []
    ends: list[tuple[float, int]] = []
    while now < until:
        for at, link in sorted(ends):
            if at <= now:
                ends.remove((at, link))
                made.finished(link, now)
                if answers(link, now):
                    made.heard(link, now)
        made.stalled(now)
        turn = made.choose(size, priority, now)
        if turn.link is not None:
            given.append((now, turn.link))
            ends.append((now + takes(turn.link), turn.link))
            now += pause
            continue
        wake = min([turn.at, made.next_stall(), *(at for at, _ in ends)])
        assert wake > now, "a choice that can be made at once is made"
        now = wake
    return given


@settings(max_examples=30)
@given(rates=st.lists(st.floats(10_000, 100_000), min_size=1, max_size=4), size=st.integers(50, 2400))
def test_a_bond_shares_in_proportion_to_rates_and_uses_all_of_each(rates: list[float], size: int) -> None:
    until = 200 * size * 8 / min(rates)
    given_ = simulate(choice(Mode.BOND, [*rates]), until, size=size)
    for link, rate in enumerate(rates):
        count = sum(1 for _, taken in given_ if taken == link)
        assert count == pytest.approx(until * rate / 8 / size, rel=0.01, abs=2400 / size + 2)


@given(loads=st.floats(0.1, 0.9), rates=st.lists(st.floats(5_000, 50_000), min_size=2, max_size=3))
def test_a_bond_that_is_not_full_shares_in_proportion_as_well(loads: float, rates: list[float]) -> None:
    pause = 600 * 8 / (loads * sum(rates))
    given_ = simulate(choice(Mode.BOND, [*rates]), 1000 * pause, size=600, pause=pause)
    for link, rate in enumerate(rates):
        share = sum(1 for _, taken in given_ if taken == link) / len(given_)
        assert share == pytest.approx(rate / sum(rates), abs=0.02)


@given(
    rates=st.lists(st.floats(1_000, 100_000), min_size=1, max_size=3),
    takes=st.lists(st.floats(0, 2), min_size=3, max_size=3),
    size=st.integers(300, 2400),
    mode=st.sampled_from(Mode),
)
def test_no_link_exceeds_its_rate(rates: list[float], takes: list[float], size: int, mode: Mode) -> None:
    given_ = simulate(choice(mode, [*rates]), 20.0, size=size, takes=lambda link: takes[link])
    for link, rate in enumerate(rates):
        times = [at for at, taken in given_ if taken == link]
        for number, at in enumerate(times):
            assert (number + 1) * size <= 2400 + rate / 8 * at + 1e-3


def test_a_stuck_link_holds_one_packet_and_nobody() -> None:
    made = choice(Mode.BOND, [9600.0, 9600.0])
    given_ = simulate(made, 100.0, takes=lambda link: 1e9 if link == 0 else 0.0)
    assert [link for _, link in given_].count(0) == 1
    assert [link for _, link in given_].count(1) > 95
    assert made.stalled(200.0) == [], "it was told already"


def test_base_layers_prefer_the_link_that_fails_less_and_then_the_one_heard_last() -> None:
    made = choice(Mode.BOND, [None, None, None])
    made.heard(1, 5.0)
    made.heard(2, 4.0)
    assert made.choose(100, 0, 6.0).link == 1
    made.finished(1, 6.0)
    made.failed(1, 7.0)
    made.opened(1, 8.0)
    assert made.choose(100, 0, 8.0).link == 2
    assert made.choose(100, 0, 8.0).link == 0, "a link that failed is better than none"
    assert made.choose(100, 0, 8.0).link == 1
    assert made.choose(100, 0, 8.0).link is None


def test_fallback_leaves_a_silent_link_after_its_patience_tries_it_ever_less_often_and_returns() -> None:
    made = choice(Mode.FALLBACK, [None, None])
    away, back = 100.0, 700.0
    given_ = simulate(
        made,
        1000.0,
        pause=0.1,
        answers=lambda link, at: link == 1 or not away <= at < back,
    )
    assert all(link == 0 for at, link in given_ if at < away + PATIENCE - 1)
    trials: list[float] = []
    for at, link in given_:
        if away + PATIENCE + 1 < at < back and link == 0 and (not trials or at > trials[-1] + PROBE_FOR + 0.2):
            trials.append(at)
    gaps = [later - earlier for earlier, later in pairwise(trials)]
    assert trials[0] == pytest.approx(away + PATIENCE + 5, abs=1)
    assert gaps == pytest.approx([11, 21, 41, *[61] * (len(gaps) - 3)], abs=1.0)
    lost = [at for at, link in given_ if away + PATIENCE + 1 < at < back and link == 0]
    assert len(lost) < 0.03 * (back - away) / 0.1
    returned = next(at for at, link in given_ if at > back and link == 0)
    assert returned <= back + 62
    assert all(link == 0 for at, link in given_ if at > returned)


def test_fallback_on_simplex_links_minds_failures_alone() -> None:
    made = choice(Mode.FALLBACK, [None, None], simplex=True)
    silent = simulate(made, 200.0, pause=1.0, answers=lambda link, at: False)
    assert {link for _, link in silent} == {0}
    made.failed(0, 200.0)
    assert {link for _, link in simulate(made, 300.0, begin=200.0, pause=1.0, answers=lambda *_: False)} == {1}
    made.opened(0, 300.0)
    assert {link for _, link in simulate(made, 400.0, begin=300.0, pause=1.0, answers=lambda *_: False)} == {0}


def test_fallback_leaves_a_failed_link_at_once_and_trusts_it_when_it_is_heard() -> None:
    made = choice(Mode.FALLBACK, [None, None])
    simulate(made, 1.0, pause=0.1)
    made.failed(0, 1.0)
    assert made.choose(100, 1, 1.0) == (1, float("inf"))
    made.finished(1, 1.0)
    made.opened(0, 2.0)
    assert made.choose(100, 1, 2.0).link == 1, "open is not yet heard"
    made.finished(1, 2.0)
    made.heard(0, 2.5)
    assert made.choose(100, 1, 3.0).link == 0


def test_fallback_takes_turns_while_all_are_silent_and_leaves_a_stuck_link() -> None:
    made = choice(Mode.FALLBACK, [None, None])
    given_ = simulate(made, 300.0, pause=1.0, answers=lambda link, at: False)
    late = [link for at, link in given_ if at > 3 * PATIENCE]
    assert late.count(0) == pytest.approx(late.count(1), abs=2)
    stuck = choice(Mode.FALLBACK, [None, None])
    given_ = simulate(stuck, 100.0, pause=1.0, takes=lambda link: 0.0 if link else 1e9)
    assert [at for at, link in given_ if link == 0] == [0.0]
    assert next(at for at, link in given_ if link == 1) == PATIENCE


@given(
    events=st.lists(
        st.tuples(st.sampled_from(["opened", "failed", "finished", "heard", "choose"]), st.integers(0, 2)), max_size=80
    ),
    steps=st.lists(st.floats(0, 40), min_size=80, max_size=80),
    mode=st.sampled_from(Mode),
    simplex=st.booleans(),
)
def test_only_open_idle_links_are_ever_chosen_and_one_such_is_found(
    events: list[tuple[str, int]], steps: list[float], mode: Mode, simplex: bool
) -> None:
    made = LinkChoice([None] * 3, [2400] * 3, mode=mode, patience=PATIENCE, simplex=simplex, now=0.0)
    up: set[int] = set()
    busy: set[int] = set()
    now = 0.0
    for (event, link), step in zip(events, steps, strict=False):
        now += step
        made.stalled(now)
        if event == "opened" and link not in up:
            up.add(link)
            made.opened(link, now)
        elif event == "failed":
            up.discard(link)
            busy.discard(link)
            made.failed(link, now)
        elif event == "finished" and link in busy:
            busy.discard(link)
            made.finished(link, now)
        elif event == "heard" and link in up:
            made.heard(link, now)
        elif event == "choose":
            turn = made.choose(100, link % 2, now)
            if turn.link is not None:
                assert turn.link in up - busy
                busy.add(turn.link)
            elif mode is Mode.BOND:
                assert not up - busy
            else:
                # The one that carries is busy, and not yet for long enough to do without it.
                assert not up - busy or made.carrier in busy


@dataclass
class Wire:
    """A link to a memory station that can die, stick and return."""

    name: str
    loss: float = 0.0
    rate: float | None = None
    dead: bool = False
    stuck: bool = False
    sent: int = 0
    opened: int = 0
    died: asyncio.Event = field(default_factory=asyncio.Event)

    def link(self) -> Link:
        return Link(self.name, self._open, self.rate)

    def die(self) -> None:
        self.dead = True
        self.died.set()

    def live(self) -> None:
        self.dead = False
        self.died.clear()

    async def _open(self) -> ClientTransport:
        if self.dead:
            raise PinholeError(f"{self.name} is dead")
        self.opened += 1
        return WireClient(self, MemoryClient("station", Faults(loss=self.loss, seed=1), Faults(loss=self.loss, seed=2)))


class WireClient:
    def __init__(self, wire: Wire, memory: MemoryClient) -> None:
        self._wire = wire
        self._memory = memory

    async def send(self, packet: bytes, priority: int = 0) -> None:
        if self._wire.dead:
            raise OSError(5, "the wire is dead")
        if self._wire.stuck:
            await asyncio.Event().wait()
        self._wire.sent += 1
        await self._memory.send(packet, priority)

    async def receive(self) -> bytes:
        packet = asyncio.create_task(self._memory.receive())
        death = asyncio.create_task(self._wire.died.wait())
        try:
            await asyncio.wait([packet, death], return_when=asyncio.FIRST_COMPLETED)
            if packet.done():
                return packet.result()
            raise OSError(5, "the wire is dead")
        finally:
            packet.cancel()
            death.cancel()

    async def close(self) -> None:
        await self._memory.close()


async def transfer(
    client: BondedClient, pictures: int, half_way: Callable[[], None] = lambda: None, *, simplex: bool = False
) -> list[LayerReceived]:
    """Carry pictures to a memory station; ``half_way`` is called when half of the layers have arrived."""
    received: list[LayerReceived] = []
    wanted = some_pictures(8, pictures)
    async with driven(await open_station("memory://station"), received), asyncio.timeout(LIMIT):
        session = SenderSession(brisk(rate=800_000.0, simplex=simplex), PlainSender(3, 1), now=time.monotonic())
        job = asyncio.create_task(deliver(session, client, wanted))
        while len(received) < 2 * pictures:
            await asyncio.sleep(0.001)
        half_way()
        await job
    assert {(event.sequence, event.layer) for event in received} == {
        (sequence, layer) for sequence in wanted for layer in range(4)
    }
    return received


@pytest.mark.parametrize("mode", [Mode.BOND, Mode.FALLBACK])
@pytest.mark.parametrize("way", ["dies", "sticks"])
def test_everything_arrives_though_a_link_is_lost_in_mid_transfer(mode: Mode, way: str) -> None:
    async def scenario() -> None:
        first, second = Wire("first", loss=0.05), Wire("second", loss=0.1)
        lines: list[str] = []
        client = await BondedClient.open([first.link(), second.link()], mode, patience=0.5, report=lines.append)

        def lose() -> None:
            assert first.sent > 0
            if way == "dies":
                first.die()
            else:
                first.stuck = True

        await transfer(client, 20, lose)
        assert second.sent > 10
        assert client.packets[1] == second.sent
        about_first = [line for line in lines if line.startswith("first") and "carries" not in line]
        # In a bond nobody waits for a stuck link, so all may be over before it counts as such.
        assert len(about_first) == 1 or (mode is Mode.BOND and way == "sticks" and not about_first), lines
        assert all(("failed" if way == "dies" else "stuck") in line for line in about_first)

    asyncio.run(scenario())


def test_fallback_returns_to_the_better_link() -> None:
    async def scenario() -> None:
        first, second = Wire("first"), Wire("second")
        lines: list[str] = []
        client = await BondedClient.open(
            [first.link(), second.link()], Mode.FALLBACK, simplex=True, report=lines.append
        )
        station = await open_station("memory://station")
        async with asyncio.timeout(LIMIT):
            await client.send(b"one")
            first.die()
            while len(lines) < 2:
                await asyncio.sleep(0.01)
            await client.send(b"two")
            while second.sent < 1:
                await asyncio.sleep(0.01)
            first.live()
            while first.opened < 2:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            await client.send(b"three")
            while first.sent < 2:
                await asyncio.sleep(0.01)
        await client.close()
        await station.close()
        assert second.sent == 1
        told = [line.split(" ")[0] + " " + ("carries" if "carries" in line else line.split(" ")[1]) for line in lines]
        assert told == ["first: carries", "first: failed", "second: carries", "first: open", "first: carries"]

    asyncio.run(scenario())


def test_a_bond_of_a_slow_and_a_fast_link_uses_both() -> None:
    async def scenario() -> None:
        slow, fast = Wire("slow", rate=100_000.0), Wire("fast", rate=400_000.0)
        client = await BondedClient.open([slow.link(), fast.link()], Mode.BOND)
        await transfer(client, 60)
        assert 0.1 < slow.sent / (slow.sent + fast.sent) < 0.35

    asyncio.run(scenario())


def test_opening_needs_one_link_and_says_why_another_cannot_be_had() -> None:
    async def scenario() -> None:
        good, bad = Wire("good"), Wire("bad", dead=True)
        lines: list[str] = []
        client = await BondedClient.open([bad.link(), good.link()], Mode.BOND, report=lines.append)
        async with asyncio.timeout(LIMIT):
            await client.send(b"x")
            while not good.sent:
                await asyncio.sleep(0.01)
        await client.close()
        await client.close()
        assert lines == ["bad: failed (bad is dead); opening it again for ever"]
        with pytest.raises(PinholeError, match="closed"):
            await client.send(b"x")
        with pytest.raises(PinholeError, match="closed"):
            await client.receive()
        with pytest.raises(PinholeError, match="at least one"):
            await BondedClient.open([], Mode.BOND)

    asyncio.run(scenario())


def test_a_send_waits_while_no_link_is_left_and_can_be_given_up() -> None:
    async def scenario() -> None:
        wire = Wire("only", stuck=True)
        client = await BondedClient.open([wire.link()], Mode.BOND)
        await client.send(b"held by the wire")
        waiting = asyncio.create_task(client.send(b"waits"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert not client._waiting
        other = asyncio.create_task(client.send(b"waits until the end"))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(PinholeError, match="closed"):
            await other

    asyncio.run(scenario())


def test_a_defect_of_a_link_is_not_taken_for_an_outage() -> None:
    async def scenario() -> None:
        async def broken() -> ClientTransport:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await BondedClient.open([Link("broken", broken)], Mode.BOND)
        client = BondedClient([Link("broken", broken), Wire("good").link()], Mode.BOND)
        with pytest.raises(ZeroDivisionError):
            await client.receive()
        with pytest.raises(ZeroDivisionError):
            await client.send(b"x")
        await client.close()

    asyncio.run(scenario())


def test_a_packet_that_no_link_takes_is_refused() -> None:
    async def scenario() -> None:
        client = await BondedClient.open([Wire("narrow", rate=9600.0).link()], Mode.BOND)
        with pytest.raises(PinholeError, match="2401"):
            await client.send(bytes(2401))
        await client.close()

    asyncio.run(scenario())
