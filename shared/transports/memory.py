"""Transport within one process, for tests: stations by name, and faults on demand."""

import asyncio
import random
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import count

from shared.errors import PinholeError, UsageError
from shared.transports.address import Address
from shared.transports.base import LARGEST_PACKET, PacketTooLargeError
from shared.transports.byte_queue import ByteQueue
from shared.transports.options import ClientOptions, StationOptions

_QUEUED_AT_SENDER = 1 << 18
_QUEUED_AT_STATION = 1 << 22
"""Bytes that wait for the owner; what exceeds them is dropped."""

_stations: dict[str, "MemoryStation"] = {}
_names = count(1)


@dataclass
class Faults:
    """What happens to packets on one way, each with its own probability from 0 to 1.

    Attributes:
        loss: the packet is gone.
        duplication: it arrives twice.
        reordering: it is held back until one to four others have passed.
        corruption: one of its bits is flipped.
        seed: of all chance.
    """

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    corruption: float = 0.0
    seed: int = 0
    _random: random.Random = field(init=False, repr=False)
    _held: deque[list[int | bytes]] = field(init=False, repr=False, default_factory=deque)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def apply(self, packet: bytes) -> list[bytes]:
        """What comes out of the way when ``packet`` goes in."""
        chance = self._random
        out: list[bytes] = []
        if packet and chance.random() < self.corruption:
            flipped = bytearray(packet)
            flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
            packet = bytes(flipped)
        if chance.random() >= self.loss:
            copies = 2 if chance.random() < self.duplication else 1
            if chance.random() < self.reordering:
                self._held.append([chance.randint(1, 4), packet])
                copies -= 1
            out += [packet] * copies
        released = self._pass_by()
        return out + released

    def _pass_by(self) -> list[bytes]:
        out = []
        for entry in [*self._held]:
            left, packet = entry
            if left == 0 and isinstance(packet, bytes):
                self._held.remove(entry)
                out.append(packet)
            elif isinstance(left, int):
                entry[0] = left - 1
        return out


class MemoryStation:
    """A station that senders of the same process reach by name."""

    def __init__(self, name: str) -> None:
        self.url = f"memory://{name}"
        self._name = name
        self._received: ByteQueue[Hashable] = ByteQueue(_QUEUED_AT_STATION)
        self._clients: dict[int, MemoryClient] = {}

    @property
    def dropped(self) -> int:
        """Packets dropped because nobody fetched them in time."""
        return self._received.dropped

    async def send(self, path: Hashable, packet: bytes) -> None:
        """See `StationTransport`."""
        client = self._clients.get(path) if isinstance(path, int) else None
        if client is not None:
            client.take(packet)

    async def receive(self) -> tuple[Hashable, bytes]:
        """See `StationTransport`."""
        return await self._received.get()

    async def close(self) -> None:
        """See `StationTransport`."""
        self._received.fail(f"{self.url}: closed")
        self._clients.clear()
        if _stations.get(self._name) is self:
            del _stations[self._name]

    def take(self, client: "MemoryClient", packet: bytes) -> None:
        """Queue a packet of a sender; dropped if the queue is full."""
        self._clients[client.path] = client
        self._received.put(client.path, packet)


class MemoryClient:
    """A sender in the station's process; packets are lost while no station has the name.

    Args:
        name: the station's.
        up: faults on the way to the station.
        down: faults on the way back.
    """

    def __init__(self, name: str, up: Faults | None = None, down: Faults | None = None) -> None:
        self.path = next(_names)
        self._name = name
        self._up = up or Faults()
        self._down = down or Faults()
        self._received: ByteQueue[None] = ByteQueue(_QUEUED_AT_SENDER)
        self._closed = False

    @property
    def dropped(self) -> int:
        """Answers dropped because nobody fetched them in time."""
        return self._received.dropped

    async def send(self, packet: bytes, priority: int = 0) -> None:
        """See `ClientTransport`.

        Raises:
            PinholeError: if the transport is closed or the packet too large.
        """
        if len(packet) > LARGEST_PACKET:
            raise PacketTooLargeError(
                f"memory://{self._name}: a packet of {len(packet)} bytes is over the limit of {LARGEST_PACKET}"
            )
        self._received.check()
        station = _stations.get(self._name)
        for arriving in self._up.apply(packet):
            if station is not None:
                station.take(self, arriving)
        # Lets the other end run, as any real send may.
        await asyncio.sleep(0)

    async def receive(self) -> bytes:
        """See `ClientTransport`."""
        return (await self._received.get())[1]

    async def close(self) -> None:
        """See `ClientTransport`."""
        self._received.fail(f"memory://{self._name}: closed")
        self._closed = True

    def take(self, packet: bytes) -> None:
        """Queue a packet of the station; dropped if the queue is full."""
        if self._closed:
            return
        for arriving in self._down.apply(packet):
            self._received.put(None, arriving)


def parse_memory(url: str) -> Address:
    """Read ``memory://name``.

    Raises:
        PinholeError: if it is not of that form.
    """
    scheme, _, name = url.partition("://")
    if not name or set(name) & set("?#/"):
        raise UsageError(f"{url!r} is not an address: write it as memory://name, without options")
    return Address(scheme, name, 0)


def refuse_memory(address: Address, options: ClientOptions | StationOptions) -> None:
    """What commands say to such an address.

    Raises:
        UsageError: always.
    """
    raise UsageError(f"memory://{address.host}: that leads nowhere outside one process; use tcp://host:port or another")


async def open_memory_client(address: Address, options: ClientOptions) -> MemoryClient:
    """A sender of the station with the address's name, which need not be there yet."""
    return MemoryClient(address.host)


async def open_memory_station(address: Address, options: StationOptions) -> MemoryStation:
    """A station with the address's name.

    Raises:
        PinholeError: if the name is taken.
    """
    if address.host in _stations:
        raise PinholeError(f"memory://{address.host}: another station has this name; choose another")
    station = _stations[address.host] = MemoryStation(address.host)
    return station
