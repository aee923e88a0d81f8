"""Does a steady camera's backlog stay bounded? Rate control with the cost of a byte guessed, and with it measured.

    python -m benchmarks.steady_camera [--pictures 600] [--seed 1] [--jobs N]

A camera takes a picture at even intervals. Each is made of just the bytes that rate control asks for and crosses the
link of the real sessions, sealed, on the virtual clock; losses are alike on both ways. Settings are those of ``pinhole
send`` without options but the table's. Latency is from taking a picture until its last layer is at the station, the
median over the second and over the last quarter of the pictures; their size is that in the last. The cost is all bytes
on the wire over all bytes of layers, in the run with the cost measured; measured is the mean and the standard deviation
of what rate control went by in the last three quarters.
"""

import argparse
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from math import inf
from statistics import fmean, median, stdev

import numpy as np

from sender.link_command import AUTO, link_config
from sender.rate import ArrivalRate, RatePolicy, byte_target
from sender.send_command import rate_policy
from sender.wire_cost import WireCost
from shared.link.config import LinkConfig
from shared.link.events import LayerReceived, SenderEvent
from sim.channel import Arrival, Channel, ChannelConfig
from sim.link import SimulatedLink, Submission
from sim.loss import GilbertElliott

LAYER_SHARES = (0.12, 0.28, 0.33, 0.27)
"""Of a picture's bytes."""

_IN_SESSION = 20
"""Pictures that the node gives its session at once; the others wait in the spool."""


@dataclass(frozen=True)
class Case:
    """One camera and its link.

    Attributes:
        rate: budget, and capacity of the line, in bit/s.
        interval: seconds between two pictures.
        loss: mean share of packets lost, each way.
        burst: mean number lost in a row; 1 stands for losses independent of each other.
        one_way: seconds from end to end.
        packet_bytes: largest packet.
        parity: as the command takes it.
        pictures: number of pictures.
        outage: from when to when all is lost, in seconds.
        seed: of all chance.
    """

    rate: float = 9600.0
    interval: float = 5.0
    loss: float = 0.2
    burst: float = 3.0
    one_way: float = 0.15
    packet_bytes: int = 1200
    parity: str = AUTO
    pictures: int = 600
    outage: tuple[float, float] = (0.0, 0.0)
    seed: int = 1

    @property
    def link(self) -> LinkConfig:
        """Settings of the session."""
        return link_config(
            rate=self.rate,
            packet_bytes=self.packet_bytes,
            parity=self.parity,
            interleave=4,
            simplex=False,
            repeats=1,
        )

    @property
    def policy(self) -> RatePolicy:
        """Settings of rate control, the guess of the cost among them."""
        return rate_policy(self.link, latency=None, quality=None, max_bytes=None)


@dataclass
class Run:
    """What became of the pictures, each in the order of taking.

    Attributes:
        factors: cost that rate control went by.
        sizes: bytes of layers.
        backlog: bytes of layers not acknowledged when it was taken.
        latencies: seconds until it was whole at the station; infinity if it was not after twice the time of the run.
        cost: bytes on the wire per byte of layers over the whole run.
    """

    factors: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    backlog: list[int] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    cost: float = 1.0

    def quarter(self, number: int) -> slice:
        """Pictures of a quarter of the run, 0 to 3."""
        count = len(self.sizes)
        return slice(number * count // 4, (number + 1) * count // 4)


class _Fading(Channel):
    """A channel with an outage."""

    def __init__(self, config: ChannelConfig, outage: tuple[float, float], generator: np.random.Generator) -> None:
        super().__init__(config, generator)
        self._outage = outage

    def send(self, data: bytes, now: float) -> list[Arrival]:
        arrivals = super().send(data, now)
        return [] if self._outage[0] <= now < self._outage[1] else arrivals


class _Camera:
    """Takes pictures, and knows what became of them."""

    def __init__(self, case: Case, *, measure: bool) -> None:
        # Losses independent of each other come in runs of 1 / (1 - loss).
        loss = GilbertElliott.from_mean(case.loss, max(case.burst, 1.0 / (1.0 - case.loss)))
        channel = ChannelConfig(rate=case.rate, latency=case.one_way, loss=loss)
        self._case = case
        self._link = SimulatedLink(
            case.link,
            channel,
            channel,
            seed=case.seed,
            sealed=True,
            on_received=self._received,
            on_acknowledged=self._acknowledged,
        )
        chance = [np.random.default_rng([case.seed, way]) for way in (0, 1)]
        self._link.forward = [_Fading(channel, case.outage, chance[0])]
        self._link.back = [_Fading(channel, case.outage, chance[1])]
        self._policy = case.policy
        self._cost = WireCost.expected(self._policy.overhead)
        self._measure = measure
        self._arrivals = ArrivalRate(0.0)
        self._chance = np.random.default_rng([case.seed, 2])
        self._spool: deque[tuple[int, list[bytes]]] = deque()
        self._missing: dict[int, int] = {}
        self._unanswered: dict[int, int] = {}
        self._whole: dict[int, float] = {}
        self._waiting = 0
        self._run = Run()

    def run(self) -> Run:
        """Take all the pictures, and wait for them."""
        clock, case = self._link.clock, self._case
        for number in range(case.pictures):
            clock.schedule(number * case.interval, self._take)
        clock.run_until(2 * case.pictures * case.interval, lambda: len(self._whole) == case.pictures)
        run, statistics = self._run, self._link.senders[0].statistics
        run.latencies = [self._whole.get(number, inf) - number * case.interval for number in range(case.pictures)]
        run.cost = statistics.wire_bytes_settled / statistics.payload_bytes_settled
        return run

    def _take(self) -> None:
        number = len(self._run.sizes)
        if number:
            self._arrivals = self._arrivals.after([number], self._link.clock.now)
        statistics = self._link.senders[0].statistics
        self._cost = self._cost.after(
            statistics.wire_bytes_settled,
            statistics.payload_bytes_settled,
            picture=self._run.sizes[-1] if number else 0,
        )
        factor = self._cost.factor if self._measure else self._policy.overhead
        policy = replace(self._policy, overhead=factor)
        target = byte_target(policy, backlog=self._waiting, waiting=1, interval=self._arrivals.interval)
        layers = [self._chance.bytes(max(1, int(share * (target or 1)))) for share in LAYER_SHARES]
        size = sum(map(len, layers))
        self._run.factors.append(factor)
        self._run.sizes.append(size)
        self._run.backlog.append(self._waiting)
        self._waiting += size
        self._spool.append((number, layers))
        self._feed()

    def _feed(self) -> None:
        while self._spool and len(self._unanswered) < _IN_SESSION:
            number, layers = self._spool.popleft()
            self._missing[number] = self._unanswered[number] = len(layers)
            self._link.submit(Submission(self._link.clock.now, 0, number, layers))

    def _received(self, now: float, event: LayerReceived) -> None:
        self._missing[event.sequence] -= 1
        if not self._missing[event.sequence]:
            self._whole[event.sequence] = now

    def _acknowledged(self, now: float, sender: int, event: SenderEvent) -> None:
        self._unanswered[event.sequence] -= 1
        if not self._unanswered[event.sequence]:
            del self._unanswered[event.sequence]
            self._waiting -= self._run.sizes[event.sequence]
            self._feed()


def run_camera(case: Case, *, measure: bool) -> Run:
    """Take the pictures of a case; without ``measure`` rate control goes by the guess to the end."""
    return _Camera(case, measure=measure).run()


CASES = (
    *(Case(rate=64_000.0, interval=1.0, loss=loss) for loss in (0.0, 0.05, 0.1, 0.2)),
    Case(rate=64_000.0, interval=1.0, loss=0.2, burst=8.0),
    Case(rate=64_000.0, interval=1.0, one_way=5.0),
    Case(rate=64_000.0, interval=1.0, packet_bytes=200),
    Case(loss=0.0),
    Case(),
    Case(one_way=5.0),
    Case(loss=0.0, parity="0.1"),
    Case(parity="0.1"),
)


def table(cases: Sequence[Case], guessed: Sequence[Run], measured: Sequence[Run]) -> list[str]:
    """Rows of a Markdown table."""
    rows = [
        "| link, a picture every | packet | parity | round trip | loss / burst | cost | guess | picture | latency | "
        "measured | picture | latency |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for case, old, new in zip(cases, guessed, measured, strict=True):
        settled = new.factors[new.quarter(0).stop :]
        loss = f"{100 * case.loss:g} %" + (f" / {case.burst:g}" if case.loss else "")
        cells = [
            f"{case.rate / 1000:g} kbit/s, {case.interval:g} s",
            f"{case.packet_bytes}",
            case.parity,
            f"{2 * case.one_way:g} s",
            loss,
            f"{new.cost:.2f}",
            f"{case.policy.overhead:.2f}",
            *_fate(old),
            f"{fmean(settled):.2f} ± {stdev(settled):.2f}",
            *_fate(new),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _fate(run: Run) -> tuple[str, str]:
    early, late = (median(run.latencies[run.quarter(number)]) for number in (1, 3))
    return f"{fmean(run.sizes[run.quarter(3)]):.0f} B", f"{early:.1f}, {late:.1f} s"


def _measure(case: Case) -> tuple[Run, Run]:
    return run_camera(case, measure=False), run_camera(case, measure=True)


def main() -> None:
    """Run all cases, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=600, help="of each camera")
    parser.add_argument("--seed", type=int, default=1, help="of all chance")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args()
    cases = [replace(case, pictures=options.pictures, seed=options.seed) for case in CASES]
    with ProcessPoolExecutor(options.jobs) as pool:
        guessed, measured = zip(*pool.map(_measure, cases), strict=True)
    print("\n".join(table(cases, guessed, measured)))


if __name__ == "__main__":
    main()
