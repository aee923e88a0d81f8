import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import PinholeError
from shared.link import LinkConfig, SenderSession
from shared.link.budget import TokenBucket


@given(
    st.floats(1.0, 1e9),
    st.integers(1, 10_000),
    st.floats(0.0, 2e9),
    st.lists(st.tuples(st.floats(0.0, 100.0), st.integers(0, 10_000)), max_size=60),
)
def test_no_interval_exceeds_burst_and_rate(
    rate: float, burst: int, start: float, steps: list[tuple[float, int]]
) -> None:
    bucket = TokenBucket(rate, burst, start)
    now = start
    taken: list[tuple[float, int]] = []
    for wait, size in steps:
        now += wait
        if bucket.take(size, now):
            taken.append((now, size))
    for i, (begin, _) in enumerate(taken):
        total = 0
        for at, size in taken[i:]:
            total += size
            allowed = burst + rate / 8 * (at - begin)
            assert total <= allowed * (1 + 1e-9) + 1e-5


@given(st.floats(1.0, 1e9), st.integers(1, 5000), st.floats(0.0, 2e9), st.lists(st.integers(1, 5000), max_size=30))
def test_waiting_until_ready_is_enough(rate: float, burst: int, now: float, sizes: list[int]) -> None:
    bucket = TokenBucket(rate, burst, now)
    for size in sizes:
        ready = bucket.ready_at(size, now)
        if size > burst:
            assert ready == math.inf
            continue
        rounds = 0
        while not bucket.take(size, ready):
            later = bucket.ready_at(size, ready)
            assert later > ready
            ready = later
            rounds += 1
            assert rounds < 3
        now = ready


@given(st.floats(300.0, 1e6), st.integers(48, 1200), st.lists(st.integers(1, 3000), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_a_session_keeps_to_its_budget_repairs_and_questions_included(
    rate: float, packet_bytes: int, sizes: list[int]
) -> None:
    burst = 2 * packet_bytes
    config = LinkConfig(packet_bytes=packet_bytes, rate=rate, burst_bytes=burst, retransmit_after=0.5)
    session = SenderSession.unsealed(config, sender=1, epoch=1, now=0.0)
    for sequence, size in enumerate(sizes):
        session.submit(sequence, [bytes(size // 4), bytes(size)], 0.0)
    now, sent = 0.0, 0
    # Nobody answers, so this goes on for ever; the first packets and some questions are enough.
    for _ in range(300):
        session.handle_timer(now)
        for packet, _ in session.packets_to_send(now):
            assert len(packet) <= packet_bytes
            sent += len(packet)
        assert sent <= burst + rate * now / 8 + 1e-3
        timer = session.next_timer()
        assert timer is not None
        now = max(now, timer)
    assert session.statistics.bytes_sent == sent
    assert session.backlog_bytes == sum(size // 4 + size for size in sizes)


@pytest.mark.parametrize(
    "changes",
    [
        {"packet_bytes": 47},
        {"packet_bytes": 65508},
        {"parity": -0.1},
        {"base_parity": 2.1},
        {"interleave": 0},
        {"rate": 0.0},
        {"rate": 9600.0, "burst_bytes": 1199},
        {"repeats": 0},
        {"flush_after": float("nan")},
        {"retransmit_after": 0.0},
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(PinholeError, match="link setting") as caught:
        LinkConfig(**changes)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
