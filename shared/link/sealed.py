"""Sealed sessions: the envelopes of both ends (`shared.link.sealed_gate` decides who is let in)."""

import secrets
import struct
from collections import OrderedDict
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.errors import CorruptDataError, PinholeError
from shared.link.envelope import Cause, RefusedError
from shared.link.keys import PublicKey, SecretKey
from shared.link.packet import (
    CONTROL,
    COUNTERS,
    LONG,
    SEALED,
    VERSION_BITS,
    Incoming,
    check_version,
    unwrap_counter,
)
from shared.link.plain import fold_tag
from shared.link.replay import ReplayWindow
from shared.link.seal import (
    LARGEST_COUNTER,
    LARGEST_SESSION,
    LIFE_BYTES,
    TAG_BYTES,
    ReportKeys,
    SealingKey,
    SessionName,
    StaticSecret,
    agree,
    encode_hello,
)

_HEADER = struct.Struct(">BBH")
OVERHEAD = _HEADER.size + TAG_BYTES
"""Bytes of a sender's sealed packet that are not its body."""

REPORT_OVERHEAD = OVERHEAD + LIFE_BYTES
"""The same of a station's."""

_LIVES_REMEMBERED = 64

_REPORTS_UNHEARD = COUNTERS // 4
"""Reports of one life after which a sender that says hello may have lost more of them than 16 bits can count."""


class SealedSender:
    """A sender's side of a sealed session.

    Args:
        secret: the sender's keys.
        station: the station's public keys.
        sender: id of the sender, u32, kept for life: whose pictures they are in the archive. It belongs to the place
            that numbers the pictures, not to the keys, so that no two pictures ever get one number.
        session: number of the session, u40, greater than that of every earlier session of these keys. Should it ever
            not be, the station drops the session; keys and nonces do not depend on it.

    Raises:
        PinholeError: if the number is out of range or a key is of no use.
    """

    def __init__(self, secret: SecretKey, station: PublicKey, *, sender: int, session: int) -> None:
        if not 0 <= session <= LARGEST_SESSION:
            raise PinholeError(f"session number {session} does not fit into 40 bits; set the clock")
        self._name = SessionName(secret.identity, session)
        self._static = StaticSecret.of_sender(secret, station)
        # A key pair for this session alone, from the system's randomness: however often a spool is restored from a
        # backup or a start fails, no two sessions have a key in common, and so no nonce is ever used twice.
        private = X25519PrivateKey.generate()
        self._ephemeral = private.public_key().public_bytes_raw()
        agreed = agree(private.private_bytes_raw(), station.seal)
        self._up, self._reports = self._static.session_keys(self._name, sender, self._ephemeral, agreed)
        self._lives: OrderedDict[bytes, tuple[SealingKey, ReplayWindow]] = OrderedDict()
        self.sender = sender
        self.tag = fold_tag(self._name.packed)
        self.sent = 0

    def overhead(self, *, known: bool) -> int:
        """See `SenderEnvelope`."""
        return OVERHEAD

    def wrap(self, flags: int, body: bytes, *, known: bool) -> bytes:
        """See `SenderEnvelope`.

        Raises:
            PinholeError: after 2**32 packets.
        """
        if self.sent > LARGEST_COUNTER:
            raise PinholeError("a session has sent all the packets that its keys may seal; start the sender again")
        header = _HEADER.pack(VERSION_BITS | SEALED | flags, self.tag, self.sent % COUNTERS)
        sealed = self._up.seal(self.sent, header, body)
        self.sent += 1
        return header + sealed

    def unwrap(self, data: bytes) -> Incoming:
        """See `SenderEnvelope`."""
        check_version(data)
        if (
            len(data) < REPORT_OVERHEAD
            or data[0] & (SEALED | LONG | CONTROL) != SEALED | CONTROL
            or data[1] != self.tag
        ):
            raise CorruptDataError("a packet is not for this sender")
        life = data[_HEADER.size : _HEADER.size + LIFE_BYTES]
        key, window = self._lives.get(life) or (self._reports.of_life(life), ReplayWindow())
        incoming = _open(data, key, window, 0, _HEADER.size + LIFE_BYTES)
        self._lives[life] = (key, window)
        self._lives.move_to_end(life)
        if len(self._lives) > _LIVES_REMEMBERED:
            self._lives.popitem(last=False)
        return incoming

    def hello(self, packet_bytes: int) -> Sequence[bytes]:
        """See `SenderEnvelope`."""
        counter = min(self.sent, LARGEST_COUNTER)
        return encode_hello(self._name, self.sender, counter, self._ephemeral, self._static.hello_key, packet_bytes)


class SealedSession:
    """A station's side of a sealed session."""

    overhead = REPORT_OVERHEAD

    def __init__(
        self, name: SessionName, sender: int, ephemeral: bytes, up: SealingKey, reports: ReportKeys, floor: int
    ) -> None:
        self.name = name
        self.ephemeral = ephemeral
        self.sender = sender
        self.tag = fold_tag(name.packed)
        self.window = ReplayWindow(floor)
        # What the sender last said in a hello: it leads on after more packets unheard than 16 bits can count.
        self.announced = 0
        self._up = up
        self._reports = reports
        self._begin_life()

    def greet_again(self, counter: int) -> None:
        """The sender said hello once more, about to send packet ``counter``: it does not hear this station."""
        self.announced = max(self.announced, counter)
        if self._sent > _REPORTS_UNHEARD:
            # Its replay window may be left behind by more than the numbers on the wire tell; a new life begins at 0.
            self._begin_life()

    def _begin_life(self) -> None:
        self._life = secrets.token_bytes(LIFE_BYTES)
        self._down = self._reports.of_life(self._life)
        self._sent = 0

    def wrap(self, message: bytes) -> bytes:
        """See `StationEnvelope`."""
        header = _HEADER.pack(VERSION_BITS | SEALED | CONTROL, self.tag, self._sent % COUNTERS) + self._life
        sealed = self._down.seal(self._sent, header, message)
        self._sent += 1
        return header + sealed

    def open(self, data: bytes) -> Incoming:
        """Open a packet of the sender.

        Raises:
            RefusedError: if it came before.
            CorruptDataError: if its seal does not hold.
        """
        return _open(data, self._up, self.window, self.announced, _HEADER.size)


def _open(data: bytes, key: SealingKey, window: ReplayWindow, announced: int, start: int) -> Incoming:
    """Open a packet whose sealed body begins at ``start``."""
    flags, _, wire = _HEADER.unpack_from(data)
    counter = unwrap_counter(wire, max(window.next, announced) - 1, COUNTERS)
    if counter < 0:
        raise CorruptDataError("a seal does not hold")
    if not window.is_new(counter):
        # Decrypting it would only tell whether it is an old packet or a forgery with an old number.
        raise RefusedError(Cause.REPLAYED, "a packet came before")
    body = key.open(counter, data[:start], data[start:])
    if body is None:
        raise CorruptDataError("a seal does not hold")
    window.take(counter)
    return Incoming(flags, counter, body)
