import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.archive import Archive, ReceivedLayer, Stored
from receiver.pictures import PictureKey, Stage, State, complete_prefix
from shared.errors import PinholeError
from tests.receiver.fake_decoder import BUNDLE, make_layers, received

KEY = PictureKey(0x2A, 7)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    opened = Archive(str(tmp_path / "archive"), bundle_id=BUNDLE, clock=lambda: 1000.0)
    yield opened
    opened.close()


def test_a_layer_is_stored_exactly_once_and_survives_reopening(tmp_path: Path) -> None:
    url = str(tmp_path / "archive")
    first = Archive(url, bundle_id=BUNDLE)
    assert first.store_layer(received(0x2A, 7, 0))
    assert not first.store_layer(received(0x2A, 7, 0))
    first.close()
    again = Archive(url, bundle_id=BUNDLE)
    assert not again.store_layer(received(0x2A, 7, 0))
    assert again.read_layers(KEY, 1) == (make_layers(7)[:1], None)
    assert (tmp_path / "archive/0000002a/7/layer-0.bin").read_bytes() == make_layers(7)[0]
    again.close()


def test_the_index_knows_what_the_header_says(archive: Archive) -> None:
    archive.store_layer(received(0x2A, 7, 1))
    record = archive.index.picture(KEY)
    assert record is not None
    assert (record.state, record.layers_have, record.bundle) == (State.INCOMPLETE, 0, None)
    archive.store_layer(received(0x2A, 7, 0))
    record = archive.index.picture(KEY)
    assert record is not None
    assert (record.width, record.height, record.quality, record.captured) == (12, 8, 2, 1_700_000_007)
    assert (record.layers_have, record.layers_total, record.bundle) == (2, 3, BUNDLE)
    assert record.state is State.RECEIVED
    assert record.layer_bytes == sum(len(layer) for layer in make_layers(7)[:2])


@settings(max_examples=25, deadline=None)
@given(
    arrivals=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=25),
    cut=st.integers(0, 25),
)
def test_any_order_with_repeats_and_a_restart_stores_every_layer_once(
    tmp_path_factory: pytest.TempPathFactory, arrivals: list[tuple[int, int, int]], cut: int
) -> None:
    url = str(tmp_path_factory.mktemp("archive"))
    layers = [received(sender, sequence, layer, 4) for sender, sequence, layer in arrivals]
    archive = Archive(url, bundle_id=BUNDLE)
    outcomes = archive.store_layers(layers[:cut]).stored
    archive.close()
    archive = Archive(url, bundle_id=BUNDLE)
    outcomes += archive.store_layers(layers[cut:]).stored
    new = [arrival for arrival, outcome in zip(arrivals, outcomes, strict=True) if outcome is Stored.NEW]
    assert sorted(new) == sorted(set(arrivals))
    for record in archive.index.pictures():
        present = [layer for sender, sequence, layer in new if (sender, sequence) == record.key]
        assert record.layers_have == complete_prefix(present)
        assert record.layer_bytes == sum(len(make_layers(record.key.sequence, 4)[layer]) for layer in present)
        assert archive.read_layers(record.key, record.layers_have) == (
            make_layers(record.key.sequence, 4)[: record.layers_have],
            None,
        )
    archive.close()


def test_other_bytes_under_a_known_number_never_replace_the_first(archive: Archive) -> None:
    archive.store_layer(received(0x2A, 7, 0))
    report = archive.store_layers([ReceivedLayer(KEY, 0, 3, b"something else")])
    assert report.stored == [Stored.CONFLICT]
    assert archive.read_layers(KEY, 1) == (make_layers(7)[:1], None)


def test_a_full_disk_in_the_middle_keeps_what_was_written_and_names_the_trouble(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace
    written: list[Path] = []

    def full_after_two(source: Path, target: Path) -> None:
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)
        written.append(target)

    monkeypatch.setattr(os, "replace", full_after_two)
    layers = [received(0x2A, 7, layer) for layer in range(3)]
    report = archive.store_layers(layers)
    assert report.stored == [Stored.NEW, Stored.NEW, None]
    assert report.refused == {}
    assert "No space left on device" in str(report.error)
    assert "space" in str(report.error)
    monkeypatch.undo()
    assert archive.store_layers(layers).stored == [Stored.DUPLICATE, Stored.DUPLICATE, Stored.NEW]


def test_a_full_disk_is_not_tried_again_for_every_layer(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[Path] = []

    def full(source: Path, target: Path) -> None:
        attempts.append(target)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    report = archive.store_layers([received(sender, 1, 0) for sender in range(64)])
    assert report.stored == [None] * 64
    assert len(attempts) == 1


def test_a_picture_without_a_place_holds_up_no_other(archive: Archive) -> None:
    root = archive.files.local_root
    assert root is not None
    (root / "00000001").write_text("a file where a folder must be")
    (root / "00000002" / "5").mkdir(parents=True)
    (root / "00000002" / "5" / "layer-1.bin").mkdir()
    layers = [received(1, 1, 0), *(received(2, 5, layer) for layer in range(3)), received(2, 6, 0), received(3, 1, 0)]
    report = archive.store_layers(layers)
    # Of the picture of which the second layer has no place, the third waits for it.
    assert report.stored == [None, Stored.NEW, None, None, Stored.NEW, Stored.NEW]
    assert report.refused.keys() == {PictureKey(1, 1), PictureKey(2, 5)}
    assert "00000001/1/layer-0.bin" in str(report.refused[PictureKey(1, 1)])
    assert report.error is None
    record = archive.index.picture(PictureKey(2, 5))
    assert record is not None
    assert record.layers_have == 1
    with pytest.raises(PinholeError, match="rights"):
        archive.store_layer(layers[0])
    (root / "00000001").unlink()
    (root / "00000002" / "5" / "layer-1.bin").rmdir()
    assert archive.store_layers(layers).stored == [
        *(Stored.NEW, Stored.DUPLICATE, Stored.NEW),
        *(Stored.NEW, Stored.DUPLICATE, Stored.DUPLICATE),
    ]


def test_a_full_index_reports_nothing_as_stored(archive: Archive) -> None:
    database = archive.files.local_root
    assert database is not None
    holder = sqlite3.connect(database / "index.sqlite")
    pages = holder.execute("PRAGMA page_count").fetchone()[0]
    holder.close()
    # SQLite's own way to run out of space: a page limit on the connection.
    with archive.index._engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    report = archive.store_layers([received(1, sequence, 0) for sequence in range(100)])
    assert report.stored == [None] * 100
    assert "full" in str(report.error)
    with archive.index._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    report = archive.store_layers([received(1, sequence, 0) for sequence in range(100)])
    assert report.stored == [Stored.NEW] * 100


def test_a_layer_that_a_crash_left_without_a_row_is_adopted(archive: Archive) -> None:
    layers = make_layers(7)
    archive.files.write("0000002a/7/layer-0.bin", layers[0])
    archive.files.write("0000002a/7/layer-1.bin", layers[1])
    archive.files.write("0000002a/7/notes.txt", b"not a layer")
    root = archive.files.local_root
    assert root is not None
    (root / "0000002a/7/.layer-2.bin.99.part").write_bytes(b"half")
    assert archive.adopt() == 2
    assert archive.adopt() == 0
    record = archive.index.picture(KEY)
    assert record is not None
    assert (record.layers_have, record.layers_total) == (2, 3)
    assert not list(root.rglob("*.part"))


def test_unfinished_work_is_found_again(archive: Archive) -> None:
    for sequence in range(4):
        for layer in range(3):
            archive.store_layer(received(1, sequence, layer))
    archive.store_layer(ReceivedLayer(PictureKey(1, 9), 0, 3, make_layers(9, bundle=b"else")[0]))
    archive.store_result(PictureKey(1, 0), Stage.PREVIEW, 3, b"png", seconds=0.1)
    archive.store_result(PictureKey(1, 0), Stage.FULL, 3, b"png", seconds=0.1)
    archive.store_result(PictureKey(1, 1), Stage.PREVIEW, 3, b"png", seconds=0.1)
    archive.index.add_error(PictureKey(1, 3), "does not decode", bad=1, now=0.0)
    unfinished = archive.index.unfinished(full=True, limit=10)
    assert [record.key.sequence for record in unfinished] == [2, 1]
    assert [record.key.sequence for record in archive.index.unfinished(full=False, limit=10)] == [2]
    assert [r.key.sequence for r in archive.index.unfinished(full=True, limit=1, skip=[PictureKey(1, 2)])] == [1]
    assert archive.index.count() == {
        State.DECODED: 1,
        State.PREVIEWED: 1,
        State.RECEIVED: 1,
        State.UNKNOWN_BUNDLE: 1,
        State.CORRUPT: 1,
    }


def test_a_result_of_fewer_layers_never_replaces_a_better_one(archive: Archive) -> None:
    for layer in range(3):
        archive.store_layer(received(0x2A, 7, layer))
    assert archive.store_result(KEY, Stage.FULL, 1, b"one", seconds=0.1) == 0
    assert archive.store_result(KEY, Stage.FULL, 3, b"three", seconds=0.1) == 1
    assert archive.store_result(KEY, Stage.FULL, 2, b"two", seconds=0.1) is None
    path = archive.local_path(KEY, Stage.FULL)
    assert path is not None
    assert path.read_bytes() == b"three"


def test_a_layer_that_rots_on_disk_is_noticed(archive: Archive) -> None:
    for layer in range(3):
        archive.store_layer(received(0x2A, 7, layer))
    root = archive.files.local_root
    assert root is not None
    path = root / "0000002a/7/layer-1.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    layers, damage = archive.read_layers(KEY, 3)
    assert layers == make_layers(7)[:1]
    assert "layer 1" in str(damage)


def test_one_writer_at_a_time(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(PinholeError, match="in use by another receiver"):
        Archive(str(tmp_path / "archive"))


def test_an_index_of_another_version_is_refused(tmp_path: Path) -> None:
    url = str(tmp_path / "archive")
    Archive(url).close()
    database = sqlite3.connect(tmp_path / "archive/index.sqlite")
    with database:
        database.execute("UPDATE properties SET value = '99' WHERE name = 'schema'")
    database.close()
    with pytest.raises(PinholeError, match="schema version 99"):
        Archive(url)


def test_a_damaged_index_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive/index.sqlite").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(PinholeError, match="not a database"):
        Archive(str(tmp_path / "archive"))


def test_a_file_in_the_place_of_the_archive_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"")
    with pytest.raises(PinholeError, match="cannot be opened"):
        Archive(str(tmp_path / "archive"))


def test_other_storage_works_through_fsspec_and_needs_an_index(tmp_path: Path) -> None:
    with pytest.raises(PinholeError, match="--index"):
        Archive("memory://station")
    archive = Archive("memory://station", index_url=f"sqlite:///{tmp_path / 'index.sqlite'}", bundle_id=BUNDLE)
    assert archive.store_layer(received(0x2A, 7, 0))
    assert not archive.store_layer(received(0x2A, 7, 0))
    assert archive.read_layers(KEY, 1) == (make_layers(7)[:1], None)
    archive.close()


def test_an_unreadable_header_is_kept_and_marked(archive: Archive) -> None:
    archive.store_layer(ReceivedLayer(KEY, 0, 1, b"\xff" * 40))
    record = archive.index.picture(KEY)
    assert record is not None
    assert (record.state, record.usable) == (State.CORRUPT, 0)
    assert record.error is not None
    assert "version" in record.error
