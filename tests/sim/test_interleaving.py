from bisect import bisect_right
from collections.abc import Callable

import numpy as np
import pytest

from shared.link import LinkConfig
from shared.link.events import LayerReceived
from shared.link.residual import block_failure, shared_failure
from sim.channel import Arrival, Channel, ChannelConfig
from sim.interleaving import Interleaving, count_lost, lost_packets, residual_loss
from sim.link import SimulatedLink, Submission
from sim.loss import GilbertElliott

CHANNELS = [(0.05, 1.0), (0.05, 3.0), (0.2, 1.25), (0.1, 8.0), (0.5, 1.0)]


@pytest.mark.parametrize(("loss", "burst"), CHANNELS)
def test_losses_have_the_channels_mean_and_bursts(loss: float, burst: float) -> None:
    lost = lost_packets(GilbertElliott.from_mean(loss, burst), 400_000, np.random.default_rng(1))
    assert lost.shape == (400_000,)
    starts = int(np.count_nonzero(lost[1:] & ~lost[:-1]))
    assert lost.mean() == pytest.approx(loss, rel=0.05)
    assert lost.sum() / starts == pytest.approx(burst, rel=0.05)


def test_the_first_packet_meets_the_steady_state() -> None:
    generator = np.random.default_rng(2)
    model = GilbertElliott.from_mean(0.3, 10.0)
    first = [bool(lost_packets(model, 3, generator)[0]) for _ in range(4000)]
    assert np.mean(first) == pytest.approx(0.3, abs=0.03)


def test_packets_may_pass_in_the_bad_state_and_be_lost_in_the_good() -> None:
    model = GilbertElliott(p=0.05, r=0.2, h=0.4, k=0.98)
    lost = lost_packets(model, 400_000, np.random.default_rng(3))
    assert lost.mean() == pytest.approx(model.mean_loss, rel=0.05)


@pytest.mark.parametrize("packets", [0, 1, 7])
def test_short_rows_and_channels_that_hardly_move(packets: int) -> None:
    for model in (GilbertElliott(0.0, 1.0), GilbertElliott(1e-12, 1e-12), GilbertElliott(1.0, 1.0)):
        assert lost_packets(model, packets, np.random.default_rng(4)).shape == (packets,)


@pytest.mark.parametrize(("loss", "burst", "m"), [(0.05, 3.0, 4), (0.1, 8.0, 6), (0.2, 3.0, 6), (0.2, 3.0, 12)])
@pytest.mark.parametrize("depth", [1, 4, 16])
def test_what_is_counted_agrees_with_the_exact_probability(loss: float, burst: float, m: int, depth: int) -> None:
    model = GilbertElliott.from_mean(loss, burst)
    exact = {
        Interleaving.APART: block_failure(12, m, loss, burst, depth),
        Interleaving.SHARED: shared_failure(12, depth, (m, 12), loss, burst),
    }
    for way, expected in exact.items():
        generator = np.random.default_rng([11, depth, m])
        counted = residual_loss(model, way, generator, k=12, m=m, depth=depth, pictures=40_000)
        low, high = counted.interval(0.9999)
        assert low <= expected <= high


def test_blocks_in_turn_stand_long_bursts_better() -> None:
    model = GilbertElliott.from_mean(0.1, 8.0)
    one_by_one, in_turn = (
        residual_loss(model, way, np.random.default_rng(5), k=12, m=6, depth=16, pictures=40_000)
        for way in (Interleaving.SHARED, Interleaving.SHARED_IN_TURN)
    )
    assert in_turn.interval(0.9999)[1] < one_by_one.interval(0.9999)[0]


def test_a_single_block_has_nothing_to_take_turns_with() -> None:
    model = GilbertElliott.from_mean(0.1, 3.0)
    counts = [
        residual_loss(model, way, np.random.default_rng(6), k=12, m=4, depth=4, pictures=4000).lost
        for way in (Interleaving.SHARED, Interleaving.SHARED_IN_TURN)
    ]
    assert counts[0] == counts[1] > 0


def test_pictures_that_are_lost_together_count_for_fewer() -> None:
    generator = np.random.default_rng(7)
    together = np.repeat(generator.random((2000, 1)) < 0.05, 4, axis=1)
    apart = generator.random((2000, 4)) < 0.05
    assert count_lost(together).effective == pytest.approx(2000, rel=0.05)
    assert count_lost(apart).effective > 7000
    wide, narrow = (np.diff(count_lost(lost).interval())[0] for lost in (together, apart))
    assert wide > 1.6 * narrow


def test_intervals_cover_as_often_as_they_say() -> None:
    share = block_failure(12, 4, 0.2, 3.0, 4)
    model = GilbertElliott.from_mean(0.2, 3.0)
    hits = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        counted = residual_loss(model, Interleaving.APART, generator, k=12, m=4, depth=4, pictures=2000)
        low, high = counted.interval(0.9)
        hits += low <= share <= high
    assert 165 <= hits <= 195


def test_nothing_lost_still_has_an_upper_bound() -> None:
    counted = count_lost(np.zeros((1000, 1), dtype=np.bool_))
    low, high = counted.interval()
    assert low == 0.0
    assert 0.002 < high < 0.006


@pytest.mark.parametrize(("depth", "m"), [(1, 4), (4, 4), (16, 4)])
def test_the_real_link_loses_just_what_the_arrays_lose(depth: int, m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same losses, packet by packet, for the sessions without a return path and for the arrays."""
    fates: list[bool] = []
    carry: Callable[[Channel, bytes, float], list[Arrival]] = Channel.send

    def send(channel: Channel, packet: bytes, now: float) -> list[Arrival]:
        arrivals = carry(channel, packet, now)
        fates.append(not arrivals)
        return arrivals

    config = LinkConfig(packet_bytes=96, base_parity=m / 12, interleave=depth, flush_after=0.5, simplex=True)
    model = GilbertElliott.from_mean(0.15, 4.0)
    groups = 64 // depth

    def run(size: int, loss: GilbertElliott, rows: int) -> tuple[int, set[int]]:
        whole: set[int] = set()

        def note(_: float, event: LayerReceived) -> None:
            whole.add(event.sequence - 1_000_000)

        link = SimulatedLink(config, ChannelConfig(loss=loss), None, seed=9, on_received=note)
        for picture in range(rows * depth):
            link.submit(Submission(float(picture // depth), 0, 1_000_000 + picture, [bytes(size)]))
        link.run_until(rows + 10.0)
        return link.senders[0].statistics.source_symbols_sent, whole

    clean = GilbertElliott(0.0, 1.0)
    size = bisect_right(range(12 * 96), 12 * depth, key=lambda size: run(size, clean, 1)[0]) - 1
    monkeypatch.setattr(Channel, "send", send)
    _, whole = run(size, model, groups)
    monkeypatch.setattr("sim.interleaving.lost_packets", lambda *_: np.array(fates))
    counted = residual_loss(
        model, Interleaving.SHARED_IN_TURN, np.random.default_rng(0), k=12, m=m, depth=depth, pictures=groups * depth
    )
    assert counted.pictures - counted.lost == len(whole)
    assert 0 < counted.lost < counted.pictures
