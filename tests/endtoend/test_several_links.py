"""A sender with two links, each to a relay of its own in front of one station; relays are killed in mid-transfer."""

import socket

import pytest

from tests.endtoend.books import archived_layers, check_books, end_when_decoded, until_all_archived, until_archived
from tests.endtoend.ends import Ends
from tests.endtoend.running import Running
from tests.receiver.sending import free_port


class TwoAntennas:
    """Relay 0 hears the sender over TCP and reaches the station over UDP, relay 1 the other way round."""

    def __init__(self, ends: Ends) -> None:
        tcp, udp = free_port(), free_port(socket.SOCK_DGRAM)
        # Relays have no keys, so they cannot do CURVE; the packets are sealed all the same.
        self.station = [f"udp://127.0.0.1:{udp}", f"tcp://127.0.0.1:{tcp}?curve=0"]
        tcp, udp = free_port(), free_port(socket.SOCK_DGRAM)
        self._listen = [f"tcp://127.0.0.1:{tcp}", f"udp://127.0.0.1:{udp}"]
        self.to = [f"{self._listen[0]}?curve=0", self._listen[1]]
        self._ends = ends
        self.relays: list[Running] = []

    def start(self, number: int) -> Running:
        return self._ends.start_relay(self._listen[number], self.station[number], f"relay-{number}")


@pytest.mark.slow
@pytest.mark.parametrize("links", ["fallback", "bond"])
def test_every_picture_arrives_once_whichever_antenna_is_killed(ends: Ends, links: str) -> None:
    antennas = TwoAntennas(ends)
    ends.take_pictures(22)
    station = ends.start_station(antennas.station)
    relays = [antennas.start(0), antennas.start(1)]
    sender = ends.start_sender(antennas.to, "--links", links)
    for number in (0, 1):
        until_archived(ends, archived_layers(ends) + 6)
        ends.kill(relays[number])
        assert archived_layers(ends) < 3 * ends.pictures
        ends.take_pictures(4)
        # Only the other one is there now.
        until_archived(ends, archived_layers(ends) + 9)
        relays[number] = antennas.start(number)
    until_all_archived(ends)
    if links == "fallback":
        carriers = [line.split(" ", 1)[1] for line in sender.said_in("carries the packets now")]
        assert carriers[0].startswith(antennas.to[0])
        assert any(line.startswith(antennas.to[1]) for line in carriers)
    ends.kill(sender)
    ends.start_sender(antennas.to, "--links", links, "--once").ended()
    for relay in relays:
        assert "dropped: none" in relay.end()
    end_when_decoded(ends, station)
    check_books(ends)
