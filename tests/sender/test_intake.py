from pathlib import Path

import pytest

from sender.intake import Intake, Passed, Refused, Taken
from sender.rate import RatePolicy
from sender.source import WatchedFolder
from sender.spool import Spool, SpoolFullError
from shared.codec.interfaces import Pixels
from shared.picture import load_picture
from tests.sender.fake_encoder import FakeEncoder
from tests.sender.pictures import write_picture


class Failing(FakeEncoder):
    def encode(self, pixels: Pixels, quality: float, *, captured: int | None = None) -> list[bytes]:
        raise RuntimeError("no kernel\nfor this shape")


class Large(FakeEncoder):
    def encode(self, pixels: Pixels, quality: float, *, captured: int | None = None) -> list[bytes]:
        return [*super().encode(pixels, quality, captured=captured), bytes(50_000)]


def intake(folder: Path, spool: Spool, *, encoder: FakeEncoder | None = None) -> Intake:
    source = WatchedFolder(folder, taken=spool.knows_revision)
    return Intake(source, encoder or FakeEncoder(), spool, RatePolicy(quality=2))


def take_all(intake: Intake) -> list[Taken | Refused | Passed]:
    outcomes: list[Taken | Refused | Passed] = []
    while not intake.found_all or not outcomes:
        captures = intake.poll()
        outcomes += [intake.take(capture, len(captures) - index) for index, capture in enumerate(captures)]
        if intake.found_all:
            break
    return outcomes


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "state")


def test_a_picture_is_spooled_as_it_was_encoded(tmp_path: Path, spool: Spool) -> None:
    path = write_picture(tmp_path / "in" / "a.png", 1, modified=5000)
    (outcome,) = take_all(intake(tmp_path / "in", spool))
    layers = FakeEncoder().encode(load_picture(path), 2, captured=5000)
    assert outcome == Taken(1, "a.png", 2, 3, sum(map(len, layers)))
    stored = spool.waiting_bases(0, 9) + spool.waiting_refinements((0, 0), 9)
    assert [layer.payload for layer in stored] == layers


def test_nothing_is_taken_twice_but_a_changed_picture_is_new(tmp_path: Path, spool: Spool) -> None:
    folder = tmp_path / "in"
    path = write_picture(folder / "a.png", 1, modified=5000)
    assert isinstance(take_all(intake(folder, spool))[0], Taken)
    assert take_all(intake(folder, spool)) == []
    write_picture(path, 1, modified=6000)  # touched: read again, found to be the same
    assert take_all(intake(folder, spool)) == [Passed("a.png", changed=False)]
    assert take_all(intake(folder, spool)) == []
    write_picture(path, 2, modified=7000)
    assert take_all(intake(folder, spool)) == [Taken(2, "a.png", 2, 3, spool.backlog.payload_bytes - first_size(spool))]
    write_picture(folder / "copy.png", 2, modified=7000)
    assert [type(outcome) for outcome in take_all(intake(folder, spool))] == [Taken]


def first_size(spool: Spool) -> int:
    layers = spool.waiting_bases(0, 9) + spool.waiting_refinements((0, 0), 9)
    return sum(len(layer.payload) for layer in layers if layer.sequence == 1)


def test_bad_pictures_and_failing_encoders_are_one_line_each(tmp_path: Path, spool: Spool) -> None:
    folder = tmp_path / "in"
    write_picture(folder / "good.png", 1)
    (folder / "bad.png").write_bytes(b"not a picture")
    (folder / "empty.png").touch()
    outcomes = {outcome.name: outcome for outcome in take_all(intake(folder, spool))}
    assert isinstance(outcomes["good.png"], Taken)
    for name in ("bad.png", "empty.png"):
        refused = outcomes[name]
        assert isinstance(refused, Refused)
        assert name in refused.reason
        assert "\n" not in refused.reason
    write_picture(folder / "more.png", 2)
    failed = {outcome.name: outcome for outcome in take_all(intake(folder, spool, encoder=Failing()))}["more.png"]
    assert isinstance(failed, Refused)
    assert "no kernel for this shape" in failed.reason


def test_a_file_that_changes_while_it_is_read_waits(tmp_path: Path, spool: Spool) -> None:
    path = write_picture(tmp_path / "in" / "a.png", 1, modified=5000)
    one = intake(tmp_path / "in", spool)
    one.poll()
    (capture,) = one.poll()
    write_picture(path, 2, modified=6000)
    assert one.take(capture, 1) == Passed("a.png", changed=True)
    one.poll()
    (capture,) = one.poll()
    assert isinstance(one.take(capture, 1), Taken)


def test_a_full_disk_is_no_fault_of_the_picture(tmp_path: Path, spool: Spool) -> None:
    write_picture(tmp_path / "in" / "a.png", 1)
    one = intake(tmp_path / "in", spool, encoder=Large())
    one.poll()
    (capture,) = one.poll()
    pages = spool._connection.execute("PRAGMA page_count").fetchone()[0]
    spool._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(SpoolFullError):
        one.take(capture, 1)
    spool._connection.execute("PRAGMA max_page_count = 100000")
    assert isinstance(one.take(capture, 1), Taken)
