"""Sealed pictures over UDP and a bad link: loss in bursts, delay, jitter, other order, doubles; and ends are killed."""

from functools import partial

import pytest

from sim import namespaces
from sim.channel import ChannelConfig
from sim.loss import GilbertElliott
from sim.namespaces import STATION_ADDRESS, EmulatedLink, Side
from tests.endtoend.books import archived_layers, check_books, end_when_decoded, until_all_archived, until_archived
from tests.endtoend.ends import Ends

MISSING = namespaces.what_is_missing()

BAD = ChannelConfig(
    latency=0.25,
    jitter=0.1,
    keep_order=False,
    loss=GilbertElliott.from_mean(0.1, 3.0),
    duplication=0.05,
    corruption=0.01,
)
"""One way takes 0.3 s and 0.05 s more or less."""

SMALL = ("--packet-bytes", "300")


@pytest.mark.slow
@pytest.mark.skipif(MISSING is not None, reason=f"no network namespaces: {MISSING}")
def test_every_picture_arrives_once_whoever_is_killed(ends: Ends) -> None:
    url = f"udp://{STATION_ADDRESS}:7000"
    with EmulatedLink(BAD, BAD, seed=3) as link:
        there, here = partial(link.run, Side.STATION), partial(link.run, Side.SENDER)
        ends.take_pictures(22)
        station = ends.start_station(url, launch=there)
        sender = ends.start_sender(url, *SMALL, launch=here)
        for victim in ["station", "sender", "station", "sender"]:
            until_archived(ends, archived_layers(ends) + 6)
            ends.kill(station if victim == "station" else sender)
            assert archived_layers(ends) < 3 * ends.pictures
            ends.take_pictures(2)
            if victim == "station":
                station = ends.start_station(url, launch=there)
            else:
                sender = ends.start_sender(url, *SMALL, launch=here)
        until_all_archived(ends)
        ends.kill(sender, station)
        ends.take_pictures(4)
        station = ends.start_station(url, launch=there)
        ends.start_sender(url, *SMALL, "--once", launch=here).ended()
        end_when_decoded(ends, station)
    check_books(ends)
    if link.statistics is not None:
        forward = link.statistics.forward
        assert min(forward.lost, forward.reordered, forward.duplicated, forward.damaged) > 0
        assert link.statistics.back.reordered + link.statistics.back.duplicated > 0
