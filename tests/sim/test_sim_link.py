"""The real sessions over simulated channels on the virtual clock."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from shared.link.config import LinkConfig
from shared.link.events import LayerAcknowledged, LayerReceived, LayerSent
from sim.channel import ChannelConfig
from sim.clock import VirtualClock
from sim.link import SimulatedLink, Submission
from sim.loss import GilbertElliott
from sim.scenario import Scenario, Traffic, load_scenario
from sim.simulation import percentiles, run_scenario
from sim.simulation_report import rows, summarise, write_reports
from sim.traffic import submissions

CLEAN = ChannelConfig(rate=9600.0, latency=0.1)
LOSSY = ChannelConfig(
    rate=9600.0,
    latency=0.1,
    jitter=0.3,
    keep_order=False,
    loss=GilbertElliott.from_mean(0.1, 3.0),
    duplication=0.05,
    corruption=0.03,
)
LINK = LinkConfig(packet_bytes=300, rate=9000.0, burst_bytes=600, flush_after=1.0, retransmit_after=2.0)


def scenario(forward: ChannelConfig, back: ChannelConfig | None, pictures: int = 20, senders: int = 1) -> Scenario:
    return Scenario(
        "test", "", 3600.0, 1, senders, True, forward, back, replace(LINK, simplex=back is None), Traffic(pictures, 6.0)
    )


def test_events_run_in_order_of_time_then_of_scheduling() -> None:
    clock = VirtualClock()
    seen: list[tuple[float, str]] = []
    for time, name in ((2.0, "b"), (1.0, "a"), (2.0, "c"), (9.0, "late")):
        clock.schedule(time, lambda name=name: seen.append((clock.now, name)))  # type: ignore[misc]
    clock.run_until(5.0)
    assert seen == [(1.0, "a"), (2.0, "b"), (2.0, "c")]
    assert clock.now == 5.0
    clock.schedule(1.0, lambda: seen.append((clock.now, "past")))
    clock.run_until(5.0)
    assert seen[-1] == (5.0, "past")


def test_a_clean_link_delivers_everything_at_line_speed() -> None:
    chosen = scenario(CLEAN, CLEAN)
    outcome = run_scenario(chosen, submissions(chosen))
    report = summarise(outcome)
    assert report["pictures"] == {"submitted": 20, "base_complete": 20, "complete": 20, "damaged_layers": 0}
    for fate in outcome.fates:
        base, complete = fate.base_seconds, fate.complete_seconds
        assert base is not None
        assert complete is not None
        size = sum(map(len, fate.submission.layers))
        # No faster than light: its own bytes at the line rate, and the latency.
        assert complete >= size * 8 / 9600 * 0.9 + 0.1
        assert base <= complete
    assert outcome.senders[0].layers_acknowledged == 80
    ledger, sent = outcome.ledger, outcome.senders[0].bytes_sent
    assert ledger.source + ledger.repair + ledger.question + ledger.header == sent == outcome.forward[0].offered_bytes
    payload = sum(len(layer) for fate in outcome.fates for layer in fate.submission.layers)
    assert payload < ledger.source < 1.05 * payload
    assert 0.2 * payload < ledger.repair < 0.6 * payload


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_bad_link_with_a_way_back_loses_nothing(seed: int) -> None:
    chosen = replace(scenario(LOSSY, LOSSY, senders=2), seed=seed, traffic=Traffic(15, 12.0))
    outcome = run_scenario(chosen, submissions(chosen))
    assert all(fate.complete_seconds is not None for fate in outcome.fates)
    assert sum(fate.damaged for fate in outcome.fates) == 0
    forward = outcome.forward[0]
    assert min(forward.lost, forward.damaged, forward.duplicated, forward.reordered) > 0
    assert outcome.seconds < 3600.0, "it ends when all is acknowledged"


def test_a_dead_link_delivers_nothing_and_still_ends() -> None:
    dead = replace(CLEAN, loss=GilbertElliott(p=1.0, r=1e-9))
    chosen = replace(scenario(dead, CLEAN, pictures=3), duration=300.0)
    outcome = run_scenario(chosen, submissions(chosen))
    report = summarise(outcome)
    assert report["pictures"] == {"submitted": 3, "base_complete": 0, "complete": 0, "damaged_layers": 0}
    assert report["layers"] == {"submitted": 12, "received": 0, "residual_loss": 1.0}
    assert outcome.seconds == 300.0
    assert rows(report)


def test_simplex_parity_repairs_most_of_what_bursts_take() -> None:
    lossy = replace(CLEAN, loss=GilbertElliott.from_mean(0.05, 2.0))

    def residual(parity: float) -> float:
        link = replace(LINK, simplex=True, parity=parity, base_parity=parity, interleave=4, flush_after=20.0)
        chosen = replace(scenario(lossy, None, pictures=150), link=link)
        outcome = run_scenario(chosen, submissions(chosen))
        assert outcome.senders[0].layers_sent == 600
        return sum(fate.complete_seconds is None for fate in outcome.fates) / 150

    uncoded, coded = residual(0.0), residual(0.5)
    assert uncoded > 0.1
    assert coded < uncoded / 3


def test_events_reach_their_watchers() -> None:
    received: list[tuple[float, LayerReceived]] = []
    settled: list[tuple[float, int, LayerAcknowledged | LayerSent]] = []
    link = SimulatedLink(
        LINK,
        CLEAN,
        CLEAN,
        senders=2,
        on_received=lambda now, event: received.append((now, event)),
        on_acknowledged=lambda now, sender, event: settled.append((now, sender, event)),
    )
    for sender in (0, 1):
        link.submit(Submission(1.0, sender, 7, [bytes([sender]) * 500, b"refinement"]))
    link.run_until(60.0)
    assert {(e.sender, e.sequence, e.layer, e.layers) for _, e in received} == {
        (1, 7, 0, 2),
        (1, 7, 1, 2),
        (2, 7, 0, 2),
        (2, 7, 1, 2),
    }
    assert {e.payload for _, e in received} == {b"\0" * 500, b"\1" * 500, b"refinement"}
    assert sorted((sender, e.layer) for _, sender, e in settled) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(isinstance(e, LayerAcknowledged) for _, _, e in settled)
    assert min(now for now, _ in received) > 1.0
    assert max(now for now, _, _ in settled) > max(now for now, _ in received)


def test_same_seed_same_report_to_the_byte(tmp_path: Path) -> None:
    chosen = replace(load_scenario("satcom-9600"), traffic=Traffic(12, 5.0))
    for name, seed in (("first", 3), ("second", 3), ("third", 4)):
        this = replace(chosen, seed=seed)
        write_reports(run_scenario(this, submissions(this)), tmp_path / name)
    read = {path.parent.name: path.read_bytes() for path in tmp_path.glob("*/report.json")}
    assert read["first"] == read["second"]
    assert read["first"] != read["third"]
    assert (tmp_path / "first/report.md").read_bytes() == (tmp_path / "second/report.md").read_bytes()
    figures = json.loads(read["first"])
    assert figures["scenario"]["seed"] == 3
    assert figures["pictures"]["submitted"] == 12


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(v) for v in range(1, 101)]
    assert percentiles(values) == {"mean": 50.5, "p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p100": 100.0}
    assert percentiles([]) == {}
