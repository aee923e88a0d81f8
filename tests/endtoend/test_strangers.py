"""Strangers reach a station that takes pictures: nothing of theirs gets in, and nothing of it is kept."""

import random
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from shared.keyfiles import load_secret
from shared.link.config import LinkConfig
from shared.link.keys import Role, SecretKey
from shared.link.packet import SEALED, VERSION_BITS, VERSION_MASK, encode_reset
from shared.link.sealed import SealedSender
from shared.link.sender_session import SenderSession
from tests.endtoend.books import archived_layers, check_books, end_when_decoded, until_archived
from tests.endtoend.ends import Ends
from tests.endtoend.udp_tap import UdpTap
from tests.receiver.fake_decoder import make_layers
from tests.receiver.sending import free_port

FORGED = 20_000
GROWTH = 24 << 20
"""Bytes that the station may grow; what it was sent meanwhile is several times that."""

CAUSES = {
    "of no session known here": "of no known session",
    "came before": "repeated",
    "of an earlier session of drone7": "of an earlier session",
    "is not sealed": "not sealed",
    "is not on the allow list": "of senders not listed",
    "none of the keys listed as that made it": "forged",
    "too short": "damaged",
    "version": "of another version",
}
"""What is said of the first packet of a kind, and what the kind is called when they are counted."""


def send_all(packets: Iterable[bytes], port: int) -> int:
    """Send datagrams to a station, not faster than it can read them."""
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for packet in packets:
            stranger.sendto(packet, ("127.0.0.1", port))
            sent += 1
            if sent % 100 == 0:
                time.sleep(0.01)
    return sent


def forgeries(count: int, sender: int, identity: SecretKey, models: list[bytes]) -> Iterator[bytes]:
    """Packets of every kind that nobody with a key has made."""
    chance = random.Random(1)
    yield bytes([VERSION_BITS | SEALED]) + bytes(7)
    for version in range(0, 256, VERSION_MASK & -VERSION_MASK):
        yield bytes([version]) + bytes(30)
    # The id of a listed sender with other keys, and its own key for a station that is not this one.
    other = SecretKey.generate(Role.SENDER, identity=identity.identity)
    station = SecretKey.generate(Role.STATION).public
    for secret in (other, identity):
        impostor = SealedSender(secret, station, sender=sender, session=2**40 - 1)
        yield from impostor.hello(1200)
        yield impostor.wrap(0, bytes(100), known=True)
    unsealed = SenderSession.unsealed(LinkConfig(), sender=sender, epoch=9, now=0.0)
    unsealed.submit(1, make_layers(1), 0.0)
    for packet, _ in unsealed.packets_to_send(100.0):
        yield packet
    for model in models:
        # Every bit of a header, and some of what is sealed.
        for bit in [*range(32), *chance.sample(range(32, 8 * len(model)), 32)]:
            changed = bytearray(model)
            changed[bit // 8] ^= 1 << bit % 8
            yield bytes(changed)
    for number in range(count):
        yield bytes([VERSION_BITS | SEALED, number & 0xFF]) + chance.randbytes(chance.randrange(18, 1200))


@pytest.mark.slow
def test_strangers_leave_no_trace(ends: Ends, tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    other = Ends(_folder(tmp_path / "stranger"))
    other.make_keys()
    shutil.copy(ends.sender_keys / "ground.pub", other.sender_keys)
    identity = load_secret(ends.sender_keys / "drone7.key")
    station = ends.start_station(f"udp://127.0.0.1:{port}")
    with UdpTap(port) as tap:
        ends.take_pictures(6)
        ends.start_sender(f"udp://127.0.0.1:{tap.port}", "--once").ended()
        earlier, reports = len(tap.up), tap.down[:]
        ends.take_pictures(40)
        sender = ends.start_sender(f"udp://127.0.0.1:{tap.port}", "--once")
        until_archived(ends, archived_layers(ends) + 6)
        number = int(next(iter(ends.archive.glob("*/*"))).parent.name, 16)
        assert archived_layers(ends) < 3 * ends.pictures
        before = station.resident_bytes
        other.take_pictures(3)
        unlisted = other.start_sender(f"udp://127.0.0.1:{port}")
        send_all(tap.up[:earlier], port)
        current = tap.up[earlier:]
        send_all(current, port)
        for packet in [*reports, *(encode_reset(tag) for tag in range(256)), bytes(40), b""]:
            tap.send_back(packet)
        sent = send_all(forgeries(FORGED, number, identity, current[-20:]), port)
        station.wait_for("not on the allow list")
        after = station.resident_bytes
        sender.ended()
        assert ", 0 acknowledged, 3 wait in the spool" in unlisted.end()
        other.kill_all()
    told = end_when_decoded(ends, station)
    check_books(ends)
    assert after - before < GROWTH
    dropped = station.said_in("dropped:")
    for said in CAUSES:
        assert len([line for line in dropped if said in line]) == 1, (said, dropped)
    assert len(dropped) == len(CAUSES), dropped
    counts = told.splitlines()[-1]
    for name in CAUSES.values():
        assert re.search(rf"[1-9]\d* {name}[,)]", counts), (name, counts)
    refused = re.search(r"(\d+) packets dropped", counts)
    assert refused is not None
    assert int(refused[1]) > sent // 2


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
