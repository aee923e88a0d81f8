"""A seeded one-way channel on a virtual clock.

A packet waits in a bounded queue, is sent out at the line rate, travels for the latency and a random jitter, and may
on its way be lost (Gilbert-Elliott), damaged or doubled. Loss comes after the line: what is lost has cost its time.
"""

from dataclasses import dataclass, field

import numpy as np

from shared.errors import PinholeError
from sim.loss import GilbertElliott


@dataclass(frozen=True)
class ChannelConfig:
    """What a channel does to packets.

    Attributes:
        rate: line rate in bit/s; None sends a packet in no time.
        latency: seconds from the end of a packet at the sender to its end at the receiver.
        jitter: largest additional delay in seconds, drawn uniformly for each packet.
        keep_order: packets wait for those before them; False lets jitter reorder them.
        queue_bytes: largest backlog in front of the line in bytes; a packet that does not fit is dropped.
        overhead_bytes: bytes that lower layers add to each packet on the line (28 for UDP over IPv4).
        loss: the loss model.
        duplication: probability that a delivered packet arrives twice, 0 to 1.
        corruption: probability that a delivered packet has flipped bits, 0 to 1.
    """

    rate: float | None = None
    latency: float = 0.0
    jitter: float = 0.0
    keep_order: bool = True
    queue_bytes: int = 65536
    overhead_bytes: int = 0
    loss: GilbertElliott = field(default_factory=lambda: GilbertElliott(p=0.0, r=1.0))
    duplication: float = 0.0
    corruption: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            PinholeError: if a value is out of range.
        """
        if self.rate is not None and not self.rate > 0.0:
            raise PinholeError(f"channel rate is {self.rate}; give bit/s above 0, or leave it out for no limit")
        for name in ("latency", "jitter", "queue_bytes", "overhead_bytes"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise PinholeError(f"channel {name} is {getattr(self, name)}; give 0 or more")
        for name in ("duplication", "corruption"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise PinholeError(f"channel {name} is {getattr(self, name)}; give a probability from 0 to 1")


@dataclass
class ChannelStatistics:
    """What happened on a channel, in packets where nothing else is said.

    Attributes:
        offered: handed to the channel.
        offered_bytes: their bytes, without overhead.
        line_bytes: bytes that went over the line, overhead included.
        queue_dropped: dropped because the queue was full.
        lost: lost on the way.
        bursts: runs of lost packets.
        longest_burst: longest run of lost packets.
        damaged: delivered with flipped bits (a doubled packet's second copy not counted).
        duplicated: delivered twice.
        reordered: arrive before a packet that was sent earlier.
        delivered: arrivals, second copies included.
        delivered_bytes: bytes of the arrivals, without overhead.
        busy_seconds: time during which the line was sending.
    """

    offered: int = 0
    offered_bytes: int = 0
    line_bytes: int = 0
    queue_dropped: int = 0
    lost: int = 0
    bursts: int = 0
    longest_burst: int = 0
    damaged: int = 0
    duplicated: int = 0
    reordered: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    busy_seconds: float = 0.0

    @property
    def loss_rate(self) -> float:
        """Share of the packets that went over the line and were lost."""
        sent = self.offered - self.queue_dropped
        return self.lost / sent if sent else 0.0

    @property
    def mean_burst(self) -> float:
        """Mean number of packets lost in a row."""
        return self.lost / self.bursts if self.bursts else 0.0


@dataclass(frozen=True)
class Arrival:
    """A packet that comes out of the channel.

    Attributes:
        time: virtual seconds.
        data: the packet's bytes, damaged or not.
    """

    time: float
    data: bytes


class Channel:
    """One direction of a link."""

    def __init__(self, config: ChannelConfig, generator: np.random.Generator) -> None:
        """Start with an empty queue and the loss model in its steady state.

        Args:
            config: what the channel does.
            generator: source of all chance; the same generator state and the same packets give the same arrivals.
        """
        self.config = config
        self.statistics = ChannelStatistics()
        self._generator = generator
        self._flips = generator.spawn(1)[0]
        self._free_at = float("-inf")
        self._latest = float("-inf")
        self._bad = bool(generator.random() < config.loss.bad_share)
        self._run = 0

    def send(self, packet: bytes, now: float) -> list[Arrival]:
        """Hand a packet to the channel; return where and when it comes out (nothing, one or two arrivals).

        Args:
            packet: bytes of the packet.
            now: virtual seconds, not before that of the call before.
        """
        config, statistics = self.config, self.statistics
        statistics.offered += 1
        statistics.offered_bytes += len(packet)
        size = len(packet) + config.overhead_bytes
        if self.queued_bytes(now) + size > config.queue_bytes and self._free_at > now:
            statistics.queue_dropped += 1
            return []
        duration = 0.0 if config.rate is None else size * 8.0 / config.rate
        self._free_at = max(self._free_at, now) + duration
        statistics.line_bytes += size
        statistics.busy_seconds += duration

        # Every packet draws the same numbers whatever becomes of it, so that changing one probability leaves the
        # fate of the other packets as it was: scenarios stay comparable.
        lost, leave, damaged, doubled, delay, second_delay = (float(x) for x in self._generator.random(6))
        if self._is_lost(lost, leave):
            return []
        data = packet
        if damaged < config.corruption and packet:
            data = self._flip_bits(packet)
            statistics.damaged += 1
        arrivals = [self._arrive(data, self._free_at + config.latency + config.jitter * delay)]
        if doubled < config.duplication:
            statistics.duplicated += 1
            arrivals.append(self._arrive(data, arrivals[0].time + config.jitter * second_delay))
        return arrivals

    def queued_bytes(self, now: float) -> float:
        """Return the bytes that wait for the line or are on it, overhead included."""
        if self.config.rate is None:
            return 0.0
        return max(0.0, self._free_at - now) * self.config.rate / 8.0

    def _is_lost(self, chance: float, leave: float) -> bool:
        model = self.config.loss
        lost = chance >= (model.h if self._bad else model.k)
        if lost:
            self._run += 1
            self.statistics.lost += 1
            self.statistics.bursts += self._run == 1
            self.statistics.longest_burst = max(self.statistics.longest_burst, self._run)
        else:
            self._run = 0
        if leave < (model.r if self._bad else model.p):
            self._bad = not self._bad
        return lost

    def _flip_bits(self, packet: bytes) -> bytes:
        bits = len(packet) * 8
        # A few neighbouring bits: what a radio that passes a damaged frame on delivers.
        first = int(self._flips.integers(bits))
        count = int(self._flips.integers(1, 17))
        damaged = bytearray(packet)
        damaged[first // 8] ^= 1 << first % 8
        for bit in range(first + 1, min(first + count, bits)):
            if self._flips.random() < 0.5:
                damaged[bit // 8] ^= 1 << bit % 8
        return bytes(damaged)

    def _arrive(self, data: bytes, time: float) -> Arrival:
        if self.config.keep_order:
            time = max(time, self._latest)
        elif time < self._latest:
            self.statistics.reordered += 1
        self._latest = max(self._latest, time)
        self.statistics.delivered += 1
        self.statistics.delivered_bytes += len(data)
        return Arrival(time, data)
