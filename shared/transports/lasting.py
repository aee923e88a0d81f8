"""Station transports that are opened again, for ever, when they fail: a modem was unplugged, an interface has gone."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from urllib.parse import urlsplit

from shared.errors import PinholeError
from shared.transports import StationOptions, open_station
from shared.transports.base import StationTransport
from shared.transports.options import Report, tell_nobody

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two attempts to open a transport that failed."""


class LastingStation:
    """See `StationTransport`; whoever receives from it keeps it open.

    Args:
        transport: open; this object closes it.
        open_: opens it again.
        report: gets one line when the transport fails and when it is open again.
    """

    def __init__(
        self,
        transport: StationTransport,
        open_: Callable[[], Awaitable[StationTransport]],
        report: Report = tell_nobody,
    ) -> None:
        self.transport = transport
        """The transport that is open now."""
        self._open = open_
        self._report = report
        self._closed = asyncio.Event()
        self._pause = _FIRST_PAUSE
        self._opened_at = time.monotonic()

    @property
    def url(self) -> str:
        """See `StationTransport`."""
        return self.transport.url

    async def send(self, path: Hashable, packet: bytes) -> None:
        """See `StationTransport`; raises while the transport is broken."""
        await self.transport.send(path, packet)

    async def receive(self) -> tuple[Hashable, bytes]:
        """Wait for a packet, for as many transports as it takes; also returns the path that leads back to its sender.

        Raises:
            PinholeError: if this was closed.
        """
        while True:
            try:
                return await self.transport.receive()
            except (OSError, PinholeError) as error:
                if self._closed.is_set():
                    raise
                self._report(f"{self.url} failed ({error}); opening it again for ever")
            await self._reopen()

    async def close(self) -> None:
        """See `StationTransport`."""
        self._closed.set()
        await self.transport.close()

    async def _reopen(self) -> None:
        with contextlib.suppress(OSError, PinholeError):
            await self.transport.close()
        # A modem's port may take each connection and end it at once.
        if time.monotonic() - self._opened_at > _LONGEST_PAUSE:
            self._pause = _FIRST_PAUSE
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self._closed.wait()
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            if not self._closed.is_set():
                try:
                    self.transport = await self._open()
                except (OSError, PinholeError):
                    continue  # told when it failed
            if self._closed.is_set():
                await self.transport.close()
                raise PinholeError(f"{self.url}: closed")
            self._opened_at = time.monotonic()
            self._report(f"{self.url} is open again")
            return


async def open_lasting_station(url: str, options: StationOptions, report: Report = tell_nobody) -> LastingStation:
    """Listen at ``url`` from now on.

    Args:
        url: as for `open_station`.
        options: of the transport.
        report: as for `LastingStation`.

    Raises:
        UsageError: if the URL is wrong.
        PinholeError: if it cannot be opened now.
    """
    transport = await open_station(url, options)
    return LastingStation(transport, partial(open_station, _again(url, transport.url), options), report)


def _again(asked: str, taken: str) -> str:
    """The URL to open again: as asked for, with the port that was taken where any free one would do.

    So that a listener comes back where its senders look for it.
    """
    parts = urlsplit(asked)
    if not parts.netloc.endswith(":0"):
        return asked
    return parts._replace(netloc=f"{parts.netloc[:-1]}{urlsplit(taken).port}").geturl()
