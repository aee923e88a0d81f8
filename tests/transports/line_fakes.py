"""What lies between two ends of a line: a cable between pseudo-terminals, and a modem on TCP."""

import asyncio
import contextlib
import errno
import os
import random

from shared.transports.lines.framing import FEND

_PATIENCE = 0.5


class Cable:
    """Two pseudo-terminals joined to a null modem, in a running event loop.

    Args:
        loss: probability that a byte is lost.
        damage: probability that a bit of a byte is flipped.
        cut: nothing is carried, what is written stays.

    Attributes:
        devices: names of both ends.
        carried: bytes that went in.
        harmed: bytes of these that were lost or damaged.
    """

    def __init__(self, *, loss: float = 0.0, damage: float = 0.0, cut: bool = False) -> None:
        self.carried = 0
        self.harmed = 0
        self._chance = random.Random(7)
        self._loss = loss
        self._damage = damage
        self._masters: list[int] = []
        self._slaves: list[int] = []
        for _ in range(2):
            master, slave = os.openpty()
            os.set_blocking(master, False)
            self._masters.append(master)
            self._slaves.append(slave)
        self.devices = [os.ttyname(slave) for slave in self._slaves]
        if not cut:
            self.join()

    def join(self) -> None:
        """Begin to carry."""
        for here, there in (self._masters, self._masters[::-1]):
            asyncio.get_running_loop().add_reader(here, self._carry, here, there)

    def write(self, end: int, data: bytes) -> None:
        """Let the device of an end receive something from nowhere; what it has no room for is an overrun."""
        self._write(self._masters[end], data)

    def unplug(self) -> None:
        """Take both devices away."""
        for master in self._masters:
            asyncio.get_running_loop().remove_reader(master)
            os.close(master)
        for slave in self._slaves:
            os.close(slave)
        self._masters, self._slaves = [], []

    def _carry(self, here: int, there: int) -> None:
        try:
            data = os.read(here, 4096)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EAGAIN):
                raise
            return
        self.carried += len(data)
        self._put(here, there, self._harm(data) if self._loss or self._damage else data)

    def _harm(self, data: bytes) -> bytes:
        kept = bytearray()
        for byte in data:
            if self._chance.random() < self._loss:
                self.harmed += 1
                continue
            flip = self._chance.random() < self._damage
            self.harmed += flip
            kept.append(byte ^ (1 << self._chance.randrange(8) if flip else 0))
        return bytes(kept)

    def _put(self, here: int, there: int, data: bytes) -> None:
        """Write what the other end has room for; what it does not take for long is an overrun, as on a real line."""
        data = data[self._write(there, data) :]
        if not data:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(here)
        until = loop.time() + _PATIENCE

        def again(rest: bytes) -> None:
            if here not in self._masters:
                return
            rest = rest[self._write(there, rest) :]
            if rest and loop.time() < until:
                loop.call_later(0.002, again, rest)
            else:
                loop.add_reader(here, self._carry, here, there)

        loop.call_later(0.002, again, data)

    def _write(self, master: int, data: bytes) -> int:
        try:
            return os.write(master, data)
        except BlockingIOError:
            return 0


class FakeTnc:
    """A sound modem's KISS port: what one client sends on the channel, all others hear.

    Attributes:
        url: of the port.
        commands: frames received that are no data, without their FENDs.
    """

    def __init__(self, loss: float = 0.0) -> None:
        self.url = ""
        self.commands: list[bytes] = []
        self._chance = random.Random(3)
        self._loss = loss
        self._clients: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.url = f"kiss+tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for client in self._clients:
            client.close()
        self._clients.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                frame = (await reader.readuntil(bytes([FEND])))[:-1]
                if frame and frame[0] & 0x0F:
                    self.commands.append(frame)
                elif frame and self._chance.random() >= self._loss:
                    for other in self._clients:
                        if other is not writer:
                            other.write(bytes([FEND]) + frame + bytes([FEND]))
        writer.close()
        if writer in self._clients:
            self._clients.remove(writer)
