import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import CorruptDataError
from shared.link.gilbert import LONGEST_RUN, GilbertFit, LossObserver
from sim.interleaving import lost_packets
from sim.loss import GilbertElliott

INTERVAL = 0.05
"""Seconds between packets."""


def arrivals(loss: float, burst: float, packets: int, seed: int) -> list[int]:
    lost = lost_packets(GilbertElliott.from_mean(loss, burst), packets, np.random.default_rng(seed))
    return [int(counter) for counter in np.flatnonzero(~lost)]


def observe(counters: list[int], half_life: float = 1000.0) -> LossObserver:
    observer = LossObserver(half_life)
    for place, counter in enumerate(counters):
        observer.observe(counter, INTERVAL * place)
    return observer


def shuffled(counters: list[int], reach: int, copies: float, seed: int) -> list[int]:
    """Packets up to ``reach`` places late, some of them twice."""
    chance = random.Random(seed)
    sent = [(place + chance.uniform(0, reach), counter) for place, counter in enumerate(counters)]
    sent += [(place + chance.uniform(0, reach), counter) for place, counter in sent if chance.random() < copies]
    return [counter for _, counter in sorted(sent)]


@given(
    st.sampled_from([(0.01, 1.1), (0.03, 2.0), (0.05, 3.0), (0.1, 8.0), (0.2, 3.0), (0.2, 1.25), (0.4, 5.0)]),
    st.integers(0, 2**32),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_the_fit_recovers_the_channel_within_its_error(
    channel: tuple[float, float], seed: int, disturbed: bool
) -> None:
    loss, burst = channel
    counters = arrivals(loss, burst, 12_000, seed)
    if disturbed:
        counters = shuffled(counters, 20, 0.1, seed)
    fit = observe(counters).fit(INTERVAL * len(counters))
    # Five standard errors in the logarithm; where bursts are few that scatters wider than a normal one.
    assert abs(math.log(fit.loss / loss)) < 5 * fit.loss_error + 0.05
    assert abs(math.log(fit.burst / burst)) < 5 * fit.burst_error + 0.05
    assert 2700 < fit.packets < 2900
    model = GilbertElliott.from_mean(loss, burst)
    assert abs(math.log(fit.p / model.p)) < 5 * (fit.loss_error + fit.burst_error) + 0.1
    assert abs(math.log(fit.r / model.r)) < 5 * fit.burst_error + 0.05


def test_the_stated_errors_are_those_of_repeated_fits() -> None:
    fits = [observe(counters).fit(1e6) for counters in (arrivals(0.1, 3.0, 8000, seed) for seed in range(40))]
    for name in ("loss", "burst"):
        seen = np.std([math.log(getattr(fit, name)) for fit in fits])
        stated = np.mean([getattr(fit, f"{name}_error") for fit in fits])
        assert 0.6 < seen / stated < 1.6


@given(st.integers(0, 2**32), st.integers(0, 25), st.floats(0.0, 0.5))
@settings(max_examples=30, deadline=None)
def test_reordering_and_copies_change_nothing(seed: int, reach: int, copies: float) -> None:
    # Neither so late nor among so much loss that a packet could be overtaken by the counter of one 64 further on.
    counters = arrivals(0.05, 3.0, 1500, seed)
    straight = observe(counters)
    crooked = LossObserver()
    # What overtakes the very first packet heard begins the count.
    for counter in (counters[0], *shuffled(counters, reach, copies, seed)):
        crooked.observe(counter, 0.0)
    assert straight.fit(1e6) == crooked.fit(1e6)
    assert (straight.packets, straight.lost, straight.bursts) == (crooked.packets, crooked.lost, crooked.bursts)


def test_counts_are_exact() -> None:
    observer = observe([10, 11, 14, 15, 19, *range(20, 120)])
    assert (observer.packets, observer.lost, observer.bursts) == (110, 5, 2)
    assert observer.late == observer.outages == 0


def test_a_missing_packet_is_lost_after_64_later_ones_or_three_seconds() -> None:
    for later, seconds, lost in ((63, 0.0, 0), (64, 0.0, 1), (1, 2.9, 0), (1, 3.0, 1)):
        observer = LossObserver()
        observer.observe(0, 0.0)
        for counter in range(2, 2 + later):
            observer.observe(counter, 0.0)
        observer.fit(seconds)
        assert observer.lost == lost
    observer.observe(1, 4.0)
    assert (observer.lost, observer.late) == (1, 1)


def test_time_runs_for_every_gap_apart() -> None:
    observer = LossObserver()
    for counter, now in ((0, 0.0), (2, 0.0), (4, 2.0)):
        observer.observe(counter, now)
    observer.fit(3.5)
    assert observer.lost == 1
    observer.fit(5.0)
    assert observer.lost == 2


def test_nothing_seen_is_no_promise() -> None:
    fit = LossObserver().fit(0.0)
    assert fit.loss > 0.05
    assert fit.packets == 0
    fits = [observe([*range(count)]).fit(1e6) for count in (1, 10, 100, 1000, 10_000)]
    assert all(later.loss < earlier.loss for earlier, later in itertools.pairwise(fits))
    assert fits[-1].loss < 0.001


def test_a_changed_channel_is_followed() -> None:
    counters = arrivals(0.02, 2.0, 20_000, 1)
    counters += [counters[-1] + 1 + counter for counter in arrivals(0.3, 4.0, 6000, 2)]
    fit = observe(counters).fit(1e6)
    assert 0.2 < fit.loss < 0.4
    counters += [counters[-1] + 1 + counter for counter in arrivals(0.02, 2.0, 10_000, 3)]
    assert observe(counters).fit(1e6).loss < 0.05


def test_outages_are_no_loss() -> None:
    counters = [*range(1000), *range(1000 + LONGEST_RUN + 1, 3000), *range(2**40, 2**40 + 1000)]
    observer = observe(counters)
    assert observer.outages == 2
    assert observer.lost == 0
    observer = observe([*range(1000), *range(1000 + LONGEST_RUN, 3000)])
    assert (observer.outages, observer.lost, observer.bursts) == (0, LONGEST_RUN, 1)


def test_a_lie_far_ahead_does_not_deafen() -> None:
    observer = observe([*range(500), 2**40, *range(500, 3000, 2)])
    assert observer.packets > 2000
    assert observer.fit(1e6).loss > 0.3


@given(st.lists(st.one_of(st.integers(0, 2**63), st.integers(0, 700)), max_size=200), st.floats(0.0, 10.0))
@settings(deadline=None)
def test_memory_and_work_are_bounded_whatever_comes(counters: list[int], step: float) -> None:
    observer = LossObserver()
    for place, counter in enumerate(counters):
        before = observer.packets
        observer.observe(counter, step * place)
        assert observer.packets - before <= LONGEST_RUN + 65
        assert len(observer._seen) <= 64
        assert len(observer._gaps) <= 66
    fit = observer.fit(step * len(counters))
    assert 0.0 <= fit.loss < 1.0
    assert fit.burst >= 1.0
    assert GilbertFit.from_wire(fit.to_wire()).packets == min(fit.packets, 65535)


@given(st.floats(0.0, 0.9999), st.floats(1.0, 5000.0), st.integers(0, 100_000))
def test_the_wire_form_keeps_the_fit(loss: float, burst: float, packets: int) -> None:
    fit = GilbertFit(loss, burst, packets)
    again = GilbertFit.from_wire(list(fit.to_wire()))
    assert abs(again.loss - loss) <= 1e-4
    assert abs(again.burst - min(burst, 65535 / 16)) <= 1 / 16
    assert again.packets == min(packets, 65535)
    assert again.to_wire() == GilbertFit.from_wire(again.to_wire()).to_wire()
    assert 0.0 <= again.p <= 1.0
    assert again.loss_error > 0.0
    assert again.burst_error > 0.0


@pytest.mark.parametrize(
    "values",
    [
        None,
        7,
        "abc",
        b"abc",
        [],
        [1, 16],
        [1, 16, 1, 1],
        [1.0, 16, 1],
        [True, 16, 1],
        [-1, 16, 1],
        [10_000, 16, 1],
        [1, 15, 1],
        [1, 65_536, 1],
        [1, 16, -1],
        [1, 16, 65_536],
        [[1], 16, 1],
        {0: 1, 1: 16, 2: 1},
    ],
)
def test_what_is_no_fit_is_refused(values: object) -> None:
    with pytest.raises(CorruptDataError, match="loss estimate"):
        GilbertFit.from_wire(values)
