"""ZeroMQ transport: a DEALER at each sender, a ROUTER at the station, one packet a message, over TCP.

ZeroMQ reconnects by itself and frames messages; what it must not do is pile packets up while the station is away, for
they would all leave in one burst when it returns, past every budget. So packets are only given to a connection that
stands, and ``send`` waits until there is one. What a connection loses when it breaks, the link repairs.
"""

import asyncio
import errno
import socket
from collections.abc import Hashable

import zmq
import zmq.asyncio

from shared.errors import PinholeError
from shared.transports.address import Address, bracketed, cannot_listen, resolve
from shared.transports.base import LARGEST_PACKET

_PACKETS_QUEUED_TO_STATION = 8
_PACKETS_QUEUED_AT_STATION = 1000
_HEARTBEAT_EVERY = 15_000
_HEARTBEAT_TIMEOUT = 45_000
"""Milliseconds: on a 2.4 kbit/s link a heartbeat may well stand behind some seconds of pictures."""

_RECONNECT_AFTER = 500
_RECONNECT_AT_MOST = 15_000
_HANDSHAKE_AT_MOST = 60_000
_LINGER_AT_SENDER = 1000
_SEND_BUFFER = 16384
"""Bytes. What the kernel holds is out of the sender's hands: on a narrow link a full default buffer is minutes old."""


class ZeroMQClient:
    """A sender's connection; open it with `open_zeromq_client`."""

    def __init__(self, context: zmq.asyncio.Context, dealer: zmq.asyncio.Socket) -> None:
        self._context = context
        self._socket = dealer

    async def send(self, packet: bytes) -> None:
        """See `ClientTransport`; waits while the station is away."""
        await self._socket.send(packet)

    async def receive(self) -> bytes:
        """See `ClientTransport`."""
        while True:
            frames = await self._socket.recv_multipart()
            if len(frames) == 1:
                return frames[0]

    async def close(self) -> None:
        """See `ClientTransport`."""
        await _close(self._context, self._socket, _LINGER_AT_SENDER)


class ZeroMQStation:
    """A station's listening socket; open it with `open_zeromq_station`."""

    def __init__(self, context: zmq.asyncio.Context, router: zmq.asyncio.Socket, url: str) -> None:
        self._context = context
        self._socket = router
        self.url = url

    async def send(self, path: Hashable, packet: bytes) -> None:
        """See `StationTransport`; dropped as well if the sender's queue is full, for it must not hold up others."""
        if not isinstance(path, bytes):
            return
        try:
            await self._socket.send_multipart([path, packet], flags=zmq.DONTWAIT)
        except zmq.Again:
            return
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise

    async def receive(self) -> tuple[Hashable, bytes]:
        """See `StationTransport`; messages of more than one part are nobody's packets and dropped."""
        while True:
            frames = await self._socket.recv_multipart()
            if len(frames) == 2:
                return frames[0], frames[1]

    async def close(self) -> None:
        """See `StationTransport`."""
        await _close(self._context, self._socket, 0)


async def open_zeromq_client(address: Address) -> ZeroMQClient:
    """Connect to a station; it need not be there yet.

    Raises:
        PinholeError: if the host cannot be found or the address is no place to connect to.
    """
    family, _ = await resolve(address, kind=socket.SOCK_STREAM, passive=False)
    context, dealer = _socket(zmq.DEALER, family)
    dealer.setsockopt(zmq.IMMEDIATE, 1)
    dealer.setsockopt(zmq.SNDHWM, _PACKETS_QUEUED_TO_STATION)
    dealer.setsockopt(zmq.SNDBUF, _SEND_BUFFER)
    dealer.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_AFTER)
    dealer.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_AT_MOST)
    try:
        # By name, not by number: a station that moved is found again when ZeroMQ reconnects.
        dealer.connect(f"tcp://{bracketed(address.host)}:{address.port}")
    except zmq.ZMQError as error:
        await _close(context, dealer, 0)
        raise PinholeError(f"{address.url}: cannot connect there ({str(error).lower()})") from error
    return ZeroMQClient(context, dealer)


async def open_zeromq_station(address: Address) -> ZeroMQStation:
    """Listen for senders.

    Raises:
        PinholeError: if the host cannot be found or the address is taken.
    """
    family, host = await resolve(address, kind=socket.SOCK_STREAM, passive=True)
    context, router = _socket(zmq.ROUTER, family)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.setsockopt(zmq.SNDHWM, _PACKETS_QUEUED_AT_STATION)
    try:
        router.bind(f"tcp://{bracketed(host)}:{address.port}")
    except zmq.ZMQError as error:
        await _close(context, router, 0)
        raise cannot_listen(address.url, str(error)) from error
    return ZeroMQStation(context, router, router.getsockopt_string(zmq.LAST_ENDPOINT))


def _socket(kind: int, family: socket.AddressFamily) -> tuple[zmq.asyncio.Context, zmq.asyncio.Socket]:
    context = zmq.asyncio.Context()
    made = context.socket(kind)
    made.setsockopt(zmq.IPV6, int(family == socket.AF_INET6))
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.RCVHWM, _PACKETS_QUEUED_AT_STATION)
    made.setsockopt(zmq.MAXMSGSIZE, LARGEST_PACKET)
    made.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_EVERY)
    made.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT)
    made.setsockopt(zmq.HEARTBEAT_TTL, _HEARTBEAT_TIMEOUT)
    made.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_AT_MOST)
    return context, made


async def _close(context: zmq.asyncio.Context, open_socket: zmq.asyncio.Socket, linger: int) -> None:
    if open_socket.closed:
        return
    open_socket.close(linger=linger)
    # Ending the context waits for what lingers, so it must not hold the event loop.
    await asyncio.to_thread(context.term)
