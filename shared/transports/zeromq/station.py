"""The station's end of the ZeroMQ transport."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Hashable
from dataclasses import replace

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from shared.errors import PinholeError
from shared.transports.address import Address, bracketed, cannot_listen, resolve
from shared.transports.base import LARGEST_PACKET
from shared.transports.options import StationOptions
from shared.transports.zeromq.credit import Grant, Hello, Tally, parse_message
from shared.transports.zeromq.curve import CURVE_OPTIONS, Gatekeeper, demand_curve, wants_curve
from shared.transports.zeromq.peers import Limits, Peers
from shared.transports.zeromq.sockets import end_context, station_socket

_READ_AT_ONCE = 32
_HANDSHAKE_FAILURES: int = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class ZeroMQStation:
    """A station's listening socket; open it with `open_zeromq_station`.

    Args:
        context: of the socket; ended with the station.
        router: bound; closed with the station.
        url: where it is bound.
        gatekeeper: of a station that seals its connections, guarding the socket already.
        limits: of what it holds.
    """

    def __init__(
        self,
        context: zmq.asyncio.Context,
        router: zmq.asyncio.Socket,
        url: str,
        gatekeeper: Gatekeeper | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.url = url
        self._context = context
        self._socket = router
        self._gatekeeper = gatekeeper
        self._closed = False
        self._peers = Peers(limits)
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._monitor = router.get_monitor_socket(_HANDSHAKE_FAILURES | zmq.EVENT_DISCONNECTED)
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(lambda _: self._arrived.set())
        self._watcher = asyncio.create_task(self._watch())
        self.handshakes_failed = 0
        """Connections that ended in their handshake: keys not listed, plain where sealed was due, other protocols."""
        self.connections_ended = 0
        """Connections that broke, were closed, or were cut because a message was larger than any packet."""
        self.foreign = 0
        """Messages dropped that no sender makes: of several parts, or larger than any packet (far larger ones end their
        connection)."""
        self.answers_dropped = 0
        """Answers dropped because their receiver is away, or takes none, or because they are too large."""

    @property
    def dropped(self) -> int:
        """Packets dropped of senders that sent more than they may."""
        return self._peers.dropped

    @property
    def held(self) -> int:
        """Bytes that wait for the owner, as they count against the bounds."""
        return self._peers.held

    @property
    def peers(self) -> int:
        """Connections remembered."""
        return len(self._peers)

    @property
    def refused(self) -> int:
        """Connections refused because their key is not on the list."""
        return 0 if self._gatekeeper is None else self._gatekeeper.refused

    @property
    def refused_keys(self) -> tuple[bytes, ...]:
        """CURVE public keys refused lately, each once, the latest last."""
        return () if self._gatekeeper is None else self._gatekeeper.refused_keys

    async def send(self, path: Hashable, packet: bytes) -> None:
        """See `StationTransport`; dropped as well if too much is under way there, for it must not hold up others."""
        if not isinstance(path, bytes):
            return
        answers = self._peers.peer(path).answers
        fits = len(packet) <= LARGEST_PACKET and answers.fits(len(packet))
        if fits and await self._try_to_send(path, packet):
            answers.spend(len(packet))
        else:
            self.answers_dropped += 1

    async def receive(self) -> tuple[Hashable, bytes]:
        """See `StationTransport`; what this takes is what senders get credit for."""
        while True:
            taken = self._peers.take()
            if taken is not None:
                path, packet, peer = taken
                self._room.set()
                if peer.greeted and peer.tally.due:
                    await self._tell(path, peer.tally)
                return path, packet
            if self._closed:
                raise PinholeError(f"{self.url}: closed")
            if self._reader.done() and not self._reader.cancelled():
                try:
                    self._reader.result()
                except zmq.ZMQError as error:
                    raise PinholeError(f"{self.url}: {str(error).lower()}") from error
            self._arrived.clear()
            await self._arrived.wait()

    async def close(self) -> None:
        """See `StationTransport`."""
        if self._closed:
            return
        self._closed = True
        self._arrived.set()
        for task in (self._reader, self._watcher):
            task.cancel()
        await asyncio.gather(self._reader, self._watcher, return_exceptions=True)
        if self._gatekeeper is not None:
            self._gatekeeper.stop()
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)
        await end_context(self._context)

    async def _read(self) -> None:
        read = 0
        while True:
            while self._peers.full:
                self._room.clear()
                await self._room.wait()
            frames = await self._socket.recv_multipart()
            if len(frames) == 2:
                await self._handle(frames[0], frames[1])
            else:
                self.foreign += 1
            read += 1
            if read % _READ_AT_ONCE == 0:
                # Messages that are there already do not make anybody wait, so a flood would let nobody else run.
                await asyncio.sleep(0)

    async def _handle(self, path: bytes, message: bytes) -> None:
        match parse_message(message):
            case Hello() as hello:
                await self._tell(path, self._peers.greet(path, hello).tally)
            case Grant(total):
                self._peers.peer(path).answers.granted(total)
            case None if len(message) > LARGEST_PACKET:
                self.foreign += 1
            case None:
                self._peers.put(path, message)
                self._arrived.set()

    async def _tell(self, path: bytes, tally: Tally) -> None:
        if await self._try_to_send(path, tally.grant.encode()):
            tally.told()

    async def _try_to_send(self, path: bytes, message: bytes) -> bool:
        """Hand over a message if that can be done at once; one that is gone is forgotten."""
        if self._closed:
            return False
        try:
            await self._socket.send_multipart([path, message], flags=zmq.DONTWAIT)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise PinholeError(f"{self.url}: {str(error).lower()}") from error
            self._peers.forget_if_idle(path)
            return False
        return True

    async def _watch(self) -> None:
        while True:
            failed = (await recv_monitor_message(self._monitor))["event"] & _HANDSHAKE_FAILURES
            self.handshakes_failed += bool(failed)
            self.connections_ended += not failed


async def open_zeromq_station(
    address: Address, options: StationOptions, *, limits: Limits | None = None
) -> ZeroMQStation:
    """Listen for senders.

    Args:
        address: of this machine; port 0 for a free one.
        options: of the transport; a key needs its list.
        limits: of what the station holds.

    Raises:
        PinholeError: if the host cannot be found, the address is taken, or as for `check_zeromq_station`.
    """
    options = check_zeromq_station(address, options)
    family, host = await resolve(address, kind=socket.SOCK_STREAM, passive=True)
    context = zmq.asyncio.Context()
    try:
        router = station_socket(context, family)
    except zmq.ZMQError as error:
        await end_context(context)
        raise PinholeError(f"{address.url}: cannot listen there ({str(error).lower()})") from error
    gatekeeper = None
    if options.secret is not None and options.admits is not None:
        gatekeeper = Gatekeeper(context, options.admits, lambda line: options.report(f"{address.url}: {line}"))
        gatekeeper.guard(router, options.secret)
    try:
        _bind(router, address, host)
    except zmq.ZMQError as error:
        if gatekeeper is not None:
            gatekeeper.stop()
        router.close(linger=0)
        await end_context(context)
        raise cannot_listen(address.url, str(error)) from error
    return ZeroMQStation(context, router, router.getsockopt_string(zmq.LAST_ENDPOINT), gatekeeper, limits)


def check_zeromq_station(address: Address, options: StationOptions) -> StationOptions:
    """Check an address together with the options of its transport; returns those without a key that it does not use.

    Raises:
        UsageError: if an option is unknown.
        PinholeError: if there is a key but no list of those whom it admits, or the library has no CURVE.
    """
    address.refuse_unknown(CURVE_OPTIONS)
    if not wants_curve(address):
        options = replace(options, secret=None)
    if options.secret is not None:
        demand_curve(address.url)
        if options.admits is None:
            raise PinholeError(f"{address.url}: a station that seals needs a list of the senders it admits; give one")
    return options


def _bind(router: zmq.asyncio.Socket, address: Address, host: str) -> None:
    if address.host == "*":
        router.setsockopt(zmq.IPV6, 1)
        with contextlib.suppress(zmq.ZMQError):
            router.bind(f"tcp://[::]:{address.port}")
            return
        # No IPv6 on this machine, or the address is taken, which the next attempt will tell.
        router.setsockopt(zmq.IPV6, 0)
    router.bind(f"tcp://{bracketed(host)}:{address.port}")
