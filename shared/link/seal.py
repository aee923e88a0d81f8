"""The cryptography of sealed sessions (``docs/protocol.md``, section 2; ``docs/security.md`` says what it is worth).

    hello key    = HKDF(X25519(sender, station))                                   proves who says hello
    session key  = HKDF(X25519(ephemeral, station) | X25519(sender, station))      seals the sender's packets
    report keys  = HKDF(the same, random number of the station's life)             seal the station's reports

One-way: everything follows from the station's static key, known beforehand, and what the sender sends, so nothing need
come back (the idea of the patterns X and K of the Noise protocol framework). All primitives are those of `cryptography`
and of the standard library: X25519 (RFC 7748), HKDF with SHA-256 (RFC 5869), ChaCha20-Poly1305 (RFC 8439), BLAKE2s
(RFC 7693).
"""

import hashlib
import hmac
import struct
from typing import NamedTuple, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from shared.errors import CorruptDataError
from shared.link.keys import KEY_BYTES, PublicKey, SecretKey
from shared.link.packet import HELLO, VERSION_BITS

TAG_BYTES = 16
"""Of Poly1305, and of the MAC of hello packets."""

LIFE_BYTES = 8
"""Of the random number that tells lives of stations apart."""

LARGEST_COUNTER = 0xFFFFFFFF
LARGEST_SESSION = (1 << 40) - 1

_PROTOCOL = b"pinhole link 2"
_NAME = struct.Struct(">BI5s")
_NUMBER = struct.Struct(">I")
_HALF = KEY_BYTES // 2
_FIRST_HALF = 1
_SECOND_HALF = 2

HELLO_BYTES = _NAME.size + 2 * _NUMBER.size + KEY_BYTES + TAG_BYTES
"""Of a hello in one packet; for links with smaller packets it goes in two."""


class SessionName(NamedTuple):
    """Which sealed session.

    Attributes:
        identity: of the sender's keys, u32: where to look on the allow list.
        session: number of the session, u40; a later session of one identity has a greater one.
    """

    identity: int
    session: int

    @property
    def packed(self) -> bytes:
        """Nine bytes."""
        return struct.pack(">I5s", self.identity, self.session.to_bytes(5, "big"))


class Hello(NamedTuple):
    """A hello packet, or one half of it.

    Attributes:
        name: of the session.
        part: 0 whole, 1 first half (sender and half of the key), 2 second half (counter and the rest of the key).
        sender: id of the sender, u32: whose pictures they are in the archive; 0 in a second half.
        counter: that of the sender's next packet; 0 in a first half.
        ephemeral: the sender's X25519 public key for this session, or that half of it.
        covered: the bytes that the MAC proves.
        mac: the MAC.
    """

    name: SessionName
    part: int
    sender: int
    counter: int
    ephemeral: bytes
    covered: bytes
    mac: bytes

    def is_proved_by(self, key: bytes) -> bool:
        """Whether it was made by an owner of this hello key."""
        return hmac.compare_digest(_mac(key, self.covered), self.mac)


def encode_hello(
    name: SessionName, sender: int, counter: int, ephemeral: bytes, key: bytes, packet_bytes: int
) -> list[bytes]:
    """A hello in packets of at most ``packet_bytes`` bytes, 48 or more: one packet, or two halves."""
    packed_sender, packed_counter = _NUMBER.pack(sender), _NUMBER.pack(counter)
    if packet_bytes >= HELLO_BYTES:
        return [_hello(name, 0, packed_sender + packed_counter + ephemeral, key)]
    return [
        _hello(name, _FIRST_HALF, packed_sender + ephemeral[:_HALF], key),
        _hello(name, _SECOND_HALF, packed_counter + ephemeral[_HALF:], key),
    ]


def parse_hello(data: bytes) -> Hello:
    """Take a hello packet apart; nothing is proved before `Hello.is_proved_by`.

    Raises:
        CorruptDataError: if it is none.
    """
    if len(data) < _NAME.size or data[0] & ~0x03 != VERSION_BITS | HELLO:
        raise CorruptDataError("a packet is no hello")
    flags, identity, session = _NAME.unpack_from(data)
    part = flags & 0x03
    half = _NUMBER.size + _HALF
    length = {0: 2 * half, _FIRST_HALF: half, _SECOND_HALF: half}.get(part)
    if length is None or len(data) != _NAME.size + length + TAG_BYTES:
        raise CorruptDataError("a hello packet has the wrong length")
    covered, mac = data[:-TAG_BYTES], data[-TAG_BYTES:]
    content = covered[_NAME.size :]
    sender = counter = 0
    if part != _SECOND_HALF:
        (sender,) = _NUMBER.unpack_from(content)
        content = content[_NUMBER.size :]
    if part != _FIRST_HALF:
        (counter,) = _NUMBER.unpack_from(content)
        content = content[_NUMBER.size :]
    name = SessionName(identity, int.from_bytes(session, "big"))
    return Hello(name, part, sender, counter, content, covered, mac)


class StaticSecret:
    """What one pair of sender and station has in common for as long as both keep their keys.

    Args:
        own: X25519 private key of this end, 32 bytes.
        other: X25519 public key of the other end, 32 bytes.
        sender: the sender's public key.
        station: the station's public key.

    Raises:
        CorruptDataError: if the other key is none that agrees on anything (RFC 7748, section 6.1).
    """

    def __init__(self, own: bytes, other: bytes, *, sender: bytes, station: bytes) -> None:
        self._shared = agree(own, other)
        self._both = station + sender
        self.hello_key = HKDF(SHA256(), KEY_BYTES, _PROTOCOL, b"hello" + self._both).derive(self._shared)

    @classmethod
    def of_sender(cls, secret: SecretKey, station: PublicKey) -> Self:
        """At the sender."""
        return cls(secret.seal, station.seal, sender=secret.public.seal, station=station.seal)

    @classmethod
    def of_station(cls, secret: SecretKey, sender: PublicKey) -> Self:
        """At the station."""
        return cls(secret.seal, sender.seal, sender=sender.seal, station=secret.public.seal)

    def session_keys(
        self, name: SessionName, sender: int, ephemeral: bytes, agreed: bytes
    ) -> tuple["SealingKey", "ReportKeys"]:
        """Keys of a session, from the sender to the station and back.

        Args:
            name: of the session.
            sender: id of the sender.
            ephemeral: the sender's X25519 public key for this session.
            agreed: what it and the station's static key agree on.
        """
        salt = hashlib.sha256(_PROTOCOL + self._both + ephemeral + name.packed + _NUMBER.pack(sender)).digest()
        mixed = HKDF(SHA256(), KEY_BYTES, salt, b"session").derive(agreed + self._shared)
        return SealingKey(HKDFExpand(SHA256(), KEY_BYTES, b"up").derive(mixed)), ReportKeys(mixed)


class ReportKeys:
    """Keys of a session's reports: one for each life of a station.

    A station that lost its memory, or another one with the same keys, cannot know which counters were used before it;
    so each draws a number at random, says it in every report, and has a key of its own.
    """

    def __init__(self, mixed: bytes) -> None:
        self._mixed = mixed

    def of_life(self, life: bytes) -> "SealingKey":
        """The key of the life with this number, `LIFE_BYTES` long."""
        return SealingKey(HKDFExpand(SHA256(), KEY_BYTES, b"down" + life).derive(self._mixed))


class SealingKey:
    """Seals the packets of one direction of one session; a counter must seal one packet only."""

    def __init__(self, key: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)

    def seal(self, counter: int, header: bytes, body: bytes) -> bytes:
        """The body encrypted, and a tag over it and the header."""
        return self._cipher.encrypt(_nonce(counter), body, header)

    def open(self, counter: int, header: bytes, sealed: bytes) -> bytes | None:
        """The body, None if the seal does not hold."""
        try:
            return self._cipher.decrypt(_nonce(counter), sealed, header)
        except InvalidTag:
            return None


def agree(private: bytes, public: bytes) -> bytes:
    """X25519.

    Raises:
        CorruptDataError: for a public key that makes every private key agree on zero.
    """
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise CorruptDataError("a public key is of no use") from error


def _hello(name: SessionName, part: int, content: bytes, key: bytes) -> bytes:
    covered = bytes([VERSION_BITS | HELLO | part]) + name.packed + content
    return covered + _mac(key, covered)


def _mac(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2s(data, key=key, digest_size=TAG_BYTES).digest()


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")
