"""New keys at both ends, as docs/security.md tells to change them, while pictures flow."""

import socket

import pytest

from tests.endtoend.books import archived_layers, check_books, end_when_decoded, until_all_archived, until_archived
from tests.endtoend.ends import Ends
from tests.endtoend.running import pinhole
from tests.receiver.sending import free_port


def fingerprint(of: str, folder: str) -> str:
    shown = pinhole("keys", "show", of, "--folder", folder).splitlines()
    (found,) = [line.removeprefix("fingerprint").strip() for line in shown if line.startswith("fingerprint")]
    return found


@pytest.mark.slow
def test_keys_of_both_ends_change_and_no_picture_is_lost(ends: Ends) -> None:
    url = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    at_sender, at_station = str(ends.sender_keys), str(ends.station_keys)

    def more_arrives() -> None:
        ends.take_pictures(3)
        until_archived(ends, archived_layers(ends) + 6)

    ends.take_pictures(12)
    station = ends.start_station(url)
    sender = ends.start_sender(url)
    more_arrives()
    # The sender's key.
    public = pinhole("keys", "new", "drone7b", "--role", "sender", "--replaces", "drone7", "--folder", at_sender)
    pinhole("keys", "allow", "drone7", public.strip(), "--folder", at_station)
    station.wait_for("allow list read again: 2 keys may send")
    more_arrives()
    ends.kill(sender)
    ends.sender_key = "drone7b"
    sender = ends.start_sender(url)
    more_arrives()
    pinhole("keys", "revoke", "drone7", "--key", fingerprint("drone7", at_sender), "--folder", at_station)
    (ends.sender_keys / "drone7.key").unlink()
    station.wait_for("allow list read again: 1 key may send")
    more_arrives()
    # The station's; the sender that runs goes on with the old one.
    public = pinhole("keys", "new", "ground2", "--role", "station", "--replaces", "ground", "--folder", at_station)
    (ends.sender_keys / "ground2.pub").write_text(public)
    ends.kill(station)
    ends.station_key = "ground2"
    station = ends.start_station(url)
    more_arrives()
    ends.kill(sender)
    ends.known_station = "ground2.pub"
    sender = ends.start_sender(url)
    more_arrives()
    (ends.station_keys / "ground.key").unlink()
    ends.kill(station)
    station = ends.start_station(url)
    more_arrives()
    until_all_archived(ends)
    ends.kill(sender)
    # Who still has the old public key of the station is not heard any more.
    ends.take_pictures(1)
    ends.known_station = "ground.pub"
    sender = ends.start_sender(url)
    station.wait_for("none of the keys listed as that made it")
    ends.kill(sender)
    assert archived_layers(ends) == 3 * (ends.pictures - 1)
    ends.known_station = "ground2.pub"
    ends.start_sender(url, "--once").ended()
    end_when_decoded(ends, station)
    check_books(ends)
