"""Static keys of senders and stations, as values; files and commands are elsewhere.

Each end has two key pairs on Curve25519 (RFC 7748): one for the seals of packets, one for ZeroMQ's CURVE. They are
independent, so that no message of one protocol can mean something in the other.
"""

import base64
import hashlib
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.errors import CorruptDataError

KEY_BYTES = 32
_TEXT_CHECK_BYTES = 4


class Role(StrEnum):
    """Which end a key belongs to; a key of the wrong end is refused by name."""

    SENDER = "sender"
    STATION = "station"


@dataclass(frozen=True)
class PublicKey:
    """What the other end must know.

    Attributes:
        role: whose end it is.
        identity: u32: by which the other end looks the key up, and brokers tell ends apart; kept when keys are rotated.
        seal: X25519 public key, 32 bytes.
        curve: CURVE public key, 32 bytes.
    """

    role: Role
    identity: int
    seal: bytes
    curve: bytes

    @property
    def text(self) -> str:
        """One line for copying: ``pinhole-sender-...``, base64url (RFC 4648) with a checksum inside."""
        body = self._body()
        packed = base64.urlsafe_b64encode(body + _check(self.role, body)).rstrip(b"=").decode()
        return f"pinhole-{self.role}-{packed}"

    @property
    def fingerprint(self) -> str:
        """Eight groups of four hexadecimal digits, for people to compare: SHA-256 of both keys, shortened."""
        digest = hashlib.sha256(self.role.encode() + self._body()).hexdigest()[:32]
        return " ".join(digest[i : i + 4] for i in range(0, 32, 4))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``text`` gave.

        Raises:
            CorruptDataError: if it is no public key or a character of it is wrong.
        """
        line = text.strip()
        role = next((role for role in Role if line.startswith(f"pinhole-{role}-")), None)
        if role is None:
            raise CorruptDataError("that is no public key: it begins with pinhole-sender- or pinhole-station-")
        packed = line.removeprefix(f"pinhole-{role}-")
        try:
            data = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
        except ValueError:
            data = b""
        body, check = data[:-_TEXT_CHECK_BYTES], data[-_TEXT_CHECK_BYTES:]
        damaged = CorruptDataError("that public key is damaged or cut short; copy the whole line again")
        if len(body) != 4 + 2 * KEY_BYTES or check != _check(role, body):
            raise damaged
        key = cls(role, int.from_bytes(body[:4], "big"), body[4 : 4 + KEY_BYTES], body[4 + KEY_BYTES :])
        if key.text != line:
            raise damaged  # there is one way only to write a key
        return key

    def _body(self) -> bytes:
        return self.identity.to_bytes(4, "big") + self.seal + self.curve


@dataclass(frozen=True)
class SecretKey:
    """The private half of one end.

    Attributes:
        role: which end.
        identity: as for `PublicKey`.
        seal: X25519 private key, 32 bytes.
        curve: CURVE private key, 32 bytes.
        made: seconds since 1970.
    """

    role: Role
    identity: int
    seal: bytes = field(repr=False)
    curve: bytes = field(repr=False)
    made: int = 0

    @classmethod
    def generate(cls, role: Role, *, identity: int | None = None, made: int = 0) -> Self:
        """Make new keys from the system's randomness.

        Args:
            role: which end.
            identity: that of the keys that these replace, None for a new one.
            made: seconds since 1970.
        """
        # 0 is left out, so that it can mean "nobody".
        chosen = 1 + secrets.randbelow(0xFFFFFFFF) if identity is None else identity
        return cls(role, chosen, secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES), made)

    @property
    def public(self) -> PublicKey:
        """What the other end must know."""
        return PublicKey(self.role, self.identity, _public(self.seal), _public(self.curve))


@dataclass(frozen=True)
class ListedSender:
    """A sender on a station's allow list; one name may have several while its keys are being rotated.

    Attributes:
        name: what people call it.
        key: its public keys.
    """

    name: str
    key: PublicKey


def _public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def _check(role: Role, body: bytes) -> bytes:
    return hashlib.sha256(b"pinhole public key " + role.encode() + body).digest()[:_TEXT_CHECK_BYTES]
