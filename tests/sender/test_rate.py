import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sender.rate import DEFAULT_LINK_SECONDS, ArrivalRate, RatePolicy, byte_target, encode_for, overhead_factor
from shared.errors import PinholeError
from tests.sender.fake_encoder import FakeEncoder

PIXELS = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@given(
    budget=st.floats(100, 1e7),
    overhead=st.floats(1, 4),
    latency=st.floats(0.1, 1000),
    backlog=st.integers(0, 10**6),
    waiting=st.integers(1, 1000),
)
def test_with_a_latency_everything_that_waits_fits_into_it(
    budget: float, overhead: float, latency: float, backlog: int, waiting: int
) -> None:
    policy = RatePolicy(budget=budget, overhead=overhead, latency=latency)
    target = byte_target(policy, backlog=backlog, waiting=waiting, interval=None)
    assert target is not None
    if target > 1:
        assert (backlog + waiting * target) * overhead * 8 / budget <= latency * (1 + 1e-9)


@given(budget=st.floats(1000, 1e7), interval=st.floats(0.5, 100), pictures=st.integers(1, 200))
def test_without_a_latency_a_steady_camera_builds_no_backlog(budget: float, interval: float, pictures: int) -> None:
    policy = RatePolicy(budget=budget, overhead=1.4)
    target = byte_target(policy, backlog=0, waiting=1, interval=interval)
    assert target is not None
    assert pictures * target * 1.4 * 8 / budget <= max(pictures * interval, 8 * 1.4 / budget * pictures)


def test_without_a_latency_a_picture_gets_ten_seconds_of_the_link() -> None:
    policy = RatePolicy(budget=9600, overhead=1.5)
    for backlog, waiting in ((0, 1), (10**6, 500)):
        target = byte_target(policy, backlog=backlog, waiting=waiting, interval=None)
        assert target == 9600 / 8 / 1.5 * DEFAULT_LINK_SECONDS


def test_fixed_choices_win() -> None:
    assert byte_target(RatePolicy(budget=9600, max_bytes=777), backlog=0, waiting=1, interval=1.0) == 777
    assert byte_target(RatePolicy(), backlog=10**9, waiting=99, interval=0.1) is None


def test_encoding_follows_the_policy() -> None:
    encoder = FakeEncoder()
    by_quality = {point.quality: encoder.encode(PIXELS, point.quality) for point in encoder.operating_points}
    assert encode_for(encoder, PIXELS, RatePolicy(quality=2), None, captured=None) == by_quality[2]
    assert encode_for(encoder, PIXELS, RatePolicy(), None, captured=None) == by_quality[3]
    size = sum(map(len, by_quality[2]))
    assert encode_for(encoder, PIXELS, RatePolicy(), size, captured=None) == by_quality[2]
    assert encode_for(encoder, PIXELS, RatePolicy(), size - 1, captured=None) == by_quality[1]
    assert encode_for(encoder, PIXELS, RatePolicy(), 1, captured=None) == by_quality[1][:1]


@pytest.mark.parametrize(
    "settings",
    [{"quality": 1, "max_bytes": 9}, {"budget": 0.0}, {"latency": -1.0}, {"max_bytes": 0}, {"quality": float("inf")}],
)
def test_senseless_policies_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(PinholeError):
        RatePolicy(**settings)  # type: ignore[arg-type]


def test_overhead_counts_parity_headers_and_repeats() -> None:
    bare = overhead_factor(parity=0, base_parity=0, packet_bytes=1200)
    assert 1 < bare < 1.03
    assert overhead_factor(parity=0.5, base_parity=0.5, packet_bytes=1200) == pytest.approx(1.5 * bare)
    assert overhead_factor(parity=0, base_parity=0, packet_bytes=1200, repeats=3) == pytest.approx(3 * bare)


def test_the_arrival_rate_follows_the_camera() -> None:
    rate = ArrivalRate(100.0)
    assert rate.after([], 200.0) == rate
    rate = rate.after(["a", "b"], 104.0)
    assert rate.interval == 2.0
    for step in range(1, 40):
        rate = rate.after(["c"], 104.0 + 5.0 * step)
    assert rate.interval == pytest.approx(5.0, rel=1e-3)


def test_a_quiet_night_does_not_hide_the_rush_of_the_morning() -> None:
    rate = ArrivalRate(0.0).after(["first"], 36_000.0)
    for step in range(1, 13):
        rate = rate.after(["next"], 36_000.0 + step)
    assert rate.interval is not None
    assert rate.interval < 2.0
