from pathlib import Path

import pytest

from shared.errors import PinholeError
from shared.settings import load_settings, refuse_unknown


def written(folder: Path, text: str) -> Path:
    path = folder / "pinhole.toml"
    path.write_text(text)
    return path


def test_tables_come_back_with_underscores(tmp_path: Path) -> None:
    text = '[compress]\nmax-bytes = 10\n[send]\nto = "udp://x:1"\nlist = [1, 2.5, true]\n[a.b-c]\nd-e = 1'
    path = written(tmp_path, text)
    assert load_settings(path) == {
        "compress": {"max_bytes": 10},
        "send": {"to": "udp://x:1", "list": [1, 2.5, True]},
        "a": {"b_c": {"d_e": 1}},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("budget = 1", "'budget' stands outside a table"),
        ("[send\n", "no TOML"),
        ("[send]\nsince = 2026-01-01", r"\[send\] since: a date is no setting"),
        ("[send]\nmax-bytes = 1\nmax_bytes = 2", "set twice"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PinholeError, match=message) as caught:
        load_settings(written(tmp_path, text))
    assert "pinhole.toml" in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(PinholeError, match=r"absent\.toml: No such file"):
        load_settings(tmp_path / "absent.toml")
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(PinholeError, match="no TOML"):
        load_settings(path)


def test_unknown_keys_name_their_neighbour() -> None:
    refuse_unknown(["a"], ["a", "b"], "here")
    with pytest.raises(PinholeError, match="here: unknown setting 'budge'; did you mean 'budget'"):
        refuse_unknown(["budge"], ["budget", "to"], "here")
    with pytest.raises(PinholeError, match="known are: budget, to"):
        refuse_unknown(["zzz"], ["to", "budget"], "here")
