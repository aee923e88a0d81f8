import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import PinholeError
from shared.link.adaptation import BURSTS, LOSSES, Adaptation, AdaptationConfig, Choice, _table, make_table
from shared.link.gilbert import GilbertFit, LossObserver
from shared.link.residual import block_failure
from sim.interleaving import lost_packets
from sim.loss import GilbertElliott

SLOW = 60.0
"""A round trip with which no repair fits into the time."""


def good(loss: float, burst: float = 2.0) -> GilbertFit:
    """A fit that leaves little doubt."""
    return GilbertFit(loss, burst, 60_000)


def settled(
    fit: GilbertFit, config: AdaptationConfig | None = None, *, round_trip: float = SLOW, interval: float = 0.5
) -> Adaptation:
    """After some pictures of 4 and 12 symbols and a report at time 0."""
    adaptation = Adaptation(config or AdaptationConfig())
    adaptation.note_round_trip(round_trip)
    for picture in range(-40, 1):
        adaptation.note_picture((4.0, 12.0), interval * picture)
    adaptation.note_fit(fit, 0.0)
    return adaptation


def test_before_the_first_report_the_configured_values_hold() -> None:
    config = AdaptationConfig(parity=(0.6, 0.3), interleave=3)
    adaptation = Adaptation(config)
    adaptation.note_picture((4.0, 12.0), 0.0)
    assert adaptation.choice(0, 1.0) == Choice(0.6, 3)
    assert adaptation.choice(1, 1.0) == Choice(0.3, 3)
    assert [adaptation.parity_symbols(0, k, 1.0) for k in (1, 5, 10, 64)] == [1, 3, 6, 39]
    assert adaptation.channel is None


def test_fixed_settings_stay() -> None:
    adaptation = settled(good(0.2, 3.0), AdaptationConfig(fixed=True, parity=(0.5, 0.25), interleave=4))
    assert adaptation.choice(0, 0.0) == Choice(0.5, 4)
    assert adaptation.parity_symbols(1, 12, 0.0) == 3


@given(
    st.floats(0.0005, 0.3),
    st.floats(1.5, 10.0),
    st.integers(1, 64),
    st.sampled_from([(0.001, 0.01), (0.01, 0.1), (1e-5, 0.001)]),
)
@settings(max_examples=60, deadline=None)
def test_without_time_for_repair_parity_meets_the_target(
    loss: float, burst: float, k: int, targets: tuple[float, float]
) -> None:
    adaptation = settled(good(loss, burst), AdaptationConfig(targets=targets))
    for priority in (0, 1):
        m = adaptation.parity_symbols(priority, k, 0.0)
        assert 0 <= m <= min(2 * k, 255 - k)
        assert block_failure(k, m, loss, burst) <= targets[priority] or m == 2 * k


def test_base_layers_get_more_and_a_clean_channel_little() -> None:
    adaptation = settled(good(0.05, 3.0))
    assert adaptation.parity_symbols(0, 12, 0.0) > adaptation.parity_symbols(1, 12, 0.0) > 0
    clean = settled(good(0.0005, 1.0))
    assert clean.parity_symbols(0, 12, 0.0) <= 2
    assert clean.parity_symbols(1, 12, 0.0) <= 1
    assert clean.parity_symbols(1, 4, 0.0) == 0


def test_repair_on_request_takes_the_place_of_parity() -> None:
    symbols = [
        settled(good(0.05, 3.0), round_trip=seconds).parity_symbols(0, 12, 0.0) for seconds in (0.1, 8.0, 12.0, SLOW)
    ]
    assert symbols == sorted(symbols)
    assert symbols[0] == 0
    assert 0 < symbols[2] < symbols[3]


def test_rounds_do_not_flutter_with_the_round_trip() -> None:
    adaptation = Adaptation(AdaptationConfig())
    adaptation.note_round_trip(5.0)
    before = adaptation.rounds
    border = next(t / 100 for t in range(500, 6000) if adaptation._rounds_within(t / 100) < before)
    seen = set()
    for place in range(50):
        adaptation.note_round_trip(border + (0.2 if place % 2 else -0.2))
        seen.add(adaptation.rounds)
    assert seen == {before, before - 1}
    assert adaptation.rounds == before - 1
    adaptation.note_round_trip(border / 2)
    assert adaptation.rounds >= before


def test_depth_keeps_within_wait_and_block() -> None:
    for interval, symbols, deepest in ((0.5, 4.0, 5), (0.1, 4.0, 16), (0.1, 12.0, 5), (3.0, 4.0, 1), (0.1, 100.0, 1)):
        adaptation = Adaptation(AdaptationConfig(wait=2.0))
        adaptation.note_round_trip(SLOW)
        for picture in range(-60, 1):
            adaptation.note_picture((symbols, 0.0), interval * picture)
        adaptation.note_fit(good(0.05, 3.0), 0.0)
        depth = adaptation.choice(0, 0.0).interleave
        assert depth <= deepest
        # On this channel a deeper block is always cheaper, by ever less.
        assert depth >= 0.6 * deepest


def test_depth_saves_bytes() -> None:
    shallow = settled(good(0.05, 3.0), AdaptationConfig(most_interleave=1)).choice(0, 0.0)
    deep = settled(good(0.05, 3.0)).choice(0, 0.0)
    assert shallow.interleave == 1
    assert deep.interleave > 1
    assert deep.parity < 0.7 * shallow.parity


def test_nobody_waits_where_it_saves_nothing() -> None:
    adaptation = settled(good(0.0005, 1.0), AdaptationConfig(packet_cost=0), round_trip=0.1)
    assert adaptation.choice(1, 0.0) == Choice(0.0, 1)


def test_a_pause_between_bursts_of_pictures_does_not_end_their_sharing() -> None:
    adaptation = Adaptation(AdaptationConfig(wait=2.0))
    adaptation.note_round_trip(SLOW)
    now = 0.0
    for _ in range(20):
        now += 600.0
        for _ in range(8):
            adaptation.note_picture((4.0, 12.0), now)
    adaptation.note_fit(good(0.05, 3.0), now)
    assert adaptation.choice(0, now).interleave >= 2


def test_worse_counts_at_once_and_better_when_it_has_lasted() -> None:
    adaptation = settled(good(0.008, 1.6))
    calm = adaptation.channel
    adaptation.note_fit(good(0.19, 4.0), 1.0)
    assert adaptation.channel == (0.2, 4.0)
    # The worst report of the last half minute decides how far down it goes.
    for place in range(1, 12):
        adaptation.note_picture((4.0, 12.0), 1.0 + 3.0 * place)
        adaptation.note_fit(good(0.03 if place == 5 else 0.008, 1.6), 1.0 + 3.0 * place)
        if 3 * place <= 30:
            assert adaptation.channel == (0.2, 4.0)
    assert adaptation.channel == (0.036, BURSTS[BURSTS.index(1.6) + 1])
    for place in range(12, 24):
        adaptation.note_picture((4.0, 12.0), 1.0 + 3.0 * place)
        adaptation.note_fit(good(0.008, 1.6), 1.0 + 3.0 * place)
    assert adaptation.channel is not None
    assert calm is not None
    assert adaptation.channel[0] <= LOSSES[LOSSES.index(calm[0]) + 1]


def test_a_short_calm_changes_nothing() -> None:
    adaptation = settled(good(0.1))
    before = adaptation.channel
    for place in range(1, 200):
        adaptation.note_picture((4.0, 12.0), 5.0 * place)
        # Just too short: 25 of 30 s.
        adaptation.note_fit(good(0.1 if place % 6 == 0 else 0.001), 5.0 * place)
    assert adaptation.channel == before
    # And few reports are no proof, however long it takes.
    adaptation = settled(good(0.1))
    for place in range(1, 5):
        adaptation.note_fit(good(0.001), 1000.0 * place)
    assert adaptation.channel == before


@pytest.mark.parametrize(
    ("loss", "burst"), [(0.01, 1.1), (0.03, 3.0), (0.0449, 3.0), (0.1, 3.0), (0.1, 8.0), (0.2, 1.25), (0.3, 10.0)]
)
def test_a_steady_channel_gets_what_it_needs_and_little_more(loss: float, burst: float) -> None:
    """Fits of a real observer over 100,000 packets, one every 50, where no repair fits into the time."""
    lost = lost_packets(GilbertElliott.from_mean(loss, burst), 100_000, np.random.default_rng(3))
    observer = LossObserver()
    adaptation = Adaptation(AdaptationConfig(targets=(0.01, 0.01)))
    seen, repairs = [], []
    for counter in map(int, np.flatnonzero(~lost)):
        now = 0.1 * counter
        observer.observe(counter, now)
        if counter % 50 == 0:
            adaptation.note_fit(observer.fit(now), now)
            seen.append(adaptation.channel)
            repairs.append(adaptation.parity_symbols(0, 48, now))
    seen, repairs = seen[len(seen) // 10 :], repairs[len(repairs) // 10 :]
    # It stays where it is from one report to the next, but for one in twenty.
    assert sum(before != after for before, after in itertools.pairwise(seen)) <= len(seen) / 20
    for at in seen:
        assert at is not None
        assert loss / 1.5 <= at[0] <= 2.3 * loss
        assert burst / 1.5 <= at[1] <= 2.3 * burst
    failures = {m: block_failure(48, m, loss, burst, 1) for m in {*repairs}}
    assert sum(failures[m] for m in repairs) / len(repairs) <= 0.01
    needed = next(m for m in range(97) if block_failure(48, m, loss, burst, 1) <= 0.01)
    assert sum(repairs) / len(repairs) + 48 <= 1.17 * (needed + 48)


def test_depth_does_not_flutter_with_the_pace_of_pictures() -> None:
    adaptation = settled(good(0.05, 3.0))
    generator = np.random.default_rng(8)
    now, depths = 0.0, []
    for _ in range(400):
        now += float(generator.uniform(0.4, 0.6))
        adaptation.note_picture((4.0 + float(generator.normal(0.0, 0.3)), 12.0), now)
        adaptation.note_fit(good(0.05, 3.0), now)
        depths.append(adaptation.choice(0, now).interleave)
    assert sum(before != after for before, after in itertools.pairwise(depths)) <= 2


def test_silence_leads_back_to_the_configured_values() -> None:
    adaptation = settled(good(0.0005, 1.0), round_trip=1.0)
    parities = []
    for tenth in range(0, 900):
        now = tenth / 10
        if tenth % 20 == 0:
            adaptation.note_picture((4.0, 12.0), now)
        parities.append(adaptation.parity_symbols(0, 40, now))
    assert parities[:300] == [parities[0]] * 300
    assert parities[0] < 5
    assert parities[300:601] == sorted(parities[300:601])
    assert set(parities[600:]) == {20}
    # Down as well as up, and the depth with it.
    adaptation = settled(good(0.3, 5.0))
    assert adaptation.parity_symbols(1, 40, 0.0) > 10
    adaptation.note_picture((4.0, 12.0), 1.0)
    assert adaptation.choice(1, 1.0 + 2 * 4 * SLOW) == Choice(0.25, 4)
    assert adaptation.choice(1, 1.0 + 6 * SLOW).interleave == 4
    # A report ends it.
    adaptation.note_fit(good(0.01), 1000.0)
    assert adaptation.channel == (0.01, 2.0)
    assert adaptation.parity_symbols(1, 40, 1000.0) < 10


def test_patience_grows_with_the_round_trip() -> None:
    for round_trip, patience in ((0.5, 30.0), (20.0, 80.0)):
        adaptation = settled(good(0.0005, 1.0), round_trip=round_trip)
        adaptation.note_picture((4.0, 12.0), 10.0)
        known = adaptation.parity_symbols(0, 12, 10.0)
        assert known < 6
        assert adaptation.parity_symbols(0, 12, 10.0 + patience) == known
        assert adaptation.parity_symbols(0, 12, 10.0 + 2 * patience) == 6


def test_a_sender_that_is_silent_itself_forgets_nothing_within_the_hour() -> None:
    adaptation = settled(good(0.0005, 1.0))
    known = adaptation.parity_symbols(0, 12, 0.0)
    assert adaptation.parity_symbols(0, 12, 3500.0) == known
    assert adaptation.parity_symbols(0, 12, 3700.0) == 6


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("fit"), st.integers(0, 9999), st.integers(16, 65535), st.integers(0, 65535)),
            st.tuples(st.just("picture"), st.floats(0.0, 500.0), st.floats(0.0, 500.0)),
            st.tuples(st.just("trip"), st.floats(0.0, 1e4)),
            st.tuples(st.just("pass"), st.floats(0.0, 5000.0)),
        ),
        max_size=40,
    )
)
@settings(max_examples=60, deadline=None)
def test_whatever_comes_the_choice_is_one(events: list[tuple[object, ...]]) -> None:
    adaptation = Adaptation(AdaptationConfig())
    now = 0.0
    for kind, *values in events:
        if kind == "fit":
            adaptation.note_fit(GilbertFit.from_wire(values), now)
        elif kind == "picture":
            adaptation.note_picture(values, now)  # type: ignore[arg-type]
        elif kind == "trip":
            adaptation.note_round_trip(values[0])  # type: ignore[arg-type]
        else:
            now += values[0]  # type: ignore[operator]
        for priority in (0, 1):
            choice = adaptation.choice(priority, now)
            assert 0.0 <= choice.parity <= 2.0
            assert 1 <= choice.interleave <= 16
            for k in (1, 7, 64):
                m = adaptation.parity_symbols(priority, k, now)
                assert 0 <= m <= 2 * k
                assert m + k <= 255


@pytest.mark.parametrize(
    "changes",
    [
        {"parity": (0.5, 2.1)},
        {"parity": (math.nan, 0.5)},
        {"targets": (0.0, 0.1)},
        {"targets": (0.1, 1.0)},
        {"interleave": 0},
        {"most_interleave": 0},
        {"wait": -1.0},
        {"latency": math.inf},
        {"symbol_bytes": 0},
        {"packet_cost": -1},
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(PinholeError, match="link setting") as caught:
        AdaptationConfig(**changes)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("k", [0, 65])
def test_blocks_that_cannot_be_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match="no block"):
        settled(good(0.1)).parity_symbols(0, k, 0.0)


def test_the_whole_table_can_be_made_beforehand() -> None:
    _table.cache_clear()
    make_table((0.002, 0.02))
    made = _table.cache_info()
    assert (made.currsize, made.misses) == (len(LOSSES), len(LOSSES))
    choosing = Adaptation(AdaptationConfig(targets=(0.002, 0.02)))
    for loss in (0.0, 0.04, 0.3):
        choosing.note_fit(GilbertFit(loss, 2.0, 2000), 0.0)
        choosing.parity_symbols(0, 12, 0.0)
    assert _table.cache_info().misses == len(LOSSES)
