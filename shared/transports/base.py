"""What the link asks of a transport: to carry packets, some of which may get lost, doubled, or out of order.

A transport knows nothing of what packets mean. It is bounded in memory: where a peer is away or slow it makes ``send``
wait (streams) or drops packets (datagrams), and the link repairs what was dropped.
"""

from collections.abc import Hashable
from typing import Protocol

LARGEST_PACKET = 65507
"""Bytes of the largest packet that any transport carries."""


class ClientTransport(Protocol):
    """A sender's way to one station."""

    async def send(self, packet: bytes, priority: int = 0) -> None:
        """Hand over a packet; waits while the way is full or, for streams, while nobody is at the other end.

        Args:
            packet: at most `LARGEST_PACKET` bytes.
            priority: class of its contents, 0 base layers, 1 refinements; a transport may take more care of 0.
        """

    async def receive(self) -> bytes:
        """Wait for a packet from the station."""

    async def close(self) -> None:
        """Close; packets still on their way out have a moment to leave. A second call does nothing."""


class StationTransport(Protocol):
    """A station's ways to its senders."""

    @property
    def url(self) -> str:
        """Where the station listens, with the port that was really taken."""

    async def send(self, path: Hashable, packet: bytes) -> None:
        """Send a packet to where others came from; dropped if nobody is there any more."""

    async def receive(self) -> tuple[Hashable, bytes]:
        """Wait for a packet; also returns the path that leads back to its sender."""

    async def close(self) -> None:
        """Close at once. A second call does nothing."""
