"""Keys as people keep and copy them: key files, public lines, allow lists."""

import contextlib

from fuzz.harness import Harness, demand
from shared.allowlist import parse_allowed
from shared.errors import CorruptDataError, PinholeError
from shared.keyfiles import check_name, checked_public, parse_secret
from shared.link.keys import PublicKey, Role, SecretKey

_SECRETS = [SecretKey(role, 0x1A2B3C4D + i, bytes([i]) * 32, bytes([i + 9]) * 32, 99) for i, role in enumerate(Role)]


def run(data: bytes) -> None:
    """Read the input as each of them."""
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
