"""Senders and a station on a virtual clock, with channels between them.

The sessions are those of the real nodes, driven through nothing but their public contract: packets in, packets out,
timers, events.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from shared.errors import PinholeError
from shared.link.config import LinkConfig
from shared.link.events import LayerAcknowledged, LayerReceived, LayerSent, NumberTaken
from shared.link.sender_session import SenderSession
from shared.link.station import Station
from sim.channel import Arrival, Channel, ChannelConfig
from sim.clock import VirtualClock
from sim.sealing import envelopes

# A session whose timer stands still would hold the virtual clock for ever.
_LARGEST_WAKES_AT_ONCE = 10_000


@dataclass(frozen=True)
class Submission:
    """A picture that a sender hands to its session.

    Attributes:
        time: virtual seconds.
        sender: index of the sender, from 0.
        sequence: of the picture, per sender.
        layers: its layers, the base first.
    """

    time: float
    sender: int
    sequence: int
    layers: Sequence[bytes]


class _Wake:
    """One endpoint's timer on the clock; a newer time replaces an older one."""

    def __init__(self, clock: VirtualClock, action: Callable[[], None]) -> None:
        self._clock = clock
        self._action = action
        self._due: float | None = None
        self._at_once = 0
        self._last = float("-inf")

    def set(self, time: float | None) -> None:
        if time is None:
            self._due = None
            return
        time = max(time, self._clock.now)
        if self._due is None or time != self._due:
            self._due = time
            self._clock.schedule(time, lambda: self._ring(time))

    def _ring(self, time: float) -> None:
        if self._due != time:
            return
        self._due = None
        self._at_once = self._at_once + 1 if time == self._last else 0
        self._last = time
        if self._at_once > _LARGEST_WAKES_AT_ONCE:
            raise PinholeError(
                f"simulation stands still at {time:.3f} s: a session keeps asking for a timer that is due"
            )
        self._action()


class SimulatedLink:
    """One or more sender sessions and a station, joined by simulated channels.

    Received layers are acknowledged at once, as by a station whose disk takes no time.
    """

    def __init__(
        self,
        config: LinkConfig,
        forward: ChannelConfig | Sequence[ChannelConfig],
        back: ChannelConfig | Sequence[ChannelConfig] | None,
        *,
        senders: int = 1,
        seed: int = 1,
        sealed: bool = False,
        on_received: Callable[[float, LayerReceived], None] | None = None,
        on_acknowledged: Callable[[float, int, LayerAcknowledged | LayerSent], None] | None = None,
    ) -> None:
        """Make the sessions and channels at virtual time 0.

        Args:
            config: of the link core, for both ends.
            forward: channel from each sender to the station; several: one for each sender.
            back: channel from the station to each sender, likewise; None drops what the station sends.
            senders: number of senders, each with channels of its own; sender i has the id i + 1 on the wire.
            seed: of all chance.
            sealed: seal the packets.
            on_received: called with the time and the event for every layer that reaches the station.
            on_acknowledged: called with the time, the sender index and the event for every layer acknowledged or sent.
        """
        self.clock = VirtualClock()
        outer, gate = envelopes(senders, sealed=sealed)
        self.station = Station(config, now=0.0, gate=gate)
        self.senders = [SenderSession(config, envelope, now=0.0) for envelope in outer]
        generators = np.random.default_rng(seed).spawn(2 * senders)
        self.forward = _channels(forward, generators[::2])
        self.back = None if back is None else _channels(back, generators[1::2])
        self._on_received = on_received
        self._on_acknowledged = on_acknowledged
        self._in_flight = 0
        self._awaited = 0
        self._station_wake = _Wake(self.clock, self._station_timer)
        self._sender_wakes = [_Wake(self.clock, self._sender_timer(i)) for i in range(senders)]

    def submit(self, submission: Submission) -> None:
        """Arrange for a picture to be submitted at its time."""
        self._awaited += 1

        def act() -> None:
            self._awaited -= 1
            session = self.senders[submission.sender]
            session.submit(submission.sequence, submission.layers, self.clock.now)
            self._pump_sender(submission.sender)

        self.clock.schedule(submission.time, act)

    def run_until(self, end: float) -> None:
        """Run to ``end`` virtual seconds, or until all is submitted, nothing waits and no packet is under way.

        Raises:
            PinholeError: if a session's timer holds the clock.
        """
        self.clock.run_until(end, self._idle)

    def _idle(self) -> bool:
        return not self._awaited and not self._in_flight and not any(s.backlog_bytes for s in self.senders)

    def _sender_timer(self, index: int) -> Callable[[], None]:
        def act() -> None:
            self.senders[index].handle_timer(self.clock.now)
            self._pump_sender(index)

        return act

    def _station_timer(self) -> None:
        self.station.handle_timer(self.clock.now)
        self._pump_station()

    def _pump_sender(self, index: int) -> None:
        session, now = self.senders[index], self.clock.now
        for packet, _ in session.packets_to_send(now):
            self._carry(self.forward[index].send(packet, now), partial(self._at_station, index))
        while (event := session.next_event()) is not None:
            if self._on_acknowledged is not None and not isinstance(event, NumberTaken):
                self._on_acknowledged(now, index, event)
        self._sender_wakes[index].set(session.next_timer())

    def _pump_station(self) -> None:
        now = self.clock.now
        while (event := self.station.next_event()) is not None:
            if self._on_received is not None:
                self._on_received(now, event)
            self.station.acknowledge(event.sender, event.sequence, event.layer, now)
        for path, packet in self.station.packets_to_send(now):
            if self.back is not None and isinstance(path, int):
                self._carry(self.back[path].send(packet, now), partial(self._at_sender, path))
        self._station_wake.set(self.station.next_timer())

    def _carry(self, arrivals: Sequence[Arrival], deliver: Callable[[bytes], None]) -> None:
        for arrival in arrivals:
            self._in_flight += 1

            def act(data: bytes = arrival.data) -> None:
                self._in_flight -= 1
                deliver(data)

            self.clock.schedule(arrival.time, act)

    def _at_station(self, index: int, data: bytes) -> None:
        self.station.receive_packet(data, self.clock.now, index)
        self._pump_station()

    def _at_sender(self, index: int, data: bytes) -> None:
        self.senders[index].receive_packet(data, self.clock.now)
        self._pump_sender(index)


def _channels(
    configs: ChannelConfig | Sequence[ChannelConfig], generators: Sequence[np.random.Generator]
) -> list[Channel]:
    if isinstance(configs, ChannelConfig):
        configs = [configs] * len(generators)
    if len(configs) != len(generators):
        raise PinholeError(f"{len(configs)} channels for {len(generators)} senders; give one for each")
    return [Channel(config, generator) for config, generator in zip(configs, generators, strict=True)]
