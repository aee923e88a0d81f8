"""One open serial device as a line of bytes, driven by the event loop (POSIX)."""

import asyncio
import contextlib
import os
import termios
from collections.abc import Callable

import serial

from shared.errors import PinholeError
from shared.transports.lines.pace import LinePace, Turns

_READ = 65536
_CC = 6
_LONGEST_DOZE = 0.25
_SHORTEST_DOZE = 0.005
"""Seconds between two looks at a driver that holds more than it should: it does not tell when that changes."""

_LINGER = 1.0
"""Seconds that written bytes are given to leave at the end."""


class SerialPort:
    """See `shared.transports.lines.byte_stream.Line`. Made in a running event loop; owns the port from then on.

    Args:
        port: open, without time-outs.
        url: for errors.
        on_data: gets received bytes.
        on_end: gets the reason when the device fails.
        pace: how much may wait in the driver.
        turns: for half-duplex channels, else None.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        port: serial.Serial,
        url: str,
        on_data: Callable[[bytes], None],
        on_end: Callable[[str], None],
        *,
        pace: LinePace,
        turns: Turns | None,
        clock: Callable[[], float],
    ) -> None:
        self._port = port
        self._fd = port.fileno()
        self._url = url
        self._on_data = on_data
        self._on_end = on_end
        self._pace = pace
        self._turns = turns
        self._clock = clock
        self._broken_off = False
        self._failure: str | None = None
        self._writable: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        # pyserial asks for reads that end without a byte; here no byte must mean that the device has gone.
        attributes = termios.tcgetattr(self._fd)
        attributes[_CC][termios.VMIN] = 1
        termios.tcsetattr(self._fd, termios.TCSANOW, attributes)
        self._loop.add_reader(self._fd, self._read)

    @property
    def fresh(self) -> bool:
        """See `Line`."""
        return self._broken_off or self._pace.idle_at <= self._clock()

    async def write(self, data: bytes) -> None:
        """See `Line`."""
        await self._until_ready()
        rest = memoryview(data)
        # Stays so if this is cancelled or fails half-way.
        self._broken_off = True
        while rest:
            self._check()
            try:
                written = os.write(self._fd, rest)
            except BlockingIOError:
                written = 0
            except OSError as error:
                self._fail(error)
                continue
            now = self._clock()
            self._pace.written(written, now)
            if self._turns is not None:
                self._turns.talked(now, self._pace.idle_at)
            rest = rest[written:]
            if rest:
                await self._until_writable()
        self._broken_off = False

    async def close(self) -> None:
        """See `Line`."""
        if self._failure is None:
            until = self._clock() + _LINGER
            while self._failure is None and self._clock() < until and self._holds():
                await asyncio.sleep(_SHORTEST_DOZE)
        self._stop("closed")
        if self._port.is_open:
            # Closing waits for what the driver still holds, for half a minute if flow control stopped it.
            with contextlib.suppress(OSError, termios.error):
                self._port.reset_output_buffer()
            await asyncio.to_thread(self._close_port)

    def _close_port(self) -> None:
        with contextlib.suppress(OSError, termios.error):
            self._port.close()

    def _holds(self) -> bool:
        """Whether written bytes have not left yet."""
        return self._pace.idle_at > self._clock() or self._waiting() > 0

    def _waiting(self) -> int:
        """Bytes that the driver says it holds; some know only part of it."""
        try:
            return int(self._port.out_waiting)
        except OSError as error:
            self._fail(error)
            return 0

    async def _until_ready(self) -> None:
        """Wait for the channel to be ours, and for the driver to hold no more than it should."""
        while True:
            self._check()
            now = self._clock()
            ready = self._pace.ready_at(now)
            if self._turns is not None:
                ready = max(ready, self._turns.ready_at(now))
            excess = self._waiting() - self._pace.depth
            if excess > 0:
                doze = min(max(excess / self._pace.bytes_per_second, _SHORTEST_DOZE), _LONGEST_DOZE)
                ready = max(ready, now + doze)
            if ready <= now:
                self._check()
                return
            # Not longer at a time, so that an unplugged device is noticed here as well.
            await asyncio.sleep(min(ready - now, _LONGEST_DOZE))

    async def _until_writable(self) -> None:
        self._writable = self._loop.create_future()
        self._loop.add_writer(self._fd, self._on_writable)
        try:
            await self._writable
        finally:
            self._writable = None
            if self._failure is None:
                self._loop.remove_writer(self._fd)

    def _on_writable(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error)
            return
        if not data:
            self._fail(None)
            return
        if self._turns is not None:
            self._turns.heard(self._clock())
        self._on_data(data)

    def _check(self) -> None:
        if self._failure is not None:
            raise PinholeError(f"{self._url}: {self._failure}")

    def _fail(self, error: OSError | None) -> None:
        detail = f" ({error.strerror})" if error is not None and error.strerror else ""
        self._stop(f"the device has gone{detail}; plug it in again")

    def _stop(self, reason: str) -> None:
        if self._failure is not None:
            return
        self._failure = reason
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._on_writable()
        self._on_end(reason)
