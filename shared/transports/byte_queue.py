"""A queue of packets that is bounded in bytes, and that may end."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

from shared.errors import PinholeError

Path = TypeVar("Path")

COST_OF_A_PACKET = 64
"""Bytes that a queued packet counts beside its own, so that a flood of empty ones is bounded too."""


class ByteQueue(Generic[Path]):
    """Packets with the path that each came by, first in, first out; what does not fit is dropped and counted.

    Args:
        most_bytes: bound on the bytes of all packets, each with `COST_OF_A_PACKET` more.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._packets: deque[tuple[Path, bytes]] = deque()
        self._arrived = asyncio.Event()
        self._failure: str | None = None
        self.held = 0
        """Bytes in the queue, as they count against the bound."""
        self.dropped = 0
        """Packets that found no room."""

    def put(self, path: Path, packet: bytes) -> None:
        """Append a packet, or drop it: the newest, for what is older may complete something."""
        cost = len(packet) + COST_OF_A_PACKET
        if self.held + cost > self._most:
            self.dropped += 1
            return
        self.held += cost
        self._packets.append((path, packet))
        self._arrived.set()

    def fail(self, reason: str) -> None:
        """No more packets will come; the first reason stays."""
        if self._failure is None:
            self._failure = reason
        self._arrived.set()

    def check(self) -> None:
        """See whether packets may still come.

        Raises:
            PinholeError: if not.
        """
        if self._failure is not None:
            raise PinholeError(self._failure)

    async def get(self) -> tuple[Path, bytes]:
        """Wait for the oldest packet; nothing is lost if the wait is cancelled.

        Raises:
            PinholeError: after the last packet, if no more will come.
        """
        while not self._packets:
            self.check()
            self._arrived.clear()
            await self._arrived.wait()
        path, packet = self._packets.popleft()
        self.held -= len(packet) + COST_OF_A_PACKET
        return path, packet
