import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.errors import CorruptDataError, PinholeError
from shared.guarded_files import read_guarded, write_guarded
from shared.keyfiles import (
    check_name,
    checked_public,
    default_folder,
    find_public,
    find_secret,
    find_station_secrets,
    key_files,
    key_path,
    load_secret,
    load_station_secrets,
    parse_secret,
    write_secret,
)
from shared.link.keys import KEY_BYTES, PublicKey, Role, SecretKey

halves = st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)
secret_keys = st.builds(
    SecretKey,
    st.sampled_from(Role),
    st.integers(0, 2**32 - 1),
    halves,
    halves,
    st.integers(0, 253_402_300_799),
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def a_key(path: Path, role: Role = Role.SENDER, *, identity: int | None = None, made: int = 1_800_000_000) -> SecretKey:
    key = SecretKey.generate(role, identity=identity, made=made)
    write_secret(path, key)
    return key


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """The body raises one line with all these words."""
    with pytest.raises(PinholeError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@contextmanager
def file_mask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_the_folder_is_in_the_users_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert default_folder() == tmp_path / ".config/pinhole/keys"
    monkeypatch.setenv("XDG_CONFIG_HOME", "not/absolute")
    assert default_folder() == tmp_path / ".config/pinhole/keys"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "x"))
    assert default_folder() == tmp_path / "x/pinhole/keys"


@given(key=secret_keys)
def test_keys_come_back(tmp_path_factory: pytest.TempPathFactory, key: SecretKey) -> None:
    path = tmp_path_factory.mktemp("keys") / "a.key"
    write_secret(path, key)
    assert load_secret(path) == load_secret(path, key.role) == key


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o277])
def test_file_and_folder_are_for_their_owner_alone(tmp_path: Path, mask: int) -> None:
    with file_mask(mask & 0o077):
        path = tmp_path / "config" / "keys" / "a.key"
        path.parent.parent.mkdir()
        path.parent.parent.chmod(0o755)
    with file_mask(mask):
        a_key(path)
    assert mode(path) == 0o600
    assert mode(path.parent) & 0o077 == 0
    assert [file.name for file in path.parent.iterdir()] == ["a.key"]


def test_a_file_is_private_from_its_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    sync = os.fsync

    def watch(descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            seen.append(stat.S_IMODE(status.st_mode))
            assert not (tmp_path / "a.key").exists()
        sync(descriptor)

    real_open = os.open

    def open_and_look(path: "os.PathLike[str]", flags: int, mode: int = 0o777) -> int:
        descriptor = real_open(path, flags, mode)
        if flags & os.O_CREAT:
            assert flags & os.O_EXCL
            seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    monkeypatch.setattr(os, "fsync", watch)
    monkeypatch.setattr(os, "open", open_and_look)
    with file_mask(0):
        a_key(tmp_path / "a.key")
    assert seen == [0o600, 0o600]


def test_no_key_is_overwritten(tmp_path: Path) -> None:
    key = a_key(tmp_path / "a.key")
    with refused("a.key is there already", "another name"):
        a_key(tmp_path / "a.key")
    assert load_secret(tmp_path / "a.key") == key
    (tmp_path / "gone.key").symlink_to(tmp_path / "nowhere")
    with refused("is there already"):
        a_key(tmp_path / "gone.key")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.key", "gone.key"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with refused("a.key", "No space left"):
        a_key(tmp_path / "a.key")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with refused("cannot make folder", "give another folder"):
        a_key(tmp_path / "file" / "a.key")


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o602, 0o644, 0o660, 0o610, 0o601, 0o777])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "my key.key"
    a_key(path)
    path.chmod(bits)
    with refused("open to other users", f"mode {bits:04o}", f"`chmod 600 '{path}'`"):
        load_secret(path)
    # A link does not hide it.
    (tmp_path / "link.key").symlink_to(path)
    with refused("open to other users"):
        load_secret(tmp_path / "link.key")


@pytest.mark.parametrize("bits", [0o400, 0o600, 0o700])
def test_a_key_of_its_owner_alone_is_read(tmp_path: Path, bits: int) -> None:
    key = a_key(tmp_path / "real.key")
    (tmp_path / "real.key").chmod(bits)
    (tmp_path / "link.key").symlink_to("real.key")
    assert load_secret(tmp_path / "link.key") == key


def test_a_key_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.key"
    key = a_key(path)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    if user == 0:
        # What root put there is trusted.
        assert load_secret(path) == key
        os.chown(path, 4321, -1)
    with refused("belongs to another user", "chown"):
        load_secret(path)


def test_what_is_no_plain_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.key", 0o600)
    for path in (tmp_path / "pipe.key", tmp_path):
        with refused(str(path), "no plain file"):
            load_secret(path)
    with refused("there is no file"):
        load_secret(tmp_path / "none.key")
    with refused("cannot read", "null byte"):
        load_secret(tmp_path / "a\0.key")


def test_a_key_of_the_other_end_is_refused(tmp_path: Path) -> None:
    a_key(tmp_path / "s.key", Role.SENDER)
    with refused("s.key", "key of a sender", "that of a station must be"):
        load_secret(tmp_path / "s.key", Role.STATION)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    path.chmod(0o600)
    with refused("more than 65536 bytes"):
        load_secret(path)


@given(key=secret_keys, data=st.data())
def test_damage_is_noticed_and_no_private_key_told(
    tmp_path_factory: pytest.TempPathFactory, key: SecretKey, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("keys") / "a.key"
    write_secret(path, key)
    sound = path.read_bytes()
    start = sound.index(b"role = ")
    place = data.draw(st.integers(start, len(sound) - 1))
    damaged = bytearray(sound)
    damaged[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    private = [line.split(b'"')[1].decode() for line in sound.split(b"\n") if line.startswith((b"seal", b"curve"))]
    try:
        read = load_secret(path)
    except CorruptDataError as error:
        message = str(error)
        assert str(path) in message
        assert "pinhole keys new" in message
        # Not even a part that would help anybody.
        assert not any(half[i : i + 8] in message for half in private for i in range(36))
    else:
        # Spaces, comments and the date protect nothing.
        assert (read.role, read.identity, read.seal, read.curve) == (key.role, key.identity, key.seal, key.curve)


@given(st.one_of(st.binary(), st.text().map(str.encode)))
@example(b'role = "sender"')
@example(b"made = " + b"9" * 5000)
@example(b"[" * 5000)
def test_any_bytes_are_a_key_or_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(CorruptDataError):
        parse_secret(data)


toml_values = st.one_of(
    st.integers(), st.booleans(), st.floats(allow_nan=False), st.text(st.characters(codec="ascii")).map(repr)
)


@given(
    key=secret_keys, name=st.sampled_from(["role", "identity", "made", "seal", "curve", "public"]), value=toml_values
)
def test_any_setting_is_a_key_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, key: SecretKey, name: str, value: object
) -> None:
    path = tmp_path_factory.mktemp("keys") / "a.key"
    write_secret(path, key)
    written = f"{value}".lower() if isinstance(value, bool) else f"{value}"
    lines = [f"{name} = {written}" if line.startswith(name) else line for line in path.read_text().split("\n")]
    try:
        read = parse_secret("\n".join(lines).encode())
    except CorruptDataError:
        return
    assert name == "made"
    assert read.made == value
    assert type(read.made) is int


def test_keys_are_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    key = a_key(key_path("drone7"))
    assert key_path("drone7") == tmp_path / "pinhole/keys/drone7.key"
    assert find_secret("drone7", Role.SENDER) == key
    assert find_secret(str(key_path("drone7")), Role.SENDER) == key
    other = a_key(tmp_path / "other" / "drone7.key")
    assert find_secret("drone7", Role.SENDER, tmp_path / "other") == other
    monkeypatch.chdir(tmp_path / "other")
    assert find_secret("drone7.key", None) == other
    with refused("there is no key drone8", "there: drone7", "`pinhole keys new drone8 --role sender`"):
        find_secret("drone8", Role.SENDER)
    with refused("key of a sender"):
        find_secret("drone7", Role.STATION)
    with refused("there is no file"):
        find_secret("./drone8.key", Role.SENDER)
    with refused("no name"):
        find_secret("a b", Role.SENDER)


def test_a_station_has_several_keys_while_it_changes_them(tmp_path: Path) -> None:
    old = a_key(tmp_path / "ground.key", Role.STATION, made=10)
    newest = a_key(tmp_path / "a.key", Role.STATION, identity=old.identity, made=30)
    middle = a_key(tmp_path / "z.key", Role.STATION, identity=old.identity, made=20)
    other = a_key(tmp_path / "other.key", Role.STATION, made=25)
    a_key(tmp_path / "drone.key", Role.SENDER, identity=old.identity)
    (tmp_path / ".hidden.key").touch()
    assert load_station_secrets(tmp_path) == [newest, other, middle, old]
    assert load_station_secrets(tmp_path, old.identity) == [newest, middle, old]
    assert find_station_secrets("z", tmp_path) == [middle, newest, old]
    assert find_station_secrets(str(tmp_path / "other.key")) == [other]
    assert load_station_secrets(tmp_path / "none") == []
    assert [path.name for path in key_files(tmp_path)] == ["a.key", "drone.key", "ground.key", "other.key", "z.key"]
    (tmp_path / "ground.key").chmod(0o644)
    with refused("ground.key is open"):
        find_station_secrets("z", tmp_path)


def test_public_keys_are_found_in_a_line_and_in_a_file(tmp_path: Path) -> None:
    public = a_key(tmp_path / "ground.key", Role.STATION).public
    file = tmp_path / "ground.pub"
    file.write_text(f"# our station\n\n  {public.text}\r\n")
    assert find_public(public.text, Role.STATION) == find_public(f" {public.text}\n", None) == public
    assert find_public(str(file), Role.STATION) == public
    with refused("ground.pub is the key of a station", "that of a sender must be"):
        find_public(str(file), Role.SENDER)
    with refused("the public key", "damaged"):
        find_public(public.text[:-1], Role.STATION)
    file.write_text(f"{public.text}\n{public.text}\n")
    with refused("ground.pub holds 2 lines"):
        find_public(str(file), Role.STATION)
    file.write_text("")
    with refused("ground.pub holds 0 lines"):
        find_public(str(file), Role.STATION)
    with refused("is a private key"):
        find_public(str(tmp_path / "ground.key"), Role.STATION)
    with refused("neither a public key nor a file", "No such file"):
        find_public("station-abc", Role.STATION)


@given(data=st.binary())
def test_any_file_is_a_public_key_or_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("keys") / "a.pub"
    path.write_bytes(data)
    with pytest.raises(PinholeError):
        find_public(str(path), None)


@given(st.text())
@example("\0")
@example("a" * 5000)
def test_any_text_is_a_public_key_or_an_error_of_ours(text: str) -> None:
    with pytest.raises(PinholeError):
        find_public(text, None)


@pytest.mark.parametrize("point", [0, 1, 2**255 - 19, 2**255 - 20])
def test_public_keys_that_protect_nothing_are_refused(point: int) -> None:
    # Points of small order, for which every shared secret is zero: RFC 7748, section 6.1.
    weak = point.to_bytes(32, "little")
    sound = SecretKey.generate(Role.SENDER).public.seal
    for seal, curve in ((weak, sound), (sound, weak)):
        with refused("protects nothing"):
            find_public(PublicKey(Role.SENDER, 1, seal, curve).text, Role.SENDER)
    with refused("no identity"):
        checked_public(PublicKey(Role.SENDER, 0, sound, sound))


@pytest.mark.parametrize(
    "name",
    [
        *("", "a" * 65, "a b", "a\tb", "a\nb", "a/b", "a\\b", "..", ".a", "-a", "#a", "a#b"),
        *("revoked", "pinhole-sender-x", "a.key", "a\u202eb", "a\u00a0b", "a\u200bb", "e\u0301", "a\x7f", "\ud800"),
    ],
)
def test_what_is_no_name(name: str) -> None:
    with refused():
        check_name(name)


@pytest.mark.parametrize("name", ["drone7", "a" * 64, "nördlich", "无人机", "cam.2-b_c", "7", "d@rone:1"])
def test_what_is_a_name(name: str) -> None:
    assert check_name(name) == name


def test_replacing_keeps_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_guarded(path, b"one", mode=0o644, replace=True)
    with file_mask(0o077):
        write_guarded(path, b"two", mode=0o644, replace=True)
    assert read_guarded(path, secret=False, limit=3)[0] == b"two"
    assert mode(path) == 0o644
    with refused("more than 2 bytes"):
        read_guarded(path, secret=False, limit=2)
    with refused("there already"):
        write_guarded(path, b"three", mode=0o644, replace=False)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
