import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.allowlist import (
    AllowList,
    AllowListFile,
    allow,
    allowed_path,
    load_allowed,
    parse_allowed,
    read_allow_list,
    revoke,
)
from shared.errors import CorruptDataError, PinholeError
from shared.link.keys import ListedSender, PublicKey, Role, SecretKey


def public(identity: int | None = None, role: Role = Role.SENDER) -> PublicKey:
    return SecretKey.generate(role, identity=identity).public


A = public(1)
A2 = public(1)
A3 = public(1)
B = public(2)
C = public(3)
STATION = public(role=Role.STATION)


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """The body raises one line with all these words."""
    with pytest.raises(PinholeError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def lines(*texts: str) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def test_a_list_by_hand() -> None:
    listed = parse_allowed(
        lines(
            "# north ridge",
            "",
            f"a {A.text}",
            f"   a\t{A2.text}   # the next key\r",
            f"revoked b {B.text} # lost",
            f"ü:1 {C.text} #no space",
        )
    )
    assert listed.senders == (ListedSender("a", A), ListedSender("a", A2), ListedSender("ü:1", C))
    assert listed.revoked == (ListedSender("b", B),)
    assert listed.named("a") == [ListedSender("a", A), ListedSender("a", A2)]
    assert all(listed.is_curve_listed(key.curve) for key in (A, A2, C))
    assert not any(listed.is_curve_listed(key) for key in (B.curve, A.seal, bytes(32), b""))
    assert parse_allowed(b"") == AllowList()


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([f"a {A.text}", f"b {A2.text}"], ["a and b have one identity, 00000001"]),
        ([f"a {A.text}", f"a {B.text}"], ["a is the name of two identities, 00000001 and 00000002"]),
        ([f"a {A.text}", f"a {A.text}"], ["line 2", "the key is in line 1 already"]),
        ([f"a {A.text}", f"revoked a {A.text}"], ["line 2", "the key is in line 1 already"]),
        ([f"a {STATION.text}"], ["line 1", "a station's key"]),
        (["", f"a {A.text[:-1]}"], ["line 2", "damaged"]),
        ([f"a {A.text} b"], ["line 1", "a name, a public key"]),
        (["a"], ["line 1", "a name, a public key"]),
        (["revoked"], ["line 1", "a name, a public key"]),
        (["revoked a"], ["line 1", "a name, a public key"]),
        ([f"revoked {A.text}"], ["line 1", "a name, a public key"]),
        ([A.text], ["line 1", "a name, a public key"]),
        ([f"{'a' * 65} {A.text}"], ["line 1", "not 65"]),
        ([f"revoked revoked {A.text}"], ["line 1", "something else"]),
        ([f"a {PublicKey(Role.SENDER, 0, A.seal, A.curve).text}"], ["line 1", "no identity"]),
        ([f"a {PublicKey(Role.SENDER, 1, bytes(32), A.curve).text}"], ["line 1", "protects nothing"]),
    ],
)
def test_what_is_wrong_is_named(texts: list[str], words: list[str]) -> None:
    with refused(*words):
        parse_allowed(lines(*texts))


def test_half_of_a_revoked_key_is_revoked() -> None:
    mixed = PublicKey(Role.SENDER, 7, A.seal, B.curve)
    for old in (A, B):
        with refused("line 2", "line 1 already"):
            parse_allowed(lines(f"revoked a {old.text}", f"b {mixed.text}"))


@given(st.one_of(st.binary(), st.lists(st.text()).map(lambda texts: "\n".join(texts).encode("utf-8", "replace"))))
@example(b"\xff\n")
@example(b"revoked\n")
@example(b"a\x00 pinhole-sender-\n")
def test_any_bytes_are_a_list_or_an_error_of_ours(data: bytes) -> None:
    try:
        listed = parse_allowed(data)
    except CorruptDataError:
        return
    # Nothing but comments.
    assert listed == AllowList()


@given(st.data())
def test_a_line_with_any_change_lists_the_same_key_or_none(data: st.DataObject) -> None:
    sound = f"drone {A.text}"
    place = data.draw(st.integers(0, len(sound) - 1))
    changed = sound[:place] + data.draw(st.characters(codec="utf-8")) + sound[place + 1 :]
    try:
        listed = parse_allowed(changed.encode())
    except CorruptDataError:
        return
    assert [sender.key for sender in listed.senders] in ([], [A])


def test_no_text_but_that_of_the_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "allowed"
    assert allow(path, "a", A)
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.parent.stat().st_mode & 0o777 == 0o700
    start = path.read_text()
    assert start.startswith("# Senders")
    path.write_text(f"{start}\n  # mine \u2028 \r\nb {B.text}  # a remark\r\n# no newline at the end")
    assert allow(path, "c", C)
    expected = f"{start}\n  # mine \u2028 \r\nb {B.text}  # a remark\r\n# no newline at the end\nc {C.text}\n"
    assert path.read_bytes() == expected.encode()
    assert revoke(path, "b") == [ListedSender("b", B)]
    assert path.read_bytes() == expected.replace("b pinhole", "revoked b pinhole").encode()
    with refused("this key of b was revoked", "--again"):
        allow(path, "b", B)
    assert allow(path, "b", B, again=True)
    assert path.read_bytes() == expected.encode()
    assert sorted(file.name for file in path.parent.iterdir()) == [".lock", "allowed"]


def test_keys_of_a_sender_change(tmp_path: Path) -> None:
    path = allowed_path(tmp_path)
    allow(path, "a", A)
    assert not allow(path, "a", A)
    assert allow(path, "a", A2)
    assert load_allowed(path) == [ListedSender("a", A), ListedSender("a", A2)]
    before = path.read_bytes()
    with refused("allowed already, as a"):
        allow(path, "b", A)
    with refused("a and b have one identity", "00000001"):
        allow(path, "b", A3)
    with refused("a is the name of two identities"):
        allow(path, "a", B)
    with refused("station's key"):
        allow(path, "s", STATION)
    with refused("no name"):
        allow(path, "a b", B)
    assert path.read_bytes() == before
    assert revoke(path, "a", A.fingerprint[:9].upper()) == [ListedSender("a", A)]
    listed = read_allow_list(path)
    assert listed.senders == (ListedSender("a", A2),)
    assert listed.revoked == (ListedSender("a", A),)
    with refused("0 keys of a", A2.fingerprint):
        revoke(path, "a", A.fingerprint)
    with refused("too short"):
        revoke(path, "a", A2.fingerprint[:4])
    # A new device may take the name when all keys of the old one are revoked.
    assert revoke(path, "a") == [ListedSender("a", A2)]
    assert allow(path, "a", B)
    with refused("a is the name of two identities"):
        allow(path, "a", A, again=True)
    with refused("z is not among the allowed"):
        revoke(path, "z")
    with refused("there is no allow list", "pinhole keys allow"):
        revoke(tmp_path / "none" / "allowed", "a")


def test_a_list_that_others_can_change_is_refused(tmp_path: Path) -> None:
    path = allowed_path(tmp_path)
    allow(path, "a", A)
    for bits in (0o664, 0o646):
        path.chmod(bits)
        for use in (lambda: load_allowed(path), lambda: allow(path, "b", B), lambda: revoke(path, "a")):
            with refused("can be changed by other users", f"chmod go-w {path}"):
                use()
    path.chmod(0o644)
    assert load_allowed(path) == [ListedSender("a", A)]


def test_a_linked_list_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_bytes(lines(f"a {A.text}"))
    real.chmod(0o644)
    path = tmp_path / "keys" / "allowed"
    path.parent.mkdir()
    path.symlink_to(real)
    allow(path, "b", B)
    assert path.is_symlink()
    assert [sender.name for sender in load_allowed(real)] == ["a", "b"]


def test_a_broken_list_is_not_edited(tmp_path: Path) -> None:
    path = allowed_path(tmp_path)
    path.write_bytes(lines(f"a {A.text}", "rubbish"))
    path.chmod(0o644)
    for use in (lambda: load_allowed(path), lambda: allow(path, "b", B), lambda: revoke(path, "a")):
        with refused(str(path), "line 2"):
            use()
    assert path.read_bytes() == lines(f"a {A.text}", "rubbish")


def test_a_station_follows_its_list(tmp_path: Path) -> None:
    path = allowed_path(tmp_path)
    with refused("there is no allow list"):
        AllowListFile(path)
    allow(path, "a", A)
    followed = AllowListFile(path)
    assert not followed.changed()
    assert followed.is_curve_listed(A.curve)
    allow(path, "b", B)
    assert followed.changed()
    assert not followed.is_curve_listed(B.curve)
    assert followed.reload()
    assert not followed.changed()
    assert followed.is_curve_listed(B.curve)
    revoke(path, "a")
    assert followed.changed()
    assert followed.reload()
    assert followed.senders == (ListedSender("b", B),)
    assert followed.revoked == (ListedSender("a", A),)
    assert not followed.is_curve_listed(A.curve)
    # Another file of the same content is looked at, and says nothing new.
    other = tmp_path / "other"
    other.write_bytes(path.read_bytes())
    other.chmod(0o644)
    other.replace(path)
    assert followed.changed()
    assert not followed.reload()


def test_a_broken_edit_cuts_nobody_off(tmp_path: Path) -> None:
    path = allowed_path(tmp_path)
    allow(path, "a", A)
    followed = AllowListFile(path)
    sound = path.read_bytes()
    for spoil in (
        lambda: path.write_bytes(sound + b"b pinhole-sender-oops\n"),
        lambda: path.chmod(0o666),
        lambda: path.unlink(),
    ):
        spoil()
        assert followed.changed()
        with refused(str(path), "stays in force"):
            followed.reload()
        # Told once, not every few seconds.
        assert not followed.changed()
        assert followed.senders == (ListedSender("a", A),)
        assert followed.is_curve_listed(A.curve)
    path.write_bytes(sound + lines(f"b {B.text}"))
    path.chmod(0o644)
    assert followed.changed()
    assert followed.reload()
    assert followed.is_curve_listed(B.curve)


def _allow_some(path: Path, names: list[str], texts: list[str]) -> None:
    for name, text in zip(names, texts, strict=True):
        allow(path, name, PublicKey.parse(text))


def test_two_at_once_lose_nobody(tmp_path: Path) -> None:
    path = allowed_path(tmp_path)
    keys = {f"d{i}": public(100 + i) for i in range(40)}
    context = multiprocessing.get_context("spawn")
    workers = []
    for first in range(4):
        names = list(keys)[first::4]
        arguments = (path, names, [keys[name].text for name in names])
        workers.append(context.Process(target=_allow_some, args=arguments))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert {sender.name: sender.key for sender in load_allowed(path)} == keys
