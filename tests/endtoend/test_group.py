"""Two sealed stations with one key divide the senders of a broker among themselves; one is killed in mid-transfer."""

import shutil
from pathlib import Path

import pytest

from tests.endtoend.books import archived_layers
from tests.endtoend.ends import Ends
from tests.endtoend.running import until
from tests.transports.mosquitto import Mosquitto


@pytest.mark.slow
def test_the_station_that_is_left_takes_over(ends: Ends, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    other = Ends(folder)
    shutil.copytree(ends.station_keys, other.station_keys, dirs_exist_ok=True)
    both = [ends, other]

    def stored() -> list[str]:
        return [path.relative_to(of.archive).as_posix() for of in both for path in of.archive.glob("*/*/layer-*.bin")]

    def until_stored(layers: int) -> None:
        until(lambda: len(stored()) >= layers, f"{layers} layers are stored", lambda: ends.log_of("sender"))

    try:
        with Mosquitto(tmp_path) as broker:
            stations = [of.start_station(f"{broker.url}?share=ground") for of in both]
            ends.take_pictures(16)
            sender = ends.start_sender(broker.url)
            until_stored(6)
            # The one that has the sender's shard.
            victim = max((0, 1), key=lambda number: archived_layers(both[number]))
            both[victim].kill(stations[victim])
            before = len(stored())
            assert before < 3 * ends.pictures
            ends.take_pictures(4)
            until_stored(3 * ends.pictures)
            assert archived_layers(both[1 - victim]) >= 3 * ends.pictures - before
            ends.kill(sender)
            ends.start_sender(broker.url, "--once").ended()
            stations[1 - victim].end()
            assert not any("another client with this id" in station.said for station in stations)
    finally:
        other.kill_all()
    # Each layer is with one of them; with both only if the first was killed before its acknowledgement got through.
    assert len({*stored()}) == 3 * ends.pictures
    assert len(stored()) <= 3 * ends.pictures + before
