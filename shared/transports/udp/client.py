"""The sender's end of the UDP transport."""

import asyncio
import errno
from functools import partial

from shared.errors import PinholeError
from shared.transports.address import Address, is_number
from shared.transports.options import ClientOptions
from shared.transports.pacing import Pacer
from shared.transports.trouble import Trouble
from shared.transports.udp.lookup import FORGIVE, Lookup, Target
from shared.transports.udp.settings import UdpOptions, check_fit, check_host, client_socket, is_multicast
from shared.transports.udp.sockets import UdpEnd, UdpSocket

_QUEUED = 1 << 18
"""Bytes that wait for the owner; what exceeds them is dropped."""

_PACKETS_IN_A_BURST = 2

_LOOK_AGAIN = 300.0
"""Seconds without a word from the station after which the host's name is looked up again: it may have moved."""

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two lookings-up, which cost bytes of a narrow link."""

_OF_NO_WAY = {
    errno.EACCES,
    errno.EADDRNOTAVAIL,
    errno.EHOSTUNREACH,
    errno.EINVAL,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENODEV,
}
"""Errors after which a connected socket may be bound to what this machine no longer is."""


class UdpClient(UdpEnd):
    """A sender's way; open it with `open_udp_client`.

    To a host that has a name there may be several addresses, and they may change: where one gives an error or stays
    silent, the name is looked up again in the background and another address may be taken.

    Args:
        address: of the station, as given.
        options: of the address.
        pacer: what packets wait for.
        trouble: keeps why packets do not leave.
        lookup: finds the host.
    """

    def __init__(
        self, address: Address, options: UdpOptions, pacer: Pacer, trouble: Trouble, lookup: Lookup | None = None
    ) -> None:
        super().__init__(address.url, _QUEUED)
        self._address = address
        self._options = options
        self._pacer = pacer
        self._trouble = trouble
        self._lookup = lookup or Lookup(address)
        self._target: Target | None = None
        self._found = asyncio.Event()
        self._doubtful = asyncio.Event()
        self._sent = self._heard = 0
        self._socket: UdpSocket | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def trouble(self) -> str | None:
        """Why the last packet did not leave, in one line; None if it did."""
        return self._trouble.current

    async def open(self) -> None:
        """Look the host up and make a socket; where that fails, it is tried again later.

        Raises:
            PinholeError: if there can never be a way there; that there is none now is no error.
        """
        try:
            target = await self._lookup.choose()
        except PinholeError as error:
            self._trouble.note(str(error))
        else:
            self._turn_to(target)
        # A number may be that of an interface which is not there yet.
        if self._target is None or not is_number(self._address.host):
            self._keeper = asyncio.create_task(self._keep_looking())

    async def send(self, packet: bytes, priority: int = 0) -> None:
        """See `ClientTransport`; waits until the host was found once, and for the packet's turn at the link's rate."""
        await self._pacer.wait(len(packet) + self._options.overhead)
        await self._found.wait()
        # Without a rate nothing above has let others run.
        await asyncio.sleep(0)
        self._received.check()
        if len(packet) > self._options.mtu:
            self._note(OSError(errno.EMSGSIZE, "message too long"), packet)
            self.counters.errors += 1
            self.counters.oversize += 1
            return
        if self._socket is None:
            self._try_to_open()
        if self._socket is None:
            self.counters.errors += 1
            return
        used, target = self._socket, self._target
        error = await used.send(packet, self._to)
        self._sent += 1
        self._received.check()
        self._note(error, packet, target)
        if error is not None and error.errno in _OF_NO_WAY and self._to is None and self._socket is used:
            used.close()
            self._socket = None

    async def receive(self) -> bytes:
        """See `ClientTransport`."""
        _, packet = await self._received.get()
        self._heard += 1
        return packet

    async def close(self) -> None:
        """See `ClientTransport`."""
        self._received.fail(f"{self.url}: closed")
        self._pacer.stop()
        self._found.set()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()

    def check_fit(self, packet_bytes: int) -> None:
        """Check the largest packet of the session against the way, as far as the kernel knows it now.

        Raises:
            UsageError: if it does not fit.
        """
        if self._socket is not None:
            check_fit(self._address, self._socket.sock, packet_bytes)

    @property
    def _to(self) -> tuple[str | int, ...] | None:
        """Where each datagram must be told to go; connected sockets know."""
        if self._target is None or not (self._options.broadcast or is_multicast(self._target.host)):
            return None
        return (self._target.host, self._address.port)

    def _turn_to(self, target: Target) -> None:
        """Send to another address, or to the same with another socket.

        Raises:
            PinholeError: if the address's options are of no use there.
        """
        check_host(self._address, target.host)
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._target = target
        self._found.set()
        self._open(target)

    def _open(self, target: Target) -> None:
        try:
            sock = client_socket(self._address, target.family, target.host, self._options)
        except OSError as error:
            self._note(error, target=target)
            return
        self._socket = UdpSocket(sock, self._received, self.counters, partial(self._note, target=target))

    def _try_to_open(self) -> None:
        """Open once more; what was no mistake at first, such as the interface's name, may have become one."""
        if self._target is not None:
            try:
                self._open(self._target)
            except PinholeError as error:
                self._trouble.note(str(error))

    async def _keep_looking(self) -> None:
        """Look the name up again whenever its present address is in doubt."""
        pause = _FIRST_PAUSE
        while True:
            heard = self._heard
            await asyncio.sleep(pause)
            if self._target is not None:
                await self._until_in_doubt()
            pause = min(2 * pause, _LONGEST_PAUSE) if self._heard == heard else _FIRST_PAUSE
            self._doubtful.clear()
            try:
                target = await self._lookup.choose()
                if target != self._target:
                    self._turn_to(target)
            except (OSError, PinholeError) as error:
                if self._socket is None:
                    self._trouble.note(str(error))

    async def _until_in_doubt(self) -> None:
        """Wait for an error, or until the station was silent for long."""
        while True:
            sent, heard = self._sent, self._heard
            try:
                # Where another address gave an error, this one may be of another machine, and nobody there.
                async with asyncio.timeout(FORGIVE if self._lookup.evading else _LOOK_AGAIN):
                    await self._doubtful.wait()
                return
            except TimeoutError:
                if self._sent > sent and self._heard == heard:
                    return

    def _note(self, error: OSError | None, packet: bytes = b"", target: Target | None = None) -> None:
        if error is None:
            self._trouble.over()
        elif error.errno == errno.EMSGSIZE:
            size = f" of {len(packet)} bytes" if packet else ""
            self._trouble.note(f"{self._address.url}: packets{size} do not fit there; make them smaller")
        else:
            self._trouble.note(f"{self._address.url}: packets cannot leave ({(error.strerror or str(error)).lower()})")
            if target is not None and (error.errno in _OF_NO_WAY or error.errno == errno.ECONNREFUSED):
                self._lookup.note_failure(target)
                self._doubtful.set()


async def open_udp_client(address: Address, options: ClientOptions) -> UdpClient:
    """Open a way to a station, a group or everybody; nothing is sent yet.

    That its host cannot be found is told, and tried again in the background.

    Raises:
        PinholeError: if an option is wrong, or packets are too large for the way.
    """
    read = check_udp_client(address, options)
    pacer = Pacer(options.rate, _PACKETS_IN_A_BURST * (options.packet_bytes + read.overhead))
    client = UdpClient(address, read, pacer, Trouble(options.report))
    try:
        await client.open()
        client.check_fit(options.packet_bytes)
    except BaseException:
        await client.close()
        raise
    return client


def check_udp_client(address: Address, options: ClientOptions) -> UdpOptions:
    """Read the options of an address, as far as that needs no network.

    Raises:
        UsageError: if one is unknown, out of range or of no use there, or packets do not fit ``mtu``.
    """
    read = UdpOptions.of_client(address, options.packet_bytes)
    if is_number(address.host):
        check_host(address, address.host)
    return read
