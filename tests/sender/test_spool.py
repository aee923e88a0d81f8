import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import count, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sender.renumbering import LARGEST_SEQUENCE, Renumbered, renumber
from sender.spool import FILE_NAME, Backlog, Spool, SpoolError, SpoolFullError, WaitingLayer
from shared.errors import PinholeError


def take(spool: Spool, name: str, layers: list[bytes], *, digest: bytes = b"digest", revision: str = "1") -> int:
    return spool.take(name, digest, revision, captured=0, quality=1, layers=layers)


def waiting(spool: Spool) -> dict[tuple[int, int], bytes]:
    layers = spool.waiting_bases(0, 10**6) + spool.waiting_refinements((0, 0), 10**6)
    return {(layer.sequence, layer.layer): layer.payload for layer in layers}


class SpoolMachine(RuleBasedStateMachine):
    """The spool against a dictionary, with restarts and power cuts at any point."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.now = 1000.0
        self.generation = 0
        self.spool = self.open()
        self.sender, self.starts = self.spool.sender, 1
        self.layers: dict[tuple[int, int], bytes] = {}
        self.taken_at: dict[int, float] = {}
        self.identities: set[tuple[str, bytes]] = set()
        self.sequences: list[int] = []
        self.names: dict[int, str] = {}

    def open(self) -> Spool:
        return Spool(Path(self.folder.name, str(self.generation)), clock=lambda: self.now)

    @rule(
        name=st.sampled_from("abc"),
        digest=st.binary(min_size=1, max_size=1),
        layers=st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=4),
    )
    def take(self, name: str, digest: bytes, layers: list[bytes]) -> None:
        assert self.spool.knows_content(name, digest, "r") == ((name, digest) in self.identities)
        if (name, digest) in self.identities:
            with pytest.raises(PinholeError, match="taken before"):
                take(self.spool, name, layers, digest=digest)
            return
        sequence = take(self.spool, name, layers, digest=digest)
        assert sequence > max(self.sequences, default=0)
        self.sequences.append(sequence)
        self.names[sequence] = name
        self.identities.add((name, digest))
        self.taken_at[sequence] = self.now
        self.layers.update({(sequence, index): layer for index, layer in enumerate(layers)})

    @precondition(lambda self: self.layers)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.layers)), max_size=6))
        before = {sequence for sequence, _ in self.layers}
        for key in chosen:
            self.layers.pop(key, None)
        done = before - {sequence for sequence, _ in self.layers}
        assert {picture.sequence for picture in self.spool.settle([*chosen, (10**9, 0)])} == done

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), above=st.integers(-5, 9))
    def renumber(self, data: st.DataObject, above: int) -> None:
        """The ground has other pictures under these numbers, whatever has become of ours."""
        chosen = data.draw(st.sets(st.sampled_from(self.sequences)))
        highest = max(0, self.sequences[-1] + above)
        pending = sorted({sequence for sequence, _ in self.layers} & chosen)
        first = max(self.sequences[-1], highest) + 1
        moved = self.spool.renumber(chosen, highest)
        assert [(picture.before, picture.sequence) for picture in moved] == [*zip(pending, count(first), strict=False)]
        assert [picture.name for picture in moved] == [self.names[sequence] for sequence in pending]
        new = {picture.before: picture.sequence for picture in moved}
        self.layers = {(new.get(sequence, sequence), layer): data for (sequence, layer), data in self.layers.items()}
        for before, sequence in new.items():
            self.taken_at[sequence], self.names[sequence] = self.taken_at[before], self.names[before]
        self.sequences += [*new.values()] or [first - 1]

    @rule(seconds=st.integers(1, 50))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(max_age=st.integers(1, 100), data=st.data())
    def expire(self, max_age: int, data: st.DataObject) -> None:
        pending = sorted({sequence for sequence, _ in self.layers})
        keep = set(data.draw(st.lists(st.sampled_from(pending)))) if pending else set()
        expected = [s for s in pending if self.taken_at[s] < self.now - max_age and s not in keep]
        assert sorted(self.spool.expire(max_age, keep=keep)) == expected
        self.layers = {key: layer for key, layer in self.layers.items() if key[0] not in expected}

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        if clean:
            self.spool.close()
            self.spool = self.open()
        else:
            # What a power cut leaves behind: the files as they are now, the log never merged, nothing closed.
            old, crashed = self.spool, Path(self.folder.name, str(self.generation))
            self.generation += 1
            shutil.copytree(crashed, Path(self.folder.name, str(self.generation)))
            old.close()
            self.spool = self.open()
        self.starts += 1

    @invariant()
    def same_as_the_model(self) -> None:
        assert waiting(self.spool) == self.layers
        pictures = {sequence for sequence, _ in self.layers}
        size = sum(map(len, self.layers.values()))
        assert self.spool.backlog == Backlog(len(pictures), len(self.layers), size)
        assert (self.spool.sender, self.spool.epoch) == (self.sender, self.starts)

    def teardown(self) -> None:
        self.spool.close()
        self.folder.cleanup()


SpoolMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestSpoolMachine = SpoolMachine.TestCase


def test_layers_come_in_order_and_in_portions(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for name in "abc":
        take(spool, name, [name.encode() * (index + 1) for index in range(3)])
    assert spool.waiting_bases(0, 2) == [WaitingLayer(1, 0, 3, b"a"), WaitingLayer(2, 0, 3, b"b")]
    assert spool.waiting_bases(2, 2) == [WaitingLayer(3, 0, 3, b"c")]
    portion = spool.waiting_refinements((1, 1), 2)
    assert [(layer.sequence, layer.layer) for layer in portion] == [(1, 2), (2, 1)]
    spool.close()


def test_a_new_revision_of_known_content_is_remembered(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    take(spool, "a", [b"x"], digest=b"d", revision="old")
    assert spool.knows_revision("a", "old")
    assert not spool.knows_revision("a", "new")
    assert spool.knows_content("a", b"d", "new")
    assert spool.knows_revision("a", "new")
    assert not spool.knows_content("b", b"d", "new")
    spool.close()


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    script = "import sys; from pathlib import Path; from sender.spool import Spool; Spool(Path(sys.argv[1]))"
    second = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert "SpoolError" in second.stderr
    assert "is in use by another process" in second.stderr
    assert take(spool, "a", [b"still mine"]) == 1
    spool.close()


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    take(spool, "small", [b"x"])
    # SQLite's own limit on the file gives the very error of a full disk.
    pages = spool._connection.execute("PRAGMA page_count").fetchone()[0]
    spool._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(SpoolFullError, match="free some space"):
        take(spool, "large", [b"y" * 100_000])
    assert waiting(spool) == {(1, 0): b"x"}
    assert spool.backlog == Backlog(1, 1, 1)
    spool._connection.execute("PRAGMA max_page_count = 100000")
    assert take(spool, "large", [b"y" * 100_000]) == 2
    spool.close()


def test_the_last_megabyte_is_kept_for_acknowledgements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    take(spool, "a", [b"x"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(SpoolFullError, match="free some space"):
        take(spool, "b", [b"y"])
    assert [picture.name for picture in spool.settle([(1, 0)])] == ["a"]
    monkeypatch.undo()
    assert take(spool, "b", [b"y"]) == 2
    spool.close()


def damaged(content: bytes, kind: str) -> bytes:
    if kind == "cut":
        return content[:5000]
    if kind == "foreign":
        return b"not a database " * 500
    return content[:4096] + bytes(len(content) - 4096)


@pytest.mark.parametrize("kind", ["cut", "foreign", "zeroed"])
def test_a_damaged_spool_is_one_line_with_the_mend(tmp_path: Path, kind: str) -> None:
    spool = Spool(tmp_path)
    take(spool, "a", [b"x" * 9000])
    spool.close()
    path = tmp_path / FILE_NAME
    path.write_bytes(damaged(path.read_bytes(), kind))
    with pytest.raises(SpoolError, match="damaged") as caught:
        Spool(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_databases_and_versions_are_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as other:
        other.execute("CREATE TABLE mine (x)")
    with pytest.raises(SpoolError, match="not a Pinhole spool"):
        Spool(tmp_path)
    Spool(tmp_path / "newer").close()
    with closing(sqlite3.connect(tmp_path / "newer" / FILE_NAME)) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(SpoolError, match="version 99"):
        Spool(tmp_path / "newer")


def test_a_state_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PinholeError, match="--state"):
        Spool(tmp_path / "file" / "state")


def test_a_spool_of_the_version_before_is_brought_up_to_date(tmp_path: Path) -> None:
    with closing(Spool(tmp_path)) as spool:
        sequence = spool.take("a", b"d", "r", captured=0, quality=1, layers=[b"base"])
        sender, epoch = spool.sender, spool.epoch
    with closing(sqlite3.connect(tmp_path / "spool.sqlite")) as old:
        old.execute("ALTER TABLE node DROP COLUMN session")
        old.execute("PRAGMA user_version = 1")
        old.commit()
    with closing(Spool(tmp_path)) as spool:
        assert (spool.sender, spool.epoch) == (sender, epoch + 1)
        assert spool.session > 0
        assert [layer.sequence for layer in spool.waiting_bases(0, 9)] == [sequence]


def test_a_picture_moves_with_what_is_left_of_it(tmp_path: Path) -> None:
    with closing(Spool(tmp_path)) as spool:
        for name in "abc":
            take(spool, name, [name.encode() * (index + 1) for index in range(3)])
        spool.settle([(2, 0), *((3, layer) for layer in range(3))])
        backlog = spool.backlog
        # The last has left the spool, and the fourth was never there.
        assert spool.renumber([4, 3, 2], 7) == [Renumbered("b", 2, 8)]
        assert spool.backlog == backlog
        assert take(spool, "d", [b"d"]) == 9
        refinements = spool.waiting_refinements((1, 2), 9)
        assert refinements == [WaitingLayer(8, 1, 3, b"bb"), WaitingLayer(8, 2, 3, b"bbb")]
        assert spool.knows_content("b", b"digest", "1")
        assert [picture.sequence for picture in spool.settle([(2, 1), (8, 1), (8, 2)])] == [8]


def test_a_power_cut_in_the_middle_of_it_moves_all_or_nothing(tmp_path: Path) -> None:
    with closing(Spool(tmp_path / "spool")) as spool:
        for name in "abc":
            take(spool, name, [name.encode() * 5000, b"more"])
        before = waiting(spool)
        with spool._transaction() as connection:
            renumber(connection, [1, 2], 10)
            shutil.copytree(tmp_path / "spool", tmp_path / "cut")
        with closing(Spool(tmp_path / "cut")) as cut:
            assert waiting(cut) == before
            assert take(cut, "d", [b"d"]) == 4
        shutil.copytree(tmp_path / "spool", tmp_path / "after")
        with closing(Spool(tmp_path / "after")) as after:
            moved = {1: 11, 2: 12, 3: 3}
            assert waiting(after) == {(moved[sequence], layer): data for (sequence, layer), data in before.items()}


def test_numbers_end_where_the_link_ends_and_nothing_is_lost_by_it(tmp_path: Path) -> None:
    with closing(Spool(tmp_path)) as spool:
        for name in "ab":
            take(spool, name, [b"base", b"more"])
        before = waiting(spool)
        with pytest.raises(SpoolError, match="used all its sequence numbers; pass a new --state"):
            spool.renumber([1, 2], LARGEST_SEQUENCE - 1)
        assert waiting(spool) == before
        assert take(spool, "c", [b"base"]) == 3
        assert spool.renumber([2], LARGEST_SEQUENCE - 1) == [Renumbered("b", 2, LARGEST_SEQUENCE)]
        with pytest.raises(SpoolError, match="used all its sequence numbers; pass a new --state"):
            take(spool, "d", [b"base"])


def test_a_later_start_of_a_copy_has_the_later_epoch(tmp_path: Path) -> None:
    """An unsealed station takes the later start for the newer one, wherever the spool comes from."""
    now = 1_700_000_000.0

    def start(state: str) -> int:
        with closing(Spool(tmp_path / state, clock=lambda: now)) as spool:
            return spool.epoch

    epochs = [start("state"), start("state")]
    shutil.copytree(tmp_path / "state", tmp_path / "backup")
    for wait in (0, 700, 0, 90 * 86_400, 20 * 86_400):
        now += wait
        epochs.append(start("state"))
    now += 700
    epochs += [start("backup"), start("backup")]
    now = 0.0  # a clock that was not set
    epochs.append(start("backup"))
    now = 1_700_000_000.0 + 230 * 86_400
    epochs.append(start("backup"))
    assert all(0 < (after - before) % 65536 < 32768 for before, after in pairwise(epochs))
