"""Sealed pictures over ZeroMQ with CURVE and its allow list: ends are killed and connections cut, in mid-transfer."""

import pytest

from tests.endtoend.books import archived_layers, check_books, end_when_decoded, until_all_archived, until_archived
from tests.endtoend.ends import Ends
from tests.endtoend.tcp_cut import TcpCut
from tests.receiver.sending import free_port


@pytest.mark.slow
def test_every_picture_arrives_once_whoever_is_killed(ends: Ends) -> None:
    port = free_port()
    listen = f"tcp://127.0.0.1:{port}"
    with TcpCut(port) as wire:
        to = f"tcp://127.0.0.1:{wire.port}"
        ends.take_pictures(22)
        station = ends.start_station(listen)
        sender = ends.start_sender(to)
        for victim in ["wire", "station", "sender", "wire", "sender", "station", "wire"]:
            until_archived(ends, archived_layers(ends) + 6)
            if victim == "wire":
                assert wire.cut() == 1
            else:
                ends.kill(station if victim == "station" else sender)
            assert archived_layers(ends) < 3 * ends.pictures
            ends.take_pictures(2)
            if victim == "station":
                station = ends.start_station(listen)
            elif victim == "sender":
                sender = ends.start_sender(to)
        until_all_archived(ends)
        ends.kill(sender, station)
        ends.take_pictures(3)
        station = ends.start_station(listen)
        ends.start_sender(to, "--once").ended()
        end_when_decoded(ends, station)
    check_books(ends)
