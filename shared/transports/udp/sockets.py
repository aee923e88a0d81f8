"""A datagram socket in an event loop: bounded in bytes, and every failure a counted loss."""

import asyncio
import contextlib
import errno
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from shared.transports.byte_queue import ByteQueue

_SO_RXQ_OVFL = 40
"""Of Linux's <asm-generic/socket.h>: the kernel tells with each datagram how many it had no room for."""

# Of Linux's <linux/in.h> and <linux/in6.h>: the kernel tells which of this machine's addresses a datagram came to.
_IP_PKTINFO, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 8, 49, 50
_PATHS_REMEMBERED = 4096

_LARGEST_DATAGRAM = 65535
_ANCILLARY = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(20)
_AT_ONCE = 64
"""Datagrams read before others of the event loop have their turn."""


@dataclass
class UdpCounters:
    """What got lost, as far as this end can know.

    Attributes:
        errors: packets that the network refused, or whose way was reported closed.
        oversize: those among them that were too large.
        lost_in_kernel: datagrams that the kernel had no room for.
    """

    errors: int = 0
    oversize: int = 0
    lost_in_kernel: int = 0


class UdpEnd:
    """What both ends have in common."""

    def __init__(self, url: str, most_bytes: int) -> None:
        self.url = url
        self._received: ByteQueue[Hashable] = ByteQueue(most_bytes)
        self.counters = UdpCounters()

    @property
    def dropped(self) -> int:
        """Packets dropped because nobody fetched them in time."""
        return self._received.dropped

    @property
    def errors(self) -> int:
        """Packets that the network refused."""
        return self.counters.errors


class UdpSocket:
    """Reads into a queue whenever something arrives, and sends as soon as the kernel takes it.

    Args:
        sock: non-blocking; this object closes it.
        received: gets datagrams with the addresses they came from.
        counters: of losses.
        on_error: gets what the network said later against packets that had left.
        answers_as_asked: send to a peer from the address that it sent to, which a machine with several addresses does
            not by itself: peers hear only whom they spoke to.
    """

    def __init__(
        self,
        sock: socket.socket,
        received: ByteQueue[Hashable],
        counters: UdpCounters,
        on_error: Callable[[OSError], None] = lambda error: None,
        *,
        answers_as_asked: bool = False,
    ) -> None:
        self.sock = sock
        self._received = received
        self._counters = counters
        self._on_error = on_error
        self._loop = asyncio.get_running_loop()
        self._writable = asyncio.Event()
        self._kernel_lost = 0
        self.closed = False
        self._ours: OrderedDict[Hashable, tuple[int, int, bytes]] = OrderedDict()
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
        if answers_as_asked:
            with contextlib.suppress(OSError):
                if sock.family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
                else:
                    sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        self._loop.add_reader(sock, self._read)

    async def send(self, packet: bytes, to: tuple[str | int, ...] | None) -> OSError | None:
        """Send a datagram; waits while the kernel has no room.

        Args:
            packet: its contents.
            to: a socket address; None where the socket is connected.

        Returns:
            What the network said against it; the packet is then lost, and counted so.
        """
        told_of_another = False
        while not self.closed:
            try:
                if to is None:
                    self.sock.send(packet)
                elif to in self._ours:
                    self.sock.sendmsg([packet], [self._ours[to]], 0, to)
                else:
                    self.sock.sendto(packet, to)
                return None
            except BlockingIOError:
                await self._until_writable()
            except OSError as error:
                if self._ours.pop(to, None) is not None:
                    continue  # perhaps this machine has lost that address
                self._note(error)
                # What ICMP said of an earlier packet; this one has not been tried.
                if error.errno != errno.ECONNREFUSED or told_of_another:
                    return error
                told_of_another = True
        return None

    def close(self) -> None:
        """Close at once; a second call does nothing."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self.sock)
        self._loop.remove_writer(self.sock)
        self.sock.close()
        self._writable.set()

    def _note(self, error: OSError) -> None:
        self._counters.errors += 1
        self._counters.oversize += error.errno == errno.EMSGSIZE

    async def _until_writable(self) -> None:
        self._writable.clear()
        self._loop.add_writer(self.sock, self._on_writable)
        await self._writable.wait()

    def _on_writable(self) -> None:
        self._loop.remove_writer(self.sock)
        self._writable.set()

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, ancillary, _, source = self.sock.recvmsg(_LARGEST_DATAGRAM, _ANCILLARY)
            except BlockingIOError:
                return
            except OSError as error:
                # A port where nobody listens yet answers by ICMP. That is one more lost packet; the link goes on.
                self._note(error)
                self._on_error(error)
                return
            for level, kind, value in ancillary:
                if level == socket.SOL_SOCKET and kind == _SO_RXQ_OVFL and len(value) == 4:
                    self._note_kernel_losses(struct.unpack("@I", value)[0])
                elif level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(value) == 12:
                    # Its index 0: the routing table chooses the interface.
                    self._note_ours(source, (level, _IP_PKTINFO, bytes(4) + value[4:8] + bytes(4)))
                elif level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO and len(value) == 20:
                    self._note_ours(source, (level, _IPV6_PKTINFO, value[:16] + bytes(4)))
            self._received.put(source, data)

    def _note_ours(self, source: Hashable, message: tuple[int, int, bytes]) -> None:
        self._ours[source] = message
        self._ours.move_to_end(source)
        if len(self._ours) > _PATHS_REMEMBERED:
            self._ours.popitem(last=False)

    def _note_kernel_losses(self, total: int) -> None:
        self._counters.lost_in_kernel += (total - self._kernel_lost) & 0xFFFFFFFF
        self._kernel_lost = total
