"""The sender's end of the ZeroMQ transport."""

import asyncio
import contextlib
import socket
from dataclasses import replace
from itertools import count

import zmq
import zmq.asyncio

from shared.errors import PinholeError, UsageError
from shared.transports.address import Address, bracketed, resolve_all
from shared.transports.base import LARGEST_PACKET, PacketTooLargeError
from shared.transports.byte_queue import ByteQueue
from shared.transports.options import ClientOptions
from shared.transports.trouble import Trouble
from shared.transports.zeromq.connection import Connection
from shared.transports.zeromq.credit import (
    ANSWER_WINDOW,
    LARGEST_WINDOW,
    Allowance,
    Grant,
    Hello,
    Tally,
    parse_message,
    window_for,
)
from shared.transports.zeromq.curve import CURVE_OPTIONS, demand_curve, seal_client, wants_curve
from shared.transports.zeromq.sockets import BackOff, client_socket, end_context

_LINGER = 1000
_ATTEMPT_AT_MOST = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
"""Seconds between attempts: one costs 60 bytes where nobody is, some 400 where a station is (900 with CURVE)."""

_ANSWERS_QUEUED = 8 * ANSWER_WINDOW
_READ_AT_ONCE = 32


class ZeroMQClient:
    """A sender's connections, one after the other; open it with `open_zeromq_client`.

    Args:
        address: of the station.
        options: of the transport; both keys or none.
        back_off: pauses between attempts.
        ask_again: seconds of waiting for a grant after which the station is asked; doubles each time.
    """

    def __init__(
        self, address: Address, options: ClientOptions, *, back_off: BackOff | None = None, ask_again: float = 10.0
    ) -> None:
        self._address = address
        self._options = options
        self._back_off = back_off or BackOff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._ask_again = ask_again
        self._allowance = Allowance(window_for(options.rate, options.packet_bytes))
        self._answers: ByteQueue[None] = ByteQueue(_ANSWERS_QUEUED)
        self._tally = Tally(ANSWER_WINDOW)
        self._connection: Connection | None = None
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._closed = False
        self._context = zmq.asyncio.Context()
        self._keeper = asyncio.create_task(self._keep_connected())
        self.connections = 0
        """Connections that stood so far."""
        self._trouble = Trouble(options.report)

    @property
    def trouble(self) -> str | None:
        """Why there is no connection, in one line; None while there is one and before the first attempt failed."""
        return self._trouble.current

    @property
    def lacks_connection(self) -> bool:
        """See `KeepsConnection`."""
        return self._trouble.current is not None

    @property
    def under_way(self) -> int:
        """Bytes sent and not yet taken by the station, as far as this end knows."""
        return self._allowance.under_way

    @property
    def dropped(self) -> int:
        """Answers dropped because nobody fetched them in time."""
        return self._answers.dropped

    async def send(self, packet: bytes, priority: int = 0) -> None:
        """See `ClientTransport`; waits for a connection and for credit.

        Raises:
            PinholeError: if the transport is closed, or the packet so large that the station would hang up.
        """
        if len(packet) > LARGEST_PACKET:
            raise PacketTooLargeError(
                f"{self._address.url}: a packet of {len(packet)} bytes is over the limit of {LARGEST_PACKET}"
            )
        async with self._turn:
            while not self._closed:
                connection = await self._until_allowed(len(packet))
                if connection is not None and await connection.send(packet):
                    self._allowance.spend(len(packet))
                    return
                self._forget(connection)
        self._answers.check()

    async def receive(self) -> bytes:
        """See `ClientTransport`."""
        _, packet = await self._answers.get()
        self._tally.take(len(packet))
        if self._tally.due and self._connection is not None and await self._try_to_tell(self._connection):
            self._tally.told()
        return packet

    async def close(self) -> None:
        """See `ClientTransport`."""
        if self._closed:
            return
        self._closed = True
        self._answers.fail(f"{self._address.url}: closed")
        self._changed.set()
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        await end_context(self._context)

    async def _until_allowed(self, size: int) -> Connection | None:
        """Wait for a connection that takes ``size`` bytes; None if the transport was closed."""
        patience = self._ask_again
        while not self._closed:
            connection = self._connection
            if connection is not None and 2 * size > self._allowance.window:
                # A packet of more than half a window could wait for a grant that is not due yet.
                self._allowance.window = 2 * size
                await connection.send(self._hello())
            if connection is not None and self._allowance.fits(size):
                return connection
            self._changed.clear()
            try:
                async with asyncio.timeout(patience if connection is not None else None):
                    await self._changed.wait()
            except TimeoutError:
                # A station may forget a sender that was silent among thousands of others.
                if connection is not None:
                    await connection.try_to_send(self._hello())
                patience *= 2.0
        return None

    def _hello(self) -> bytes:
        return Hello(self._allowance.window, self._allowance.sent).encode()

    async def _try_to_tell(self, connection: Connection) -> bool:
        return await connection.try_to_send(self._tally.grant.encode())

    def _forget(self, connection: Connection | None) -> None:
        if connection is self._connection:
            self._connection = None

    async def _keep_connected(self) -> None:
        for attempt in count():
            try:
                # A host with IPv6 and IPv4 may answer on one of them only.
                found = await resolve_all(self._address, kind=socket.SOCK_STREAM, passive=False)
                family, host = found[attempt % len(found)]
                await self._connect_once(family, f"tcp://{bracketed(host)}:{self._address.port}")
            except PinholeError as error:
                self._trouble.note(str(error))
            except (zmq.ZMQError, OSError) as error:
                self._trouble.note(f"{self._address.url}: cannot connect there ({str(error).lower()})")
            await asyncio.sleep(self._back_off.pause())

    async def _connect_once(self, family: socket.AddressFamily, endpoint: str) -> None:
        """Connect, and stay while the connection stands."""
        dealer = client_socket(self._context, family, self._options.rate)
        if self._options.secret is not None and self._options.station is not None:
            seal_client(dealer, self._options.secret, self._options.station)
        connection = Connection(dealer)
        try:
            reason: str | None = "the station does not answer"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ATTEMPT_AT_MOST):
                    reason = await connection.open(endpoint)
            if reason is None:
                await self._use(connection)
                reason = "the connection broke"
            self._trouble.note(f"{self._address.url}: {reason}")
        finally:
            self._forget(connection)
            connection.close(_LINGER if self._closed else 0)

    async def _use(self, connection: Connection) -> None:
        self._allowance.restart()
        self._tally = Tally(ANSWER_WINDOW)
        if not await connection.send(self._hello()):
            return
        self.connections += 1
        self._trouble.over()
        self._connection = connection
        self._changed.set()
        tasks = [asyncio.create_task(connection.ended()), asyncio.create_task(self._listen(connection))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, connection: Connection) -> None:
        read = 0
        while True:
            message = await connection.receive()
            self._back_off.reset()
            match parse_message(message):
                case Grant(total):
                    self._allowance.granted(total)
                    self._changed.set()
                case None if len(message) <= LARGEST_PACKET:
                    self._answers.put(None, message)
                case _:
                    pass
            read += 1
            if read % _READ_AT_ONCE == 0:
                await asyncio.sleep(0)


async def open_zeromq_client(address: Address, options: ClientOptions) -> ZeroMQClient:
    """Begin to connect to a station; neither it nor its host's name need be there yet.

    Raises:
        PinholeError: as for `check_zeromq_client`.
    """
    return ZeroMQClient(address, check_zeromq_client(address, options))


def check_zeromq_client(address: Address, options: ClientOptions) -> ClientOptions:
    """Check an address together with the options of its transport; returns those without the keys that it does not use.

    Raises:
        UsageError: if an option is unknown, or packets are too large.
        PinholeError: if one of the two keys is missing, or the library has no CURVE.
    """
    address.refuse_unknown(CURVE_OPTIONS)
    if not wants_curve(address):
        options = replace(options, secret=None, station=None)
    if (options.secret is None) != (options.station is None):
        missing = "the station's public key" if options.station is None else "this sender's own key"
        raise PinholeError(f"{address.url}: a sealed connection needs {missing}, too; give both or none")
    if options.secret is not None:
        demand_curve(address.url)
    if 2 * options.packet_bytes > LARGEST_WINDOW:
        raise UsageError(f"{address.url}: packets of {options.packet_bytes} bytes are too large; make them smaller")
    return options
