"""What the link asks of a transport: to carry packets, some of which may get lost, doubled, or out of order.

A transport knows nothing of what packets mean. It is bounded in memory: where a peer is away or slow it makes ``send``
wait (streams) or drops packets and counts them (datagrams), and the link repairs what was dropped.

Every kind keeps these rules:

* A sender's transport opens although nobody is there and although its host's name is not found: both may come. What
  cannot be opened now, for want of a device or a modem, is an error, and the owner tries again. `UsageError` is final.
* A packet arrives as it was sent, or not at all. What no peer of the same kind can have sent is dropped and counted.
* What a transport can mend by itself, such as a lost connection or a network that is away for a while, it mends, and
  tells the ``report`` of its options each trouble once. What it cannot mend, such as a device that was unplugged, it
  raises from ``send`` and ``receive`` from then on; the owner closes it and opens another. Nothing is logged.
* After `close`, a client's ``send`` and ``receive`` and a station's ``receive`` raise, also those that wait already. A
  station's ``send`` drops.
* Errors are `shared.errors.PinholeError` or OSError, in one line.
* ``send`` and ``receive`` may be cancelled; of packets, only the one that was being sent can get lost by that.

They differ in what happens while nobody takes packets:

===================  ===============================================  ============================================
kind                 no station there                                 station there, but its owner fetches nothing
===================  ===============================================  ============================================
``tcp``              ``send`` waits                                   ``send`` waits, with four seconds' worth of
                                                                      the rate under way, at most 256 KiB
``mqtt``, ``mqtts``  the broker keeps base layers for a station that  dropped beyond 16 MiB
                     was there before and drops the rest; ``send``
                     waits while the broker is away
``udp``              lost, and told where the network says so;        dropped beyond 4 MiB
                     ``send`` waits until the host was found once
``serial``,          they go out at the speed of the line             dropped beyond 256 KiB
``kiss``,
``kiss+tcp``
``memory``           lost                                             dropped beyond 4 MiB
several links        as their kinds; ``send`` waits while none of     as their kinds
                     them can be used
===================  ===============================================  ============================================
"""

from collections.abc import Hashable
from typing import Protocol, runtime_checkable

from shared.errors import PinholeError

LARGEST_PACKET = 65507
"""Bytes of the largest packet that any transport carries."""


class PacketTooLargeError(PinholeError):
    """A packet is larger than what the way takes; the transport is as good as before."""


class ClientTransport(Protocol):
    """A sender's way to one station."""

    async def send(self, packet: bytes, priority: int = 0) -> None:
        """Hand over a packet; waits while the way is full or, for streams, while nobody is at the other end.

        Args:
            packet: at most `LARGEST_PACKET` bytes, or what the way takes; a larger one is an error or a counted loss.
            priority: class of its contents, 0 base layers, 1 refinements; a transport may take more care of 0.

        Raises:
            PacketTooLargeError: if the packet is larger than what the way takes.
            PinholeError: if the transport is closed or has failed for good.
            OSError: likewise.
        """

    async def receive(self) -> bytes:
        """Wait for a packet from the station.

        Raises:
            PinholeError: if the transport is closed or has failed for good, after what had arrived before.
            OSError: likewise.
        """

    async def close(self) -> None:
        """Close; packets still on their way out have a moment to leave. A second call does nothing."""


@runtime_checkable
class KeepsConnection(Protocol):
    """A client that connects by itself, again and again, and whose ``send`` waits meanwhile."""

    @property
    def lacks_connection(self) -> bool:
        """Whether it has no connection, since one broke or an attempt failed; not yet during the first attempt."""


class StationTransport(Protocol):
    """A station's ways to its senders."""

    @property
    def url(self) -> str:
        """Where the station listens, with the port that was really taken."""

    async def send(self, path: Hashable, packet: bytes) -> None:
        """Send a packet to where others came from.

        It is dropped if nobody is there any more, if it is too large, or if too much is under way there already: one
        sender that takes nothing must not hold up the others.

        Raises:
            PinholeError: if the transport has failed for good.
            OSError: likewise.
        """

    async def receive(self) -> tuple[Hashable, bytes]:
        """Wait for a packet; also returns the path that leads back to its sender.

        Raises:
            PinholeError: if the transport is closed or has failed for good.
            OSError: likewise.
        """

    async def close(self) -> None:
        """Close at once. A second call does nothing."""
