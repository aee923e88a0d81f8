from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sender.feed import Feed
from sender.spool import Spool
from shared.link.config import LinkConfig
from shared.link.events import LayerAcknowledged
from shared.link.sender_session import SenderSession
from shared.link.station import Station

EPOCH = 7


def fill(spool: Spool, pictures: int, sizes: tuple[int, ...]) -> dict[tuple[int, int], bytes]:
    """Take pictures with layers of the given sizes; return the layers."""
    layers = {}
    for index in range(pictures):
        parts = [bytes([index % 256, layer]) * size for layer, size in enumerate(sizes)]
        sequence = spool.take(f"{index}", b"d", "r", captured=0, quality=1, layers=parts)
        layers.update({(sequence, layer): part for layer, part in enumerate(parts)})
    return layers


def session(spool: Spool, config: LinkConfig | None = None) -> SenderSession:
    return SenderSession.unsealed(config or LinkConfig(), sender=spool.sender, epoch=spool.epoch, now=0.0)


def test_the_bases_of_all_pictures_go_first_and_the_window_holds(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    fill(spool, 10, (5, 5, 5))
    feed, sending = Feed(spool, window=4), session(spool)
    submitted = []
    while layers := feed.next_layers():
        feed.submit(layers, sending, 0.0)
        assert feed.in_session <= 8
        assert sending.backlog_bytes == 10 * feed.in_session
        keys = [(layer.sequence, layer.layer) for layer in layers]
        submitted += keys
        spool.settle(keys)
        feed.settled(keys)
        sending = session(spool)
    bases = [(sequence, 0) for sequence in range(1, 11)]
    refinements = [(sequence, layer) for sequence in range(1, 11) for layer in (1, 2)]
    assert submitted == bases + refinements


def test_a_full_window_takes_nothing_and_new_bases_overtake(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    fill(spool, 3, (5, 5, 5))
    feed, sending = Feed(spool, window=3), session(spool)
    layers = feed.next_layers()
    assert [(layer.sequence, layer.layer) for layer in layers] == [(1, 0), (2, 0), (3, 0), (1, 1), (1, 2), (2, 1)]
    feed.submit(layers, sending, 0.0)
    assert feed.next_layers() == []
    spool.take("late", b"d", "r", captured=0, quality=1, layers=[b"base", b"more"])
    assert feed.next_layers() == []
    feed.settled([(1, 1)])
    assert feed.next_layers() == [], "a base that waits goes before the next refinement"
    feed.settled([(1, 0)])
    assert [(layer.sequence, layer.layer) for layer in feed.next_layers()] == [(4, 0), (2, 2)]
    feed.forget([2])
    assert feed.in_session == 2


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    # A seed: of generated randomness Hypothesis may choose what loses every packet, and no transfer ends then.
    seed=st.integers(0, 2**32 - 1),
    rate=st.sampled_from([1200.0, 9600.0, 64_000.0]),
    pictures=st.integers(1, 12),
    loss=st.sampled_from([0.0, 0.2]),
)
def test_the_wire_never_carries_more_than_the_budget(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rate: float, pictures: int, loss: float
) -> None:
    """Spool, feed, session and station on a virtual clock: all arrives, and no interval exceeds burst + rate * t."""
    spool = Spool(tmp_path_factory.mktemp("state"))
    expected = fill(spool, pictures, (40, 300, 700))
    config = LinkConfig(rate=rate, burst_bytes=2400)
    random = Random(seed)
    feed, sending, station = Feed(spool, window=5), session(spool, config), Station(LinkConfig(), now=0.0)
    arrived: dict[tuple[int, int], bytes] = {}
    sent: list[tuple[float, int]] = []
    now = 0.0
    while spool.backlog.pictures:
        feed.submit(feed.next_layers(), sending, now)
        sending.handle_timer(now)
        station.handle_timer(now)
        for packet, _ in sending.packets_to_send(now):
            sent.append((now, len(packet)))
            if random.random() >= loss:
                station.receive_packet(packet, now, "path")
        while received := station.next_event():
            arrived[received.sequence, received.layer] = received.payload
            station.acknowledge(received.sender, received.sequence, received.layer, now)
        for _, packet in station.packets_to_send(now):
            sending.receive_packet(packet, now)
        acknowledged = []
        while event := sending.next_event():
            assert isinstance(event, LayerAcknowledged)
            acknowledged.append((event.sequence, event.layer))
        spool.settle(acknowledged)
        feed.settled(acknowledged)
        now += 0.25
        assert now < 3600 * 24, "the transfer does not end"
    assert arrived == expected
    # For every interval between two sendings: with a running sum this is a comparison with the best start so far.
    total, slack = 0, float("inf")
    for at, size in sent:
        slack = min(slack, total - rate * at / 8)
        total += size
        assert total - rate * at / 8 - slack <= 2400 + 1e-3
    spool.close()
