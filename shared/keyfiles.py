"""Key files: private keys of this end, one file each, and public keys as lines that people copy.

A private key file is TOML, with mode 0600::

    role = "sender"
    identity = "1a2b3c4d"
    made = 1767225600
    seal = "..."                        # X25519, 32 bytes, base64url without padding (RFC 4648)
    curve = "..."                       # CURVE, likewise
    public = "pinhole-sender-..."       # what the other end must know; proves that the rest is undamaged
"""

import base64
import os
import tomllib
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from shared.errors import CorruptDataError, PinholeError
from shared.guarded_files import make_private_folder, read_guarded, write_guarded
from shared.link.keys import KEY_BYTES, PublicKey, Role, SecretKey

KEY_SUFFIX = ".key"
_LARGEST_FILE = 1 << 16
_LATEST_MADE = 253_402_300_799  # the last second of the year 9999
_LONGEST_NAME = 64


def default_folder() -> Path:
    """Where keys are when no folder is given: ``$XDG_CONFIG_HOME/pinhole/keys``, else ``~/.config/pinhole/keys``.

    Raises:
        PinholeError: if this user has no home folder.
    """
    # The XDG base directory specification tells to ignore a relative one.
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".config"
        except RuntimeError as error:
            raise PinholeError("this user has no home folder; set XDG_CONFIG_HOME, or give a folder") from error
    return base / "pinhole" / "keys"


def check_name(name: str) -> str:
    """Return the name of a key or of a listed sender if it can be one.

    Raises:
        PinholeError: if it is empty, longer than 64 characters, holds white space, invisible characters, a slash or #,
            or would be taken for something else in a list, a path or a command line.
    """
    if not 0 < len(name) <= _LONGEST_NAME:
        raise PinholeError(f"a name has 1 to {_LONGEST_NAME} characters, not {len(name)}; choose another")
    if not name.isprintable() or any(character.isspace() or character in "/\\#" for character in name):
        raise PinholeError(f"{name!r} is no name: leave out white space, slashes, # and what cannot be printed")
    if name[0] in ".-" or name == "revoked" or name.startswith("pinhole-") or name.endswith(KEY_SUFFIX):
        raise PinholeError(f"{name!r} would be taken for something else; choose another name")
    if unicodedata.normalize("NFC", name) != name:
        # Two names that look the same must not be two.
        raise PinholeError(f"{name!r} is not in Unicode's composed form (NFC); type it anew")
    return name


def key_path(name: str, folder: Path | None = None) -> Path:
    """The file that holds the private key of that name.

    Raises:
        PinholeError: if it is no name (see `check_name`).
    """
    return (default_folder() if folder is None else folder) / f"{check_name(name)}{KEY_SUFFIX}"


def write_secret(path: Path, key: SecretKey) -> None:
    """Write a private key file, never over another; its folder is made if there is none, for its owner alone.

    Args:
        path: the file, by custom with the suffix ``.key``.
        key: what it holds; made from 1970 to 9999.

    Raises:
        PinholeError: if there is such a file already or it cannot be written.
    """
    made = datetime.fromtimestamp(key.made, UTC)
    text = (
        "# Pinhole private key: whoever can read this file can pose as its owner. It needs mode 0600.\n"
        f'role = "{key.role}"\n'
        f'identity = "{key.identity:08x}"\n'
        f"made = {key.made}  # {made:%Y-%m-%d %H:%M:%S} UTC\n"
        f'seal = "{_packed(key.seal)}"\n'
        f'curve = "{_packed(key.curve)}"\n'
        "# The other end must know this line, and nothing of those above:\n"
        f'public = "{key.public.text}"\n'
    )
    make_private_folder(path.parent)
    write_guarded(path, text.encode(), mode=0o600, replace=False)


def load_secret(path: Path, role: Role | None = None) -> SecretKey:
    """Read a private key file.

    Args:
        path: the file.
        role: whose key it must be, None for either.

    Raises:
        CorruptDataError: if its content is no key or damaged.
        PinholeError: if it is missing, open to other users, another user's, or the other end's.
    """
    data, _ = read_guarded(path, secret=True, limit=_LARGEST_FILE)
    try:
        key = parse_secret(data)
    except CorruptDataError as error:
        raise CorruptDataError(f"{path}: {error}; restore the file, or make a key with `pinhole keys new`") from error
    _refuse_other_role(key, role, str(path))
    return key


def parse_secret(data: bytes) -> SecretKey:
    """Parse what a private key file holds.

    Raises:
        CorruptDataError: if it is no key or damaged. What it says of the content names no private key.
    """
    # Messages of the TOML parser are not passed on: they may quote the line.
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise CorruptDataError("this is no key file") from None
    if set(table) != {"role", "identity", "made", "seal", "curve", "public"}:
        raise CorruptDataError("this is no key file: it has other settings than a key has")
    made = table["made"]
    public = table["public"]
    if type(made) is not int or not 0 <= made <= _LATEST_MADE or not isinstance(public, str):
        raise CorruptDataError("the key is damaged")
    stated = PublicKey.parse(public)
    key = SecretKey(stated.role, stated.identity, _unpacked(table["seal"]), _unpacked(table["curve"]), made)
    if key.public != stated or table["role"] != stated.role or table["identity"] != f"{stated.identity:08x}":
        raise CorruptDataError("the key is damaged: its private and its public half do not belong together")
    return key


def key_files(folder: Path) -> list[Path]:
    """The private key files of a folder by name; none where there is no folder."""
    return sorted(path for path in folder.glob(f"*{KEY_SUFFIX}") if not path.name.startswith("."))


def load_station_secrets(folder: Path | None = None, identity: int | None = None) -> list[SecretKey]:
    """Read a station's keys: several while senders change from an old one to a new one.

    Args:
        folder: where they are, None for the default.
        identity: of the station, None for every station that has keys there.

    Returns:
        The keys, the newest first; none if there are none.

    Raises:
        PinholeError: if a key file there, of whatever role, cannot be used; a station that silently went without one
            would turn away senders.
    """
    keys = [load_secret(path) for path in key_files(default_folder() if folder is None else folder)]
    chosen = (key for key in keys if key.role is Role.STATION and identity in (None, key.identity))
    return sorted(chosen, key=lambda key: key.made, reverse=True)


def find_secret(name_or_path: str, role: Role | None, folder: Path | None = None) -> SecretKey:
    """Read the private key that a flag names.

    Args:
        name_or_path: a name in the folder; or a path, if it has a slash or the suffix ``.key``.
        role: whose key it must be, None for either.
        folder: None for the default.

    Raises:
        PinholeError: as `load_secret`; if there is none of that name, naming those that there are.
    """
    return load_secret(find_secret_path(name_or_path, role, folder), role)


def find_secret_path(name_or_path: str, role: Role | None, folder: Path | None = None) -> Path:
    """The file that `find_secret` reads.

    Raises:
        PinholeError: if it is no name, or there is no such file.
    """
    if os.sep in name_or_path or name_or_path.endswith(KEY_SUFFIX):
        return Path(name_or_path)
    folder = default_folder() if folder is None else folder
    path = key_path(name_or_path, folder)
    if not os.path.exists(path):
        there = ", ".join(file.stem for file in key_files(folder)) or "none"
        made = f"`pinhole keys new {name_or_path} --role {role or 'ROLE'}` makes it"
        raise PinholeError(f"there is no key {name_or_path} in {folder} (there: {there}); {made}")
    return path


def find_station_secrets(name_or_path: str, folder: Path | None = None) -> list[SecretKey]:
    """Read the station key that a flag names, and the older and newer keys of that station beside it.

    Args:
        name_or_path: as for `find_secret`.
        folder: likewise.

    Returns:
        The named key first, then the others of the same identity in the named one's folder, the newest first.

    Raises:
        PinholeError: as `find_secret` and `load_station_secrets`.
    """
    path = find_secret_path(name_or_path, Role.STATION, folder)
    named = load_secret(path, Role.STATION)
    others = load_station_secrets(path.parent, named.identity)
    return [named, *(key for key in others if key.public != named.public)]


def find_public(text_or_path: str, role: Role | None) -> PublicKey:
    """Read a public key that a flag gives.

    Args:
        text_or_path: a public line, or the path of a file that holds one beside comments and empty lines.
        role: whose key it must be, None for either.

    Raises:
        CorruptDataError: if the line is damaged.
        PinholeError: if there is no such file, it holds no single key, or a key of the other end.
    """
    text, where = text_or_path.strip(), "the public key"
    if not text.startswith("pinhole-"):
        where, text = text_or_path, _public_line(Path(text_or_path))
    try:
        key = checked_public(PublicKey.parse(text))
    except CorruptDataError as error:
        raise CorruptDataError(f"{where}: {error}") from error
    _refuse_other_role(key, role, where)
    return key


def checked_public(key: PublicKey) -> PublicKey:
    """Return a key that others made if it can keep anything secret.

    A public key of small order makes every shared secret zero (RFC 7748, section 6.1), which anybody can compute.

    Raises:
        CorruptDataError: if one of its keys is of small order, or its identity is 0, which means nobody.
    """
    probe = X25519PrivateKey.from_private_bytes(bytes(range(KEY_BYTES)))
    try:
        for half in (key.seal, key.curve):
            probe.exchange(X25519PublicKey.from_public_bytes(half))
    except ValueError:
        raise CorruptDataError("that public key protects nothing; ask for one that `pinhole keys new` made") from None
    if key.identity == 0:
        raise CorruptDataError("that public key has no identity; ask for one that `pinhole keys new` made")
    return key


def _public_line(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            lines = file.read(_LARGEST_FILE).decode("utf-8", "replace").split("\n")
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise PinholeError(f"{str(path)!r} is neither a public key nor a file that can be read ({reason})") from error
    found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if any(line.startswith("seal = ") for line in found):
        raise PinholeError(f"{path} is a private key, which stays with its owner; give what `pinhole keys show` prints")
    if len(found) != 1:
        raise PinholeError(f"{path} holds {len(found)} lines where one public key must be; keep that line")
    return found[0]


def _refuse_other_role(key: PublicKey | SecretKey, role: Role | None, where: str) -> None:
    if role is not None and key.role is not role:
        raise PinholeError(f"{where} is the key of a {key.role}, where that of a {role} must be; give the other one")


def _packed(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).rstrip(b"=").decode()


def _unpacked(text: object) -> bytes:
    try:
        key = base64.urlsafe_b64decode(f"{text}=")
    except ValueError:
        key = b""
    # Comparing the text finds what a lenient decoder lets pass: other alphabets, set bits after the last byte.
    if len(key) != KEY_BYTES or _packed(key) != text:
        raise CorruptDataError("the key is damaged")
    return key
