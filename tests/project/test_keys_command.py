import json
import os
from pathlib import Path

import pytest

from pinhole.cli import run
from shared.allowlist import allowed_path, load_allowed
from shared.keyfiles import key_path, load_secret
from shared.link.keys import PublicKey, Role

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def new(capsys: Captured, name: str, role: str, *more: str) -> str:
    """Make a key and return its public line."""
    assert run(["keys", "new", name, "--role", role, *more]) == 0
    return capsys.readouterr().out.strip()


def test_two_ends_meet(tmp_path: Path, capsys: Captured) -> None:
    station = new(capsys, "ground", "station")
    line = new(capsys, "drone7", "sender")
    assert PublicKey.parse(station).role is Role.STATION
    assert load_secret(key_path("drone7"), Role.SENDER).public.text == line
    assert run(["keys", "allow", "drone7", line]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "drone7" in shown.err
    assert PublicKey.parse(line).fingerprint in shown.err
    assert [(sender.name, sender.key.text) for sender in load_allowed(allowed_path())] == [("drone7", line)]
    assert run(["keys", "allow", "drone7", line]) == 0
    assert "is allowed already" in capsys.readouterr().err


def test_only_the_public_line_goes_to_standard_output(capsys: Captured) -> None:
    assert run(["keys", "new", "ground", "--role", "station"]) == 0
    shown = capsys.readouterr()
    key = load_secret(key_path("ground"))
    assert shown.out == f"{key.public.text}\n"
    for words in (str(key_path("ground")), key.public.fingerprint, "pinhole receive --key ground"):
        assert words in shown.err
    text = key_path("ground").read_text()
    private = [line.split('"')[1] for line in text.splitlines() if line.startswith(("seal", "curve"))]
    assert len(private) == 2
    assert run(["keys", "show", "ground"]) == 0
    assert run(["keys", "list"]) == 0
    assert run(["keys", "list", "--json"]) == 0
    rest = capsys.readouterr()
    assert not any(half in shown.out + shown.err + rest.out + rest.err for half in private)


def test_a_key_is_never_overwritten(capsys: Captured) -> None:
    line = new(capsys, "drone7", "sender")
    assert run(["keys", "new", "drone7", "--role", "sender"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("pinhole keys: ")
    assert "never overwritten" in shown.err
    assert load_secret(key_path("drone7")).public.text == line


def test_a_key_takes_the_place_of_another(tmp_path: Path, capsys: Captured) -> None:
    first = PublicKey.parse(new(capsys, "drone7", "sender"))
    second = PublicKey.parse(new(capsys, "drone7b", "sender", "--replaces", "drone7"))
    third = PublicKey.parse(new(capsys, "drone7c", "sender", "--replaces", str(key_path("drone7b"))))
    assert first.identity == second.identity == third.identity
    assert len({first.seal, second.seal, third.seal}) == 3
    for key in (first, second):
        assert run(["keys", "allow", "drone7", key.text]) == 0
    capsys.readouterr()
    assert run(["keys", "revoke", "drone7", "--key", first.fingerprint]) == 0
    shown = capsys.readouterr().err
    assert f"revoked {first.fingerprint}" in shown
    assert "1 allowed key left" in shown
    assert [sender.key for sender in load_allowed(allowed_path())] == [second]
    assert run(["keys", "new", "ground", "--role", "station", "--replaces", "drone7"]) == 1
    assert "that of a station must be" in capsys.readouterr().err
    assert not key_path("ground").exists()


def test_a_revoked_key_stays_out(capsys: Captured) -> None:
    line = new(capsys, "drone7", "sender")
    assert run(["keys", "allow", "drone7", line]) == 0
    assert run(["keys", "revoke", "drone7"]) == 0
    assert "0 allowed keys left" in capsys.readouterr().err
    assert run(["keys", "allow", "drone7", line]) == 1
    assert "was revoked" in capsys.readouterr().err
    assert load_allowed(allowed_path()) == []
    assert run(["keys", "allow", "drone7", line, "--again"]) == 0
    assert [sender.name for sender in load_allowed(allowed_path())] == ["drone7"]
    assert run(["keys", "revoke", "drone8"]) == 1
    assert "drone8 is not among the allowed senders" in capsys.readouterr().err


def test_keys_are_shown(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    line = new(capsys, "ground", "station")
    key = PublicKey.parse(line)
    monkeypatch.chdir(tmp_path)
    Path("ground.pub").write_text(f"# ours\n{line}\n")
    # A file that happens to have the name of a key does not stand in its way.
    Path("ground").write_text("rubbish")
    for which in ("ground", str(key_path("ground")), "ground.pub", str(tmp_path / "ground.pub"), line):
        assert run(["keys", "show", which]) == 0
        facts = dict(row.split(None, 1) for row in capsys.readouterr().out.splitlines())
        assert facts["public"] == line
        assert facts["role"] == "station"
        assert facts["identity"] == f"{key.identity:08x}"
        assert facts["fingerprint"] == key.fingerprint
        assert ("made" in facts) == (which in ("ground", str(key_path("ground"))))
    assert run(["keys", "show", line[:-1]]) == 1
    assert "copy the whole line again" in capsys.readouterr().err
    assert run(["keys", "show", "none"]) == 1
    assert "there: ground" in capsys.readouterr().err


def test_keys_are_listed(capsys: Captured) -> None:
    assert run(["keys", "list"]) == 0
    assert "there are no keys in" in capsys.readouterr().out
    assert run(["keys", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    new(capsys, "ground", "station")
    one, two = new(capsys, "one", "sender"), new(capsys, "two", "sender")
    for name, line in (("one", one), ("two", two)):
        assert run(["keys", "allow", name, line]) == 0
    assert run(["keys", "revoke", "two"]) == 0
    key_path("two").chmod(0o640)
    capsys.readouterr()
    assert run(["keys", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["state"]) for row in rows] == [
        ("ground", "own"),
        ("one", "own"),
        ("two", "unusable"),
        ("one", "allowed"),
        ("two", "revoked"),
    ]
    assert "chmod 600" in rows[2]["problem"]
    assert rows[4]["public"] == two
    assert rows[4]["fingerprint"] == PublicKey.parse(two).fingerprint
    assert rows[0]["made"].endswith(" UTC")
    assert run(["keys", "list"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 6
    assert PublicKey.parse(one).fingerprint in table[2]
    assert "mode 0640" in table[3]


def test_another_folder(tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "other folder"
    assert run(["keys", "new", "drone7", "--role", "sender", "--folder", str(folder)]) == 0
    shown = capsys.readouterr()
    # What is to be typed next must work as it stands.
    assert f"--key '{folder / 'drone7.key'}'" in shown.err
    (tmp_path / "drone7.pub").write_text(shown.out)
    assert run(["keys", "allow", "drone7", str(tmp_path / "drone7.pub"), "--folder", str(folder)]) == 0
    assert run(["keys", "show", "drone7", "--folder", str(folder)]) == 0
    assert run(["keys", "revoke", "drone7", "--folder", str(folder)]) == 0
    capsys.readouterr()
    assert run(["keys", "list", "--folder", str(folder)]) == 0
    assert "revoked" in capsys.readouterr().out
    assert not key_path("drone7").parent.exists()
    assert sorted(os.listdir(folder)) == [".lock", "allowed", "drone7.key"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["new", "a"], 2, "--role"),
        (["new", "a", "--role", "relay"], 2, "relay"),
        (["new", "a/b", "--role", "sender"], 1, "no name"),
        (["new", "a", "--role", "sender", "--replaces", "b"], 1, "there is no key b"),
        (["allow", "a", "nothing"], 1, "neither a public key nor a file"),
        (["allow", "a"], 2, "PUBLIC_LINE|FILE"),
        (["revoke", "a"], 1, "there is no allow list"),
        (["show", "a"], 1, "pinhole keys new a --role ROLE"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], status: int, words: str, capsys: Captured) -> None:
    assert run(["keys", *arguments]) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert words in shown.err


def test_a_stations_key_is_not_allowed(capsys: Captured) -> None:
    line = new(capsys, "ground", "station")
    assert run(["keys", "allow", "ground", line]) == 1
    assert "key of a station" in capsys.readouterr().err
    assert not allowed_path().exists()
