"""A sender whose spool is restored from a backup, over real sockets and with seals: both lives are in the archive."""

import hashlib
import shutil
import socket
import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from shared.picture import load_picture
from tests.endtoend.books import archived_layers, end_when_decoded, until_archived
from tests.endtoend.ends import Ends
from tests.endtoend.stand_ins import CheckedEncoder
from tests.receiver.sending import free_port


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_pictures_of_both_lives_are_archived_each_under_its_own_number(ends: Ends, scheme: str) -> None:
    port = free_port(socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM)
    url = f"{scheme}://127.0.0.1:{port}"
    ends.take_pictures(3)
    station = ends.start_station(url)
    ends.start_sender(url, "--once").ended()
    shutil.copytree(ends.spool, ends.spool.parent / "backup")
    ends.take_pictures(4)
    ends.start_sender(url, "--once").ended()
    until_archived(ends, 21)
    kept = pictures_of(ends)
    # The card is written anew, and the camera's folder with it: what the backup does not know is gone there.
    shutil.rmtree(ends.spool)
    (ends.spool.parent / "backup").rename(ends.spool)
    for number in range(3, 7):
        (ends.source / f"{number:04d}.png").unlink()
    ends.take_pictures(9)
    sender = ends.start_sender(url, "--once", name="restored")
    # Killed in the middle of it, and started again.
    sender.wait_for("goes on as picture")
    sender.kill()
    assert archived_layers(ends) < 48
    sender = ends.start_sender(url, "--once", name="again")
    sender.ended()
    until_archived(ends, 48)
    end_when_decoded(ends, station)
    found = pictures_of(ends)
    assert {key: found[key] for key in kept} == kept, "what was there first stays as it was"
    wanted = Counter(
        tuple(hashlib.sha256(layer).hexdigest() for layer in layers)
        for layers in (
            CheckedEncoder().encode(load_picture(path), 3, captured=int(path.stat().st_mtime))
            for path in sorted(ends.source.glob("*.png"))
            if int(path.stem) >= 7
        )
    )
    assert Counter(layers for key, layers in found.items() if key not in kept) == wanted
    with closing(sqlite3.connect(ends.spool / "spool.sqlite")) as spool:
        numbers = {number for (number,) in spool.execute("SELECT sequence FROM pictures WHERE state = 'done'")}
        assert spool.execute("SELECT count(*) FROM layers").fetchone() == (0,)
    assert numbers == {1, 2, 3, *(sequence for _, sequence in found.keys() - kept.keys())}
    told = ends.log_of("restored")
    assert told.count("seems to have been restored from a backup, or copied") == 1
    assert ends.log_of("station").count("came again with other bytes") == 1
    for name in ("station", "restored", "again"):
        assert "Traceback" not in ends.log_of(name)


def pictures_of(ends: Ends) -> dict[tuple[int, int], tuple[str, ...]]:
    """The digests of all layers of every picture, by sender and number."""
    with closing(sqlite3.connect(f"{(ends.archive / 'index.sqlite').as_uri()}?mode=ro", uri=True)) as index:
        rows = index.execute(
            "SELECT sender, sequence, sha256 FROM layers JOIN pictures ON pictures.id = picture_id "
            "ORDER BY sender, sequence, layer"
        ).fetchall()
    pictures: dict[tuple[int, int], tuple[str, ...]] = {}
    for sender, sequence, digest in rows:
        pictures[sender, sequence] = (*pictures.get((sender, sequence), ()), digest)
    return pictures
