"""Run a scenario and count what came of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.link.events import LayerReceived
from shared.link.statistics import SenderStatistics, StationStatistics
from sim.channel import ChannelStatistics
from sim.ledger import Ledger
from sim.link import SimulatedLink, Submission
from sim.scenario import Scenario

PERCENTILES = (0.5, 0.9, 0.95, 0.99, 1.0)


@dataclass
class PictureFate:
    """What became of one picture.

    Attributes:
        submission: what was submitted, and when.
        received: virtual time of arrival by layer.
        damaged: layers that arrived with other bytes than were submitted; the link must never let that happen.
    """

    submission: Submission
    received: dict[int, float] = field(default_factory=dict)
    damaged: int = 0

    @property
    def base_seconds(self) -> float | None:
        """Seconds from submission to the base layer's arrival, or None if it has not arrived."""
        time = self.received.get(0)
        return None if time is None else time - self.submission.time

    @property
    def complete_seconds(self) -> float | None:
        """Seconds from submission to the last layer's arrival, or None if one has not arrived."""
        if len(self.received) < len(self.submission.layers):
            return None
        return max(self.received.values()) - self.submission.time

    @property
    def received_bytes(self) -> int:
        """Bytes of the layers that arrived."""
        return sum(len(self.submission.layers[layer]) for layer in self.received)


@dataclass(frozen=True)
class Outcome:
    """Everything that was counted in a run.

    Attributes:
        scenario: what was run.
        seconds: virtual time at the end.
        fates: of all pictures, in the order of their submission.
        senders: counters of each sender's session.
        station: counters of the station, all senders together.
        forward: counters of each sender's channel to the station.
        back: counters of each channel back.
        ledger: what the bytes forward were spent on, all senders together.
    """

    scenario: Scenario
    seconds: float
    fates: list[PictureFate]
    senders: list[SenderStatistics]
    station: StationStatistics
    forward: list[ChannelStatistics]
    back: list[ChannelStatistics]
    ledger: Ledger


class Recorder:
    """Follows the pictures of a run through the events of the station."""

    def __init__(self, submissions: Sequence[Submission]) -> None:
        """Expect these pictures."""
        self.fates = [PictureFate(submission) for submission in submissions]
        # On the wire sender i is number i + 1.
        self._by_key = {(fate.submission.sender + 1, fate.submission.sequence): fate for fate in self.fates}

    def received(self, now: float, event: LayerReceived) -> None:
        """Note a layer."""
        fate = self._by_key.get((event.sender, event.sequence))
        layers = () if fate is None else fate.submission.layers
        if fate is None or event.layer >= len(layers):
            raise AssertionError(f"the station reports a layer that nobody sent: {event.sender}/{event.sequence}")
        if event.payload != layers[event.layer]:
            fate.damaged += 1
        fate.received.setdefault(event.layer, now)


def run_scenario(scenario: Scenario, submissions: Sequence[Submission]) -> Outcome:
    """Send pictures through a scenario's channels on the virtual clock.

    Raises:
        PinholeError: if the link refuses a picture or its settings.
    """
    recorder = Recorder(submissions)
    link = SimulatedLink(
        scenario.link,
        scenario.forward,
        scenario.back,
        senders=scenario.senders,
        seed=scenario.seed,
        sealed=scenario.sealed,
        on_received=recorder.received,
    )
    for submission in submissions:
        link.submit(submission)
    link.run_until(scenario.duration)
    return outcome_of(scenario, link, recorder)


def outcome_of(scenario: Scenario, link: SimulatedLink, recorder: Recorder) -> Outcome:
    """Gather what was counted."""
    return Outcome(
        scenario,
        link.clock.now,
        recorder.fates,
        [session.statistics for session in link.senders],
        link.station.totals,
        [channel.statistics for channel in link.forward],
        [channel.statistics for channel in link.back or []],
        Ledger.of(session.statistics for session in link.senders),
    )


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return the percentiles of ``PERCENTILES`` (nearest rank) and the mean, or nothing for no values."""
    if not values:
        return {}
    ordered = sorted(values)
    result = {"mean": math.fsum(ordered) / len(ordered)}
    for share in PERCENTILES:
        result[f"p{share * 100:g}"] = ordered[max(0, math.ceil(share * len(ordered)) - 1)]
    return result
