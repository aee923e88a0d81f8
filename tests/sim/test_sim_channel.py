"""The channel against the theory of what it models."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import PinholeError
from sim.channel import Arrival, Channel, ChannelConfig
from sim.loss import GilbertElliott

PACKETS = 60_000


def run(
    config: ChannelConfig, seed: int = 1, packets: int = PACKETS, spacing: float = 1.0
) -> tuple[Channel, list[Arrival]]:
    channel = Channel(config, np.random.default_rng(seed))
    arrivals = [a for i in range(packets) for a in channel.send(i.to_bytes(4, "big"), float(i))]
    return channel, arrivals


@pytest.mark.parametrize(("loss", "burst"), [(0.05, 3.0), (0.2, 1.25), (0.5, 10.0), (0.01, 1.5)])
def test_gilbert_channel_has_the_loss_and_burst_length_it_was_asked_for(loss: float, burst: float) -> None:
    channel, arrivals = run(ChannelConfig(loss=GilbertElliott.from_mean(loss, burst)))
    # Standard error of the loss of a two-state chain: white noise widened by (1 + c) / (1 - c), c = 1 - p - r.
    model = GilbertElliott.from_mean(loss, burst)
    memory = 1.0 - model.p - model.r
    error = (loss * (1 - loss) / PACKETS * (1 + memory) / (1 - memory)) ** 0.5
    assert abs(channel.statistics.loss_rate - loss) < 4 * error
    spread = (burst * (burst - 1)) ** 0.5 / channel.statistics.bursts**0.5
    assert abs(channel.statistics.mean_burst - burst) < 4 * spread
    assert len(arrivals) == PACKETS - channel.statistics.lost == channel.statistics.delivered


def test_burst_lengths_are_geometric() -> None:
    _, arrivals = run(ChannelConfig(loss=GilbertElliott.from_mean(0.1, 4.0)), seed=5)
    got = {int.from_bytes(a.data, "big") for a in arrivals}
    runs, length = [], 0
    for i in range(PACKETS):
        if i in got:
            if length:
                runs.append(length)
            length = 0
        else:
            length += 1
    for n in range(1, 6):
        expected = 0.25 * 0.75 ** (n - 1)
        share = runs.count(n) / len(runs)
        assert abs(share - expected) < 4 * (expected * (1 - expected) / len(runs)) ** 0.5


def test_general_model_has_its_closed_form_loss() -> None:
    model = GilbertElliott(p=0.02, r=0.2, h=0.3, k=0.99)
    assert model.mean_loss == pytest.approx(0.02 / 0.22 * 0.7 + 0.2 / 0.22 * 0.01)
    channel, _ = run(ChannelConfig(loss=model), seed=3)
    assert channel.statistics.loss_rate == pytest.approx(model.mean_loss, rel=0.06)


def test_impossible_models_are_refused_in_one_line() -> None:
    for loss, burst in ((1.0, 3.0), (-0.1, 3.0), (0.9, 1.0), (0.1, 0.5)):
        with pytest.raises(PinholeError) as caught:
            GilbertElliott.from_mean(loss, burst)
        assert "\n" not in str(caught.value)
    with pytest.raises(PinholeError, match="h is 2"):
        GilbertElliott(p=0.1, r=0.5, h=2.0)
    with pytest.raises(PinholeError, match="rate"):
        ChannelConfig(rate=0.0)


def test_rate_latency_and_overhead_make_the_arrival_time() -> None:
    channel = Channel(ChannelConfig(rate=9600.0, latency=0.25, overhead_bytes=28), np.random.default_rng(0))
    first, second = (channel.send(bytes(1172), 10.0)[0].time for _ in range(2))
    assert first == pytest.approx(10.0 + 1200 * 8 / 9600 + 0.25)
    assert second - first == pytest.approx(1.0)
    assert channel.queued_bytes(10.0) == pytest.approx(2400)
    assert channel.statistics.busy_seconds == pytest.approx(2.0)


def test_queue_is_bounded_and_drains() -> None:
    channel = Channel(ChannelConfig(rate=8000.0, queue_bytes=2500), np.random.default_rng(0))
    outcomes = [bool(channel.send(bytes(1000), 0.0)) for _ in range(4)]
    assert outcomes == [True, True, False, False]
    assert channel.statistics.queue_dropped == 2
    assert channel.send(bytes(1000), 1.0)
    big = Channel(ChannelConfig(rate=8000.0, queue_bytes=100), np.random.default_rng(0))
    assert big.send(bytes(1000), 0.0), "an idle line takes even a packet larger than its queue"


def test_jitter_reorders_only_where_it_may() -> None:
    shaky = ChannelConfig(jitter=5.0, latency=1.0)
    ordered, arrivals = run(shaky, packets=2000)
    assert ordered.statistics.reordered == 0
    assert [a.time for a in arrivals] == sorted(a.time for a in arrivals)
    loose, arrivals = run(replace(shaky, keep_order=False), packets=2000)
    late = [a.time - int.from_bytes(a.data, "big") for a in arrivals]
    assert loose.statistics.reordered > 100
    assert min(late) >= 1.0
    assert max(late) <= 6.0
    assert np.mean(late) == pytest.approx(3.5, abs=0.15)


def test_duplicates_and_damage_have_their_probabilities() -> None:
    channel, arrivals = run(ChannelConfig(duplication=0.1, corruption=0.02), packets=20_000)
    assert channel.statistics.duplicated / 20_000 == pytest.approx(0.1, abs=0.009)
    assert channel.statistics.damaged / 20_000 == pytest.approx(0.02, abs=0.004)
    assert len(arrivals) == 20_000 + channel.statistics.duplicated


def test_damage_changes_bits_and_never_the_length() -> None:
    channel = Channel(ChannelConfig(corruption=1.0), np.random.default_rng(0))
    for size in (1, 2, 100):
        for _ in range(200):
            (arrival,) = channel.send(bytes(size), 0.0)
            assert len(arrival.data) == size
            assert arrival.data != bytes(size)


def test_same_seed_same_fate_and_another_seed_another() -> None:
    config = ChannelConfig(
        rate=9600, jitter=0.5, keep_order=False, loss=GilbertElliott.from_mean(0.1, 2), duplication=0.1, corruption=0.1
    )
    assert run(config, seed=4, packets=500)[1] == run(config, seed=4, packets=500)[1]
    assert run(config, seed=4, packets=500)[1] != run(config, seed=5, packets=500)[1]


def test_turning_damage_on_leaves_losses_where_they_were() -> None:
    config = ChannelConfig(loss=GilbertElliott.from_mean(0.1, 2))
    plain = {a.time for a in run(config, packets=3000)[1]}
    damaged = {a.time for a in run(replace(config, corruption=0.5), packets=3000)[1]}
    assert plain == damaged


@settings(max_examples=50, deadline=None)
@given(
    loss=st.floats(0.0, 0.5),
    burst=st.floats(1.0, 20.0),
    sizes=st.lists(st.integers(0, 1500), max_size=50),
    seed=st.integers(0, 2**32),
)
def test_every_packet_is_accounted_for(loss: float, burst: float, sizes: list[int], seed: int) -> None:
    config = ChannelConfig(
        rate=9600.0, queue_bytes=4000, loss=GilbertElliott.from_mean(loss, burst), duplication=0.2, corruption=0.2
    )
    channel = Channel(config, np.random.default_rng(seed))
    arrivals = [a for i, size in enumerate(sizes) for a in channel.send(bytes(size), i * 0.1)]
    s = channel.statistics
    assert s.offered == len(sizes)
    assert len(arrivals) == s.delivered == s.offered - s.queue_dropped - s.lost + s.duplicated
    assert s.longest_burst <= s.lost
