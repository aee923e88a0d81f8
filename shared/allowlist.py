"""The allow list of a station: the senders it listens to, and keys that it must never listen to again.

A text file, edited by `pinhole keys` or by hand. A line is empty, a comment, or a key::

    # north ridge
    drone7 pinhole-sender-...           # a remark
    drone7 pinhole-sender-...           # the same device, its next key
    revoked drone8 pinhole-sender-...   # lost in May
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import CorruptDataError, PinholeError
from shared.guarded_files import (
    Stamp,
    folder_lock,
    make_private_folder,
    read_guarded,
    stamp_of,
    write_guarded,
)
from shared.keyfiles import check_name, checked_public, default_folder
from shared.link.keys import ListedSender, PublicKey, Role

ALLOWED_NAME = "allowed"
_LARGEST_FILE = 1 << 24
_REVOKED = "revoked"
_HEADER = (
    "# Senders that this station hears: a name and a public key each line, several keys of a name while it changes",
    "# from one to the next. Keys in lines that begin with `revoked` are refused. `pinhole keys` keeps comments.",
)


def allowed_path(folder: Path | None = None) -> Path:
    """The allow list in a key folder, None for the default one."""
    return (default_folder() if folder is None else folder) / ALLOWED_NAME


@dataclass(frozen=True)
class AllowList:
    """What an allow list says.

    Attributes:
        senders: who may send, in the order of the file.
        revoked: whose keys are refused although they once were allowed.
    """

    senders: tuple[ListedSender, ...] = ()
    revoked: tuple[ListedSender, ...] = ()
    _curves: frozenset[bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_curves", frozenset(sender.key.curve for sender in self.senders))

    def is_curve_listed(self, curve_public: bytes) -> bool:
        """Whether a sender with this CURVE public key, 32 bytes, may connect."""
        return curve_public in self._curves

    def named(self, name: str) -> list[ListedSender]:
        """The allowed keys of a name."""
        return [sender for sender in self.senders if sender.name == name]


def parse_allowed(data: bytes) -> AllowList:
    """Parse and check an allow list.

    Raises:
        CorruptDataError: naming the first line that is wrong: no name or key, a station's key, a key that is there
            twice or both allowed and revoked; two names for one identity, two identities for one name.
    """
    senders: list[ListedSender] = []
    revoked: list[ListedSender] = []
    seen: dict[bytes, int] = {}
    for number, text in enumerate(_lines(data), 1):
        try:
            entry = _parse_line(text)
            if entry is None:
                continue
            is_revoked, sender = entry
            # Both halves, or a key that was put together of two others would pass as a new one.
            for half in (sender.key.seal, sender.key.curve):
                if half in seen:
                    raise CorruptDataError(f"the key is in line {seen[half]} already; keep one of them")
                seen[half] = number
            if is_revoked:
                revoked.append(sender)
            else:
                senders.append(sender)
        except PinholeError as error:
            raise CorruptDataError(f"line {number}: {error}") from error
    _refuse_confusion(senders)
    return AllowList(tuple(senders), tuple(revoked))


def read_allow_list(path: Path) -> AllowList:
    """Read an allow list.

    Raises:
        CorruptDataError: if its content is wrong, as `parse_allowed` says.
        PinholeError: if it is missing or unreadable, another user's, or others may change it.
    """
    return _read(path)[0]


def load_allowed(path: Path) -> list[ListedSender]:
    """Read who may send; raises as `read_allow_list`."""
    return list(read_allow_list(path).senders)


class AllowListFile:
    """An allow list that a running station follows while people edit it.

    A broken edit leaves the list that was in force, so that a slip of the pen cuts nobody off; and lets nobody in.

    Attributes:
        current: the list in force.
    """

    def __init__(self, path: Path) -> None:
        """Read the list for the first time.

        Raises:
            PinholeError: as `read_allow_list`; a station does not start with a list that it cannot trust.
        """
        self._path = path
        self._stamp: Stamp | None
        self.current, self._stamp = _read(path)

    @property
    def senders(self) -> tuple[ListedSender, ...]:
        """Who may send."""
        return self.current.senders

    @property
    def revoked(self) -> tuple[ListedSender, ...]:
        """Whose keys are refused although they once were allowed."""
        return self.current.revoked

    def is_curve_listed(self, curve_public: bytes) -> bool:
        """Whether a sender with this CURVE public key, 32 bytes, may connect."""
        return self.current.is_curve_listed(curve_public)

    def changed(self) -> bool:
        """Whether the file is another than the one last looked at; costs one look at its status."""
        return stamp_of(self._path) != self._stamp

    def reload(self) -> bool:
        """Read the file again.

        Returns:
            Whether it says something else than before.

        Raises:
            PinholeError: if it cannot be used, one line; the last good list stays in force. `changed` then says no
                until the file changes again, so the line is reported once.
        """
        # Taken first: a change between the two looks then shows at the next one.
        self._stamp = stamp_of(self._path)
        before = self.current
        try:
            self.current, self._stamp = _read(self._path)
        except PinholeError as error:
            raise PinholeError(f"{error}; until then the list read before stays in force") from error
        return self.current != before


def allow(path: Path, name: str, key: PublicKey, *, again: bool = False) -> bool:
    """Put a sender's key on the list; list and folder are made if there are none.

    Args:
        path: the allow list.
        name: what people call the sender.
        key: its public key.
        again: also if the key was revoked.

    Returns:
        False if it was there already under that name.

    Raises:
        PinholeError: if the name is none, the key a station's, revoked (unless ``again``), or the list would break its
            own rules: one identity for a name, one name for an identity, each key once.
    """
    entry = f"{check_name(name)} {key.text}"
    make_private_folder(path.parent)
    with folder_lock(path.parent):
        lines = _lines_of(path) if os.path.exists(path) else list(_HEADER)
        current = _parse_file(path, _joined(lines))
        if ListedSender(name, key) in current.senders:
            return False
        for other in current.senders:
            if _same(other.key, key):
                raise PinholeError(f"this key is allowed already, as {other.name}; revoke that first")
        if not any(_same(old.key, key) for old in current.revoked):
            _write(path, [*lines, entry])
        elif again:
            _write(path, [_with_comment_of(line, entry) if _holds(line, [key]) else line for line in lines])
        else:
            raise PinholeError(
                f"this key of {name} was revoked; have a new one made there, or pass --again if it never was in danger"
            )
    return True


def revoke(path: Path, name: str, fingerprint: str | None = None) -> list[ListedSender]:
    """Revoke keys of a sender: they leave the allowed ones and are remembered as revoked.

    Args:
        path: the allow list.
        name: of the sender.
        fingerprint: of the key, or its beginning of eight hexadecimal digits or more; None for all keys of the name.

    Returns:
        The keys that were revoked.

    Raises:
        PinholeError: if there is no such key, or the fingerprint fits several.
    """
    _refuse_missing(path)
    with folder_lock(path.parent):
        lines = _lines_of(path)
        named = _parse_file(path, _joined(lines)).named(name)
        if not named:
            raise PinholeError(f"{name} is not among the allowed senders; `pinhole keys list` shows them")
        chosen = named if fingerprint is None else _fitting(named, fingerprint)
        gone = [sender.key for sender in chosen]
        _write(path, [f"{_REVOKED} {line.lstrip()}" if _holds(line, gone) else line for line in lines])
    return chosen


def _read(path: Path) -> tuple[AllowList, Stamp]:
    _refuse_missing(path)
    data, stamp = read_guarded(path, secret=False, limit=_LARGEST_FILE)
    return _parse_file(path, data), stamp


def _refuse_missing(path: Path) -> None:
    if not os.path.exists(path):
        raise PinholeError(f"there is no allow list {path}; `pinhole keys allow NAME PUBLIC_LINE` makes it")


def _parse_file(path: Path, data: bytes) -> AllowList:
    try:
        return parse_allowed(data)
    except CorruptDataError as error:
        raise CorruptDataError(f"{path}: {error}") from error


def _lines(data: bytes) -> list[str]:
    try:
        return data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise CorruptDataError(f"line {line}: this is no UTF-8 text; write the line anew") from None


def _lines_of(path: Path) -> list[str]:
    lines = _lines(read_guarded(path, secret=False, limit=_LARGEST_FILE)[0])
    # What follows the last newline of a text is no line of it.
    return lines[:-1] if lines[-1] == "" else lines


def _joined(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _write(path: Path, lines: Iterable[str]) -> None:
    data = _joined(lines)
    # What the station would refuse is never written.
    _parse_file(path, data)
    # Where the list is a link, the file behind it is replaced, not the link.
    write_guarded(Path(os.path.realpath(path)), data, mode=0o644, replace=True)


def _parse_line(text: str) -> tuple[bool, ListedSender] | None:
    """Parse a line to whether it is revoked and what it lists, or to None if it lists nothing."""
    words = text.split()
    if not words or words[0].startswith("#"):
        return None
    is_revoked = words[0] == _REVOKED
    words = words[is_revoked:]
    if len(words) < 2 or (len(words) > 2 and not words[2].startswith("#")):
        raise CorruptDataError("it should be a name, a public key and perhaps a comment after #")
    key = checked_public(PublicKey.parse(words[1]))
    if key.role is not Role.SENDER:
        raise CorruptDataError("this is a station's key; only senders are allowed")
    return is_revoked, ListedSender(check_name(words[0]), key)


def _refuse_confusion(senders: Iterable[ListedSender]) -> None:
    names: dict[int, str] = {}
    identities: dict[str, int] = {}
    for sender in senders:
        name, identity = sender.name, sender.key.identity
        if names.setdefault(identity, name) != name:
            raise CorruptDataError(
                f"{names[identity]} and {name} have one identity, {identity:08x}, so one archive; keep one of the names"
            )
        if identities.setdefault(name, identity) != identity:
            raise CorruptDataError(
                f"{name} is the name of two identities, {identities[name]:08x} and {identity:08x}; give each device a "
                "name of its own, or revoke the old one's keys"
            )


def _same(one: PublicKey, other: PublicKey) -> bool:
    return one.seal == other.seal or one.curve == other.curve


def _holds(line: str, keys: Iterable[PublicKey]) -> bool:
    entry = _parse_line(line)
    return entry is not None and any(_same(entry[1].key, key) for key in keys)


def _with_comment_of(line: str, entry: str) -> str:
    _, mark, comment = line.partition("#")
    return f"{entry}  #{comment}" if mark else entry


def _fitting(senders: list[ListedSender], fingerprint: str) -> list[ListedSender]:
    digits = fingerprint.replace(" ", "").lower()
    if len(digits) < 8:
        raise PinholeError(f"{fingerprint!r} is too short for a fingerprint; give at least its first eight digits")
    found = [sender for sender in senders if sender.key.fingerprint.replace(" ", "").startswith(digits)]
    if len(found) != 1:
        listed = "; ".join(sender.key.fingerprint for sender in senders)
        raise PinholeError(
            f"{len(found)} keys of {senders[0].name} have the fingerprint {fingerprint!r}; it has: {listed}"
        )
    return found
