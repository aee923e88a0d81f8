"""Goodput and latency of a session on the virtual clock; ``benchmarks.goodput`` prints them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from shared.link.config import LinkConfig
from shared.link.events import LayerAcknowledged, LayerReceived, SenderEvent
from sim.channel import ChannelConfig
from sim.link import SimulatedLink, Submission
from sim.loss import GilbertElliott

LAYER_BYTES = (700, 1700, 2000, 1600)
"""Mean layers of a 6 KB picture."""

_SPREAD = 0.3
_WARM_UP = 60.0
_BACKLOG_SECONDS = 30.0
"""Of the line: what waits at the sender, so that it never runs dry."""

_LOAD = 0.5
"""Share of the capacity that pictures ask for where latency is measured."""

_FEED_EVERY = 0.5
_AFTERWARDS = 600.0


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        way: what the session does, for the table.
        link: settings of the session without rate.
        loss: mean share of packets lost, each way.
        burst: mean number lost in a row; 1 stands for losses independent of each other.
        rate: capacity in bit/s over whole link packets.
        packets: length of the measured window in full packets at that rate.
        latency: one way, seconds.
        sealed: whether packets are sealed.
        seed: of all chance.
    """

    way: str
    link: LinkConfig
    loss: float
    burst: float
    rate: float
    packets: int
    latency: float
    sealed: bool
    seed: int

    @property
    def channel(self) -> ChannelConfig:
        """Each way."""
        # Losses independent of each other come in runs of 1 / (1 - loss).
        loss = GilbertElliott.from_mean(self.loss, max(self.burst, 1.0 / (1.0 - self.loss)))
        return ChannelConfig(rate=self.rate, latency=self.latency, loss=loss)

    @property
    def window(self) -> float:
        """Seconds that are measured."""
        return self.packets * self.link.packet_bytes * 8 / self.rate


@dataclass(frozen=True)
class Goodput:
    """What a session achieved.

    Attributes:
        case: under which circumstances.
        loss: share of the packets that the channel lost within the window.
        used: bytes of all packets sent within the window, as a share of the capacity.
        goodput: bytes of layers acknowledged within the window, as a share of the capacity.
        spurious: bytes that arrived and brought nothing new, as a share of those that arrived.
        median: seconds from submission until the last layer of a picture is at the station, at half load.
        late: 95th percentile of it.
        unfinished: pictures of the latency run that did not arrive.
    """

    case: Case
    loss: float
    used: float
    goodput: float
    spurious: float
    median: float
    late: float
    unfinished: int

    @property
    def efficiency(self) -> float:
        """Goodput as a share of what the channel let through."""
        return self.goodput / (1.0 - self.loss)


@dataclass
class _Pictures:
    """An endless row of pictures."""

    seed: int
    sequence: int = 0
    _generator: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._generator = np.random.default_rng([self.seed, 1])

    def next(self) -> tuple[int, list[bytes]]:
        sigma = math.sqrt(math.log1p(_SPREAD**2))
        factor = math.exp(sigma * float(self._generator.standard_normal()) - sigma**2 / 2)
        self.sequence += 1
        return self.sequence, [self._generator.bytes(max(1, round(size * factor))) for size in LAYER_BYTES]


def measure(case: Case) -> Goodput:
    """Run a case: once with all the link can carry, once at half load for the latency."""
    loss, used, goodput, spurious = _saturated(case)
    median, late, unfinished = _half_load(case)
    return Goodput(case, loss, used, goodput, spurious, median, late, unfinished)


def _link(case: Case) -> LinkConfig:
    return replace(case.link, rate=case.rate)


def _saturated(case: Case) -> tuple[float, float, float, float]:
    """Shares: loss, use of the capacity, goodput, spurious bytes."""
    sizes: dict[tuple[int, int], int] = {}
    start, end = _WARM_UP, _WARM_UP + case.window
    acknowledged = 0

    def note(now: float, sender: int, event: SenderEvent) -> None:
        nonlocal acknowledged
        if isinstance(event, LayerAcknowledged) and start <= now < end:
            acknowledged += sizes[event.sequence, event.layer]

    simulated = SimulatedLink(
        _link(case), case.channel, case.channel, seed=case.seed, sealed=case.sealed, on_acknowledged=note
    )
    pictures = _Pictures(case.seed)
    session, channel = simulated.senders[0], simulated.forward[0]

    def feed() -> None:
        missing = _BACKLOG_SECONDS * case.rate / 8 - session.backlog_bytes
        while missing > 0:
            sequence, layers = pictures.next()
            sizes.update(((sequence, layer), len(payload)) for layer, payload in enumerate(layers))
            missing -= sum(map(len, layers))
            simulated.submit(Submission(simulated.clock.now, 0, sequence, layers))
        simulated.clock.schedule(simulated.clock.now + _FEED_EVERY, feed)

    def read() -> tuple[int, int, int, int, int]:
        at_station = simulated.station.totals
        return (
            channel.statistics.offered - channel.statistics.queue_dropped,
            channel.statistics.lost,
            session.statistics.bytes_sent,
            at_station.bytes_received,
            at_station.bytes_spurious,
        )

    feed()
    simulated.run_until(start)
    before = read()
    simulated.run_until(end)
    sent, lost, sent_bytes, received, spurious = (b - a for a, b in zip(before, read(), strict=True))
    capacity = case.rate / 8 * case.window
    return lost / sent, sent_bytes / capacity, acknowledged / capacity, spurious / received


def _half_load(case: Case) -> tuple[float, float, int]:
    """Median and 95th percentile of the seconds to a whole picture at the station, and pictures that did not arrive."""
    pictures = _Pictures(case.seed + 1)
    interval = sum(LAYER_BYTES) * 8 / (_LOAD * case.rate)
    count = round(case.window / interval)
    wanting: dict[int, int] = {}
    submitted: dict[int, float] = {}
    took: list[float] = []

    def note(now: float, event: LayerReceived) -> None:
        wanting[event.sequence] -= 1
        if not wanting[event.sequence]:
            took.append(now - submitted[event.sequence])

    simulated = SimulatedLink(
        _link(case), case.channel, case.channel, seed=case.seed, sealed=case.sealed, on_received=note
    )
    for number in range(count):
        sequence, layers = pictures.next()
        submitted[sequence] = number * interval
        wanting[sequence] = len(layers)
        simulated.submit(Submission(submitted[sequence], 0, sequence, layers))
    simulated.run_until(count * interval + _AFTERWARDS)
    return percentile(took, 0.5), percentile(took, 0.95), count - len(took)


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank; NaN of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
