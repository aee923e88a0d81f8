import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.link.residual import Chain, block_failure, cut_into_blocks, least_repairs, received, shared_failure

CHANNELS = st.tuples(st.floats(0.001, 0.49), st.floats(1.0, 30.0))


def sequences(loss: float, burst: float, packets: int) -> list[tuple[tuple[int, ...], float]]:
    """Every pattern of losses (1: lost) and its probability, straight from the definition."""
    r = 1.0 / burst
    p = r * loss / (1.0 - loss)
    matrix = ((1.0 - p, p), (r, 1.0 - r))
    steady = (r / (p + r), p / (p + r))
    out = []
    for pattern in itertools.product((0, 1), repeat=packets):
        chance = steady[pattern[0]]
        for before, after in itertools.pairwise(pattern):
            chance *= matrix[before][after]
        out.append((pattern, chance))
    return out


@given(CHANNELS, st.integers(1, 5), st.integers(0, 5), st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_block_failure_is_what_all_patterns_add_up_to(
    channel: tuple[float, float], k: int, m: int, stride: int
) -> None:
    if (k + m) * stride > 12:
        stride = 1
    patterns = sequences(*channel, (k + m - 1) * stride + 1)
    expected = sum(chance for pattern, chance in patterns if sum(pattern[::stride]) > m)
    assert block_failure(k, m, *channel, stride) == pytest.approx(expected, abs=1e-12)


@given(CHANNELS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_shared_failure_is_what_all_patterns_add_up_to(
    channel: tuple[float, float], k: int, pictures: int, repairs: int, most: int
) -> None:
    most = max(most, k)
    blocks = cut_into_blocks(k * pictures, (repairs, 4), most)
    if sum(map(sum, blocks)) > 13:
        return
    expected = 0.0
    for pattern, chance in sequences(*channel, sum(map(sum, blocks))):
        wanting: list[bool] = []
        start = 0
        for sources, spare in blocks:
            block = pattern[start : start + sources + spare]
            wanting += [bool(lost) and sum(block) > spare for lost in block[:sources]]
            start += sources + spare
        lost_pictures = sum(any(wanting[i * k : (i + 1) * k]) for i in range(pictures))
        expected += chance * lost_pictures / pictures
    assert shared_failure(k, pictures, (repairs, 4), *channel, most) == pytest.approx(expected, abs=1e-12)


@given(CHANNELS, st.integers(1, 60), st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_distributions_are_distributions_with_the_channels_mean(
    channel: tuple[float, float], packets: int, stride: int
) -> None:
    chances = received(Chain.of(*channel, stride), packets, packets)
    assert np.all(chances >= 0.0)
    assert chances.sum(axis=-1) == pytest.approx(np.ones(packets + 1))
    assert chances[packets] @ np.arange(packets + 1) == pytest.approx(packets * (1.0 - channel[0]))


def test_without_memory_it_is_binomial() -> None:
    loss = 0.2
    chances = received(Chain.of(loss, 1.0 / (1.0 - loss)), 3, 3)[3]
    assert chances == pytest.approx([0.008, 0.096, 0.384, 0.512])
    # Far apart, packets of any channel are without memory.
    assert block_failure(12, 4, loss, 8.0, 1000) == pytest.approx(block_failure(12, 4, loss, 1.25))


@given(CHANNELS, st.integers(1, 30), st.integers(0, 30))
@settings(max_examples=50, deadline=None)
def test_more_repair_symbols_never_hurt(channel: tuple[float, float], k: int, m: int) -> None:
    assert block_failure(k, m + 1, *channel) <= block_failure(k, m, *channel) + 1e-12


def test_an_independent_simulation_agrees() -> None:
    """Shares of 100,000 simulated pictures, made elsewhere by other code: within three standard errors.

    Pictures whose symbols are mixed share bursts, so up to six of them say no more than one.
    """
    for loss, burst, m, shares in (
        (0.05, 3.0, 4, (0.054, 0.0068, 0.0008)),
        (0.10, 8.0, 6, (0.112, 0.047, 0.0037)),
        (0.20, 3.0, 12, (0.035, 0.0011, 0.0002)),
    ):
        for depth, share in zip((1, 4, 16), shares, strict=True):
            error = (share * min(depth, 6) / 100_000) ** 0.5
            assert abs(block_failure(12, m, loss, burst, depth) - share) < 3 * error


def test_the_table_holds_the_fewest_repairs_that_reach_the_target() -> None:
    losses, bursts, targets = (0.01, 0.05, 0.2), (1.25, 3.0, 8.0), (0.001, 0.02)
    table = least_repairs(losses, bursts, targets, most_sources=20)
    assert table.shape == (2, 1, 3, 3, 21)
    for a, target in enumerate(targets):
        for b, loss in enumerate(losses):
            for c, burst in enumerate(bursts):
                for k in (1, 2, 5, 12, 20):
                    m = int(table[a, 0, b, c, k])
                    if m <= 2 * k:
                        assert block_failure(k, m, loss, burst) <= target
                    if m > 0:
                        assert block_failure(k, min(m, 2 * k + 1) - 1, loss, burst) > target


def test_rounds_of_repair_are_reckoned_as_a_simulation_counts_them() -> None:
    loss, burst, k, target, rounds = 0.2, 3.0, 12, 0.02, 2
    m = int(least_repairs((loss,), (burst,), (target,), most_sources=k, most_rounds=rounds)[0, rounds, 0, 0, k])
    assert 0 < m < int(least_repairs((loss,), (burst,), (target,), most_sources=k)[0, 0, 0, 0, k])

    def unfinished(repairs: int) -> float:
        generator = np.random.default_rng(7)
        blocks = 30_000
        wanting = np.full(blocks, k)
        for sent in range(rounds + 1):
            asked = wanting + (repairs if sent == 0 else 0)
            bad = generator.random(blocks) < loss
            got = np.zeros(blocks, dtype=int)
            for symbol in range(k + repairs):
                got += ~bad & (symbol < asked)
                bad = np.where(bad, generator.random(blocks) >= 1 / burst, generator.random(blocks) < 0.25 / burst)
            wanting = np.maximum(wanting - got, 0)
        return float((wanting > 0).mean())

    error = 4 * (target / 30_000) ** 0.5
    assert unfinished(m) <= target + error
    assert unfinished(m - 1) > target - error


def test_more_rounds_and_laxer_targets_need_fewer_symbols() -> None:
    table = least_repairs((0.02, 0.1), (1.5, 4.0), (0.001, 0.01, 0.1), most_sources=32, most_rounds=4).astype(int)
    assert np.all(np.diff(table, axis=0) <= 0)
    assert np.all(np.diff(table, axis=1) <= 0)
    assert np.all(np.diff(table, axis=2) >= 0)
    assert table[0, 4].max() < table[0, 0].max()


def test_a_row_of_the_senders_table_is_made_in_no_time() -> None:
    begin = time.perf_counter()
    least_repairs((0.05,), tuple(np.geomspace(1.0, 25.0, 12)), (0.001, 0.01), most_rounds=5)
    # A safety net: it takes some 0.05 s.
    assert time.perf_counter() - begin < 60.0


@pytest.mark.parametrize(
    ("loss", "burst", "stride"), [(-0.1, 2.0, 1), (1.0, 2.0, 1), (0.1, 0.9, 1), (0.6, 1.0, 1), (0.1, 2.0, 0)]
)
def test_channels_that_cannot_be_are_refused(loss: float, burst: float, stride: int) -> None:
    with pytest.raises(ValueError, match="loss"):
        block_failure(12, 4, loss, burst, stride)


@pytest.mark.parametrize(("k", "m"), [(0, 4), (12, -1)])
def test_blocks_that_cannot_be_are_refused(k: int, m: int) -> None:
    with pytest.raises(ValueError, match="no block"):
        block_failure(k, m, 0.1, 3.0)
