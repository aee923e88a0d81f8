"""The commands as people start them, with the pocket bundle, over a guarded broker; both are killed on the way."""

import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest

from receiver.pictures import Stage
from tests.endtoend.books import archived_layers, check_books, end_when_decoded, until_archived
from tests.endtoend.ends import Ends
from tests.endtoend.running import pinhole
from tests.endtoend.test_kills_over_mqtt import Guarded

PICTURES = 8


@pytest.mark.slow
def test_the_commands_bring_every_picture_once_though_they_are_killed(tmp_path: Path) -> None:
    ends = Ends(tmp_path, budget="2.4kbps", real=True)
    at_sender, at_station = ("--folder", str(ends.sender_keys)), ("--folder", str(ends.station_keys))
    station_line = pinhole("keys", "new", "ground", "--role", "station", *at_station)
    (ends.sender_keys / "ground.pub").write_text(station_line)
    pinhole("keys", "allow", "drone7", pinhole("keys", "new", "drone7", "--role", "sender", *at_sender), *at_station)
    ends.take_pictures(PICTURES)
    guarded = Guarded(tmp_path, ends)
    try:
        with guarded.broker:
            listen, to = guarded.url(guarded.station), guarded.url(guarded.sender)
            of_station = [*guarded.flags(guarded.station), "--no-full", "--device", "cpu"]
            of_sender = [*guarded.flags(guarded.sender), "--device", "cpu", "--packet-bytes", "200"]
            # Nobody answers, so all layers are still in the spool when it is killed.
            sender = ends.start_sender(to, *of_sender)
            sender.wait_for(f"taken as picture {PICTURES},")
            ends.kill(sender)
            layers = spooled(ends)
            assert len(layers) == PICTURES
            station = ends.start_station(listen, *of_station)
            sender = ends.start_sender(to, *of_sender)
            until_archived(ends, 1)
            ends.kill(sender, station)
            assert archived_layers(ends) < sum(map(len, layers.values()))
            station = ends.start_station(listen, *of_station)
            ends.start_sender(to, *of_sender, "--once").ended()
            told = end_when_decoded(ends, station, Stage.PREVIEW)
    finally:
        ends.kill_all()
    check_books(ends, layers)
    assert len(list(ends.archive.glob("*/*/preview.png"))) == PICTURES
    assert "0 full decodes" in told


def spooled(ends: Ends) -> dict[int, list[bytes]]:
    """What the spool holds, by the numbers of pictures."""
    layers: dict[int, list[bytes]] = defaultdict(list)
    with closing(sqlite3.connect(ends.spool / "spool.sqlite")) as database:
        for sequence, payload in database.execute("SELECT sequence, payload FROM layers ORDER BY sequence, layer"):
            layers[sequence].append(payload)
    return layers
