"""Keys as people keep and copy them: key files, public lines, allow lists."""

import contextlib

from fuzz.harness import Harness, Reader, demand, piece
from shared.allowlist import parse_allowed
from shared.errors import CorruptDataError, PinholeError
from shared.keyfiles import check_name, checked_public, parse_secret
from shared.link.keys import PublicKey, Role, SecretKey

_SECRETS = [SecretKey(role, 0x1A2B3C4D + i, bytes([i]) * 32, bytes([i + 9]) * 32, 99) for i, role in enumerate(Role)]


_PUBLICS = [*(secret.public for secret in _SECRETS), SecretKey(Role.SENDER, 5, b"x" * 32, b"y" * 32).public]


def run(data: bytes) -> None:
    """Read the input as each of them, and as what whole ones are made of."""
    _read(data)
    reader = Reader(data)
    key = PublicKey(reader.choose([*Role]), reader.number(), reader.take(32).ljust(32), reader.take(32).ljust(32))
    _read(key.text.encode())
    lines = []
    while reader:
        public = reader.choose([key, *_PUBLICS])
        lines.append(reader.piece() + public.text.encode() + reader.piece())
    _read(b"\n".join(lines))
    _read(_key_file(_SECRETS[0]).encode().replace(b"99", data, 1))


def _read(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        secret = parse_secret(data)
    except CorruptDataError:
        pass
    else:
        demand(secret.public.identity == secret.identity, "a key is not its own")
    try:
        public = PublicKey.parse(text)
    except CorruptDataError:
        pass
    else:
        demand(public.text == text.strip(), "a key can be written in two ways")
        _check(public)
    try:
        allowed = parse_allowed(data)
    except CorruptDataError:
        pass
    else:
        for sender in (*allowed.senders, *allowed.revoked):
            demand(check_name(sender.name) == sender.name, "a list holds a name that is none")
            demand(sender.key.role is Role.SENDER, "a station is listed as a sender")
        for sender in allowed.senders:
            demand(allowed.is_curve_listed(sender.key.curve) and sender in allowed.named(sender.name), "not listed")
        curves = [sender.key.curve for sender in allowed.senders]
        demand(len({*curves}) == len(curves), "a key is listed twice")
    with contextlib.suppress(PinholeError):
        check_name(text)


def _check(public: PublicKey) -> None:
    try:
        checked_public(public)
    except CorruptDataError:
        return
    demand(len(public.seal) == len(public.curve) == 32 and public.identity > 0, "a key is none")


def seeds() -> list[bytes]:
    """Files as the project writes them, by `shared.keyfiles.write_secret` and `pinhole keys allow`."""
    rows = [
        bytes(67) + b"\1" + piece(b"a ") + piece(b" # remark"),
        b"\0\0\5" + b"k" * 64 + b"".join(bytes([n]) + piece(b"n%d " % n) + piece(b"") for n in range(3)),
        b"\1\0\5"
        + b"\1" * 64
        + b"\0"
        + piece(b"revoked b ")
        + piece(b"\r")
        + b"\2"
        + piece("\u00e9 ".encode())
        + piece(b""),
    ]
    return [*rows, *_texts()]


def _texts() -> list[bytes]:
    station, sender = (secret.public.text for secret in reversed(_SECRETS))
    other = SecretKey(Role.SENDER, 5, b"x" * 32, b"y" * 32).public.text
    weak = PublicKey(Role.SENDER, 7, bytes(32), bytes(32)).text
    files = [_key_file(secret) for secret in _SECRETS]
    lists = [
        f"# north ridge\ndrone7 {sender}  # a remark\nrevoked drone8 {other}\n",
        f"a {sender}\r\n\r\nb {other}\r\n",
        f"a {station}\n",
        f"a {weak}\n",
        f"revoked a {sender}\na {sender}\n",
    ]
    return [text.encode() for text in (station, sender, weak, *files, *lists, "drone7")]


def _key_file(key: SecretKey) -> str:
    from shared.keyfiles import _packed

    return (
        f'role = "{key.role}"\nidentity = "{key.identity:08x}"\nmade = {key.made}\n'
        f'seal = "{_packed(key.seal)}"\ncurve = "{_packed(key.curve)}"\npublic = "{key.public.text}"\n'
    )


HARNESS = Harness("key files, public keys, allow lists", run, seeds)
