"""What a ZeroMQ station remembers of those who are connected to it: bounded in bytes and in heads."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.transports.byte_queue import COST_OF_A_PACKET
from shared.transports.zeromq.credit import ANSWER_WINDOW, LARGEST_WINDOW, Allowance, Hello, Tally

_QUEUED_OF_ONE = 1 << 20
"""Bytes: a window of packets of 48 bytes, with what each of them costs beside its own."""

_QUEUED_OF_ALL = 1 << 25
_MOST_PEERS = 4096


class Limits(NamedTuple):
    """Bounds of a station.

    Attributes:
        of_one: bytes queued of one sender; more is dropped, for it ignores its credit.
        of_all: bytes queued of all; the station stops reading then, and nothing is lost.
        peers: senders remembered; of more, those that were silent the longest are forgotten.
    """

    of_one: int = _QUEUED_OF_ONE
    of_all: int = _QUEUED_OF_ALL
    peers: int = _MOST_PEERS


@dataclass
class Peer:
    """One connection.

    Attributes:
        tally: of packets taken from it.
        answers: of what is under way to it.
        greeted: whether its hello was heard, so that totals mean the same to both ends.
    """

    tally: Tally = field(default_factory=lambda: Tally(LARGEST_WINDOW))
    answers: Allowance = field(default_factory=lambda: Allowance(ANSWER_WINDOW))
    greeted: bool = False
    packets: deque[bytes] = field(default_factory=deque)
    held: int = 0


class Peers:
    """Connections by their routing ids, and their packets, which are taken in turn.

    Args:
        limits: bounds.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._peers: OrderedDict[bytes, Peer] = OrderedDict()
        self._turns: deque[bytes] = deque()
        self.held = 0
        """Bytes of queued packets, each with what it costs beside its own."""
        self.dropped = 0
        """Packets dropped of senders that sent more than they may, or were forgotten."""

    def __len__(self) -> int:
        return len(self._peers)

    @property
    def full(self) -> bool:
        """Whether reading must wait until the owner takes packets."""
        return self.held >= self._limits.of_all

    def peer(self, path: bytes) -> Peer:
        """The connection with this routing id, from now on the one heard last."""
        peer = self._peers.get(path)
        if peer is None:
            peer = self._peers[path] = Peer()
            while len(self._peers) > self._limits.peers:
                self.forget(next(iter(self._peers)))
        self._peers.move_to_end(path)
        return peer

    def greet(self, path: bytes, hello: Hello) -> Peer:
        """Take in a hello; one that is said again changes only the window."""
        peer = self.peer(path)
        window = min(max(hello.window, 1), LARGEST_WINDOW)
        if peer.greeted:
            peer.tally.window = window
        else:
            # What was queued before it is among what `start` counts.
            peer.tally = Tally(window, hello.start - sum(map(len, peer.packets)))
            peer.greeted = True
        return peer

    def put(self, path: bytes, packet: bytes) -> None:
        """Queue a packet, or drop it where its sender has too many."""
        peer = self.peer(path)
        cost = len(packet) + COST_OF_A_PACKET
        if peer.held + cost > self._limits.of_one:
            self.dropped += 1
            peer.tally.take(len(packet))
            return
        if not peer.packets:
            self._turns.append(path)
        peer.packets.append(packet)
        peer.held += cost
        self.held += cost

    def take(self) -> tuple[bytes, bytes, Peer] | None:
        """The next packet, of each sender in turn; None if there is none."""
        if not self._turns:
            return None
        path = self._turns.popleft()
        peer = self._peers[path]
        packet = peer.packets.popleft()
        cost = len(packet) + COST_OF_A_PACKET
        peer.held -= cost
        self.held -= cost
        if peer.packets:
            self._turns.append(path)
        peer.tally.take(len(packet))
        return path, packet, peer

    def forget(self, path: bytes) -> None:
        """Drop a connection and what is queued of it."""
        peer = self._peers.pop(path, None)
        if peer is not None and peer.packets:
            self.held -= peer.held
            self.dropped += len(peer.packets)
            self._turns.remove(path)

    def forget_if_idle(self, path: bytes) -> None:
        """Drop a connection that is gone; what it sent before stays until it is taken."""
        peer = self._peers.get(path)
        if peer is not None and not peer.packets:
            del self._peers[path]
