"""A key is revoked and allowed again while both ends run."""

import socket
import time

import pytest

from tests.endtoend.books import archived_layers, check_books, end_when_decoded, until_all_archived, until_archived
from tests.endtoend.ends import Ends
from tests.endtoend.running import pinhole
from tests.receiver.sending import free_port


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_a_revoked_sender_is_dropped_and_comes_back_when_it_is_allowed_again(ends: Ends, scheme: str) -> None:
    port = free_port(socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM)
    url = f"{scheme}://127.0.0.1:{port}"
    folder = ("--folder", str(ends.station_keys))
    ends.take_pictures(22)
    station = ends.start_station(url)
    sender = ends.start_sender(url)
    until_archived(ends, 6)
    pinhole("keys", "revoke", "drone7", *folder)
    station.wait_for("allow list read again: 0 keys may send")
    assert archived_layers(ends) < 3 * ends.pictures
    # Base layers of new pictures go before all that waits, so these would be the next to arrive.
    ends.take_pictures(4)
    sender.wait_for(f"taken as picture {ends.pictures},")
    # Over TCP the connection still stands; it is the seal that keeps the sender out.
    station.wait_for("is not on the allow list; see `pinhole keys allow`")
    if scheme == "tcp":
        ends.kill(sender)
        sender = ends.start_sender(url)
        sender.wait_for("the station does not list this sender's keys")
        station.wait_for("the CURVE key of a connection is not on the allow list")
    else:
        time.sleep(1.0)  # more than a round trip, in which the sender tries
    for number in range(ends.pictures - 3, ends.pictures + 1):
        assert not list(ends.archive.glob(f"*/{number}"))
    pinhole("keys", "allow", "drone7", str(ends.station_keys / "drone7.pub"), "--again", *folder)
    station.wait_for("allow list read again: 1 key may send")
    until_all_archived(ends)
    ends.kill(sender)
    ends.start_sender(url, "--once").ended()
    assert len(station.said_in("of this kind are only counted")) == len({*_causes(station.said)})
    end_when_decoded(ends, station)
    check_books(ends)


def _causes(said: str) -> list[str]:
    return [line.split(" (")[0] for line in said.splitlines() if "of this kind are only counted" in line]
