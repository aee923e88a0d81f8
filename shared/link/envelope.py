"""What protects packets, and by that proves whose they are: the contracts of both ends.

There are two kinds: `shared.link.plain` proves only that nothing was damaged by chance, `shared.link.sealed` that a
sender on the allow list made the packet and nobody read or changed it.
"""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from shared.errors import CorruptDataError
from shared.link.packet import Incoming


class Cause(Enum):
    """Why a station refused a packet; the value names the counter of `StationStatistics`."""

    DAMAGED = "packets_rejected"
    UNKNOWN_SESSION = "packets_unknown"
    STALE_SESSION = "packets_stale"
    OTHER_VERSION = "packets_other_version"
    NOT_SEALED = "packets_not_sealed"
    SEALED = "packets_sealed"
    UNLISTED_SENDER = "packets_unlisted"
    FORGED = "packets_forged"
    REPLAYED = "packets_replayed"


class RefusedError(CorruptDataError):
    """A packet is not taken.

    Attributes:
        cause: why.
        tag: session hint of the packet where its sender may be asked who it is, else None.
    """

    def __init__(self, cause: Cause, detail: str, tag: int | None = None) -> None:
        super().__init__(detail)
        self.cause = cause
        self.tag = tag


class SenderEnvelope(Protocol):
    """The sender's side of a session's protection."""

    @property
    def sender(self) -> int:
        """Id of the sender, u32."""

    @property
    def tag(self) -> int:
        """Session hint, 0 to 255."""

    @property
    def sent(self) -> int:
        """Packets wrapped so far: the counter of the next one."""

    def overhead(self, *, known: bool) -> int:
        """Bytes of a packet that are not its body; ``known`` as for `wrap`."""

    def wrap(self, flags: int, body: bytes, *, known: bool) -> bytes:
        """Make a packet.

        Args:
            flags: those bits of the first byte that speak of the body.
            body: the body.
            known: the station has shown that it knows the session.
        """

    def unwrap(self, data: bytes) -> Incoming:
        """Open a control packet from the station.

        Raises:
            CorruptDataError: if it is not from the session's station, or came before.
        """

    def hello(self, packet_bytes: int) -> Sequence[bytes]:
        """Packets of at most ``packet_bytes`` bytes that make the session known; none if every packet does that."""


class StationEnvelope(Protocol):
    """The station's side of a session's protection."""

    @property
    def sender(self) -> int:
        """Id of the sender, u32."""

    @property
    def overhead(self) -> int:
        """Bytes of a control packet that are not its message."""

    def wrap(self, message: bytes) -> bytes:
        """Make a control packet for the sender."""


class Admitted(NamedTuple):
    """A packet that was let in.

    Attributes:
        envelope: of its session; another object than before means another start of the sender.
        incoming: the packet, None if it only made the session known.
    """

    envelope: StationEnvelope
    incoming: Incoming | None


class Gate(Protocol):
    """Decides which packets a station takes, and keeps what that needs of every session."""

    def admit(self, data: bytes) -> Admitted | None:
        """Open a packet.

        Returns:
            None for one that is in order but says nothing yet.

        Raises:
            RefusedError: if it is not let in; nothing of it is kept.
        """

    def forget(self, envelope: StationEnvelope) -> None:
        """The station gave up a session; its packets are unknown from now on until it is made known again."""
