"""Which id a station without keys has at a broker."""

from pathlib import Path
from typing import Any

import pytest

from pinhole import cli
from receiver import receive_command
from receiver.station_id import own_station_id
from shared.errors import PinholeError
from shared.keyfiles import write_secret
from shared.link.keys import Role, SecretKey


def test_it_is_the_same_after_a_restart_and_another_for_each_archive_and_machine(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    archives = ["archive", str(tmp_path / "archive"), "s3://bucket/archive"]
    first = [own_station_id(one, archive) for archive in archives]
    assert [own_station_id(one, archive) for archive in archives] == first
    ids = {*first, *(own_station_id(other, archive) for archive in archives)}
    assert len(ids) == 2 * len(archives)
    assert all(0 < number < 1 << 32 for number in ids)


def test_one_archive_has_one_id_however_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert own_station_id(tmp_path, "archive") == own_station_id(tmp_path, str(tmp_path / "x/../archive"))


def test_a_seed_that_cannot_be_kept_or_is_damaged_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PinholeError, match="folder"):
        own_station_id(tmp_path / "file" / "state", "archive")
    (tmp_path / "station-seed").write_bytes(b"short")
    with pytest.raises(PinholeError, match="damaged; remove it"):
        own_station_id(tmp_path, "archive")


def test_an_unsealed_station_at_a_broker_has_an_id_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stations: list[int] = []

    def run_station(*parts: Any, options: Any, **more: Any) -> bool:
        stations.append(options.station)
        return True

    monkeypatch.setattr(receive_command, "run_station", run_station)
    for archive, listen in (
        ("a", "mqtt://broker"),
        ("b", "mqtt://broker"),
        ("a", "mqtts://broker"),
        ("a", "tcp://*:1"),
    ):
        arguments = ["--archive", str(tmp_path / archive), "--listen", listen, "--state", str(tmp_path / "state")]
        assert cli.run(["receive", "--insecure", *arguments]) == 0
    first, second, again, unasked = stations
    assert first == again
    assert first != second
    assert 0 not in (first, second)
    assert unasked == 0, "nobody asks for it there, and so nothing is written"


def test_sealed_stations_of_a_group_have_ids_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have one key, or a sender could not tell whom to seal for."""
    secret = SecretKey.generate(Role.STATION)
    write_secret(tmp_path / "ground.key", secret)
    (tmp_path / "allowed").write_text("")
    stations: list[int] = []

    def run_station(*parts: Any, options: Any, **more: Any) -> bool:
        stations.append(options.station)
        return True

    monkeypatch.setattr(receive_command, "run_station", run_station)
    for state, url in (
        ("a", "mqtt://broker?share=ground"),
        ("b", "mqtt://broker?share=ground"),
        ("c", "mqtt://broker"),
    ):
        keys = ["--key", str(tmp_path / "ground.key"), "--allowed", str(tmp_path / "allowed")]
        where = ["--archive", str(tmp_path / "archive"), "--state", str(tmp_path / state), "--listen", url]
        assert cli.run(["receive", *keys, *where]) == 0
    assert len({*stations}) == 3
    assert stations[2] == secret.identity


def test_a_state_folder_that_cannot_be_looked_into_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PinholeError, match="name too long"):
        own_station_id(tmp_path / ("x" * 300), "archive")
