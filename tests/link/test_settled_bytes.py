"""What is settled is counted with all that was sent for it, and nothing is counted twice."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.link import LinkConfig
from tests.link.test_sealed_sessions import sealed_wire
from tests.link.virtual_wire import Chance, expected, make_wire, nothing, some_pictures, sound

sizes = st.lists(st.integers(1, 3000), min_size=1, max_size=5)


@given(
    loss=st.floats(0, 0.4),
    parity=st.sampled_from([0.0, 0.25, 1.0]),
    base_parity=st.sampled_from([0.0, 0.5, 2.0]),
    adapt=st.booleans(),
    sealed=st.booleans(),
    seed=st.integers(0, 10**6),
    sizes=sizes,
)
@settings(max_examples=40)
def test_when_all_has_arrived_all_is_settled(
    loss: float, parity: float, base_parity: float, adapt: bool, sealed: bool, seed: int, sizes: list[int]
) -> None:
    config = LinkConfig(rate=9600.0, packet_bytes=256, parity=parity, base_parity=base_parity, adapt=adapt)
    make = sealed_wire if sealed else make_wire
    wire = make(config, up=Chance(seed, loss=loss), down=Chance(seed + 1, loss=loss))
    pictures = some_pictures(seed, 8, tuple(sizes))
    wire.submit(pictures)
    wire.run()
    statistics = wire.session.statistics
    assert wire.layers() == expected(pictures)
    assert statistics.payload_bytes_settled == statistics.payload_bytes_submitted
    assert statistics.wire_bytes_settled == statistics.bytes_sent == sum(map(len, wire.sent))


@given(parity=st.sampled_from([0.0, 0.5]), repeats=st.integers(1, 3), sizes=sizes)
@settings(max_examples=40)
def test_without_a_return_path_what_is_sent_is_settled(parity: float, repeats: int, sizes: list[int]) -> None:
    config = LinkConfig(rate=9600.0, packet_bytes=256, parity=parity, base_parity=parity, simplex=True, repeats=repeats)
    wire = make_wire(config, down=nothing)
    wire.submit(some_pictures(1, 8, tuple(sizes)))
    wire.run()
    statistics = wire.session.statistics
    assert statistics.payload_bytes_settled == statistics.payload_bytes_submitted
    assert statistics.wire_bytes_settled == statistics.bytes_sent


@pytest.mark.parametrize("parity", [0.0, 0.5])
def test_of_withdrawn_pictures_counts_what_was_sent(parity: float) -> None:
    config = LinkConfig(rate=9600.0, packet_bytes=256, parity=parity, base_parity=parity)
    wire = make_wire(config, up=nothing)
    wire.submit(some_pictures(3, 4, (300, 5000)))
    wire.run(until=10.0)
    statistics = wire.session.statistics
    assert (statistics.wire_bytes_settled, statistics.payload_bytes_settled) == (0, 0)
    wire.session.withdraw([0, 1, 2, 3], wire.now)
    assert statistics.wire_bytes_settled == statistics.bytes_sent
    assert 0 < statistics.payload_bytes_settled < 0.7 * statistics.payload_bytes_submitted
    assert 1.0 < statistics.wire_bytes_settled / statistics.payload_bytes_settled < 1.2 + parity
    # The rest is never sent, and the next pictures are counted as ever.
    sent = statistics.bytes_sent
    wire.up = sound
    before = statistics.payload_bytes_settled
    wire.submit({9: [bytes(300)]})
    wire.run()
    assert statistics.payload_bytes_settled - before == 300
    assert statistics.wire_bytes_settled == statistics.bytes_sent < sent + 900
