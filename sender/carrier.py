"""Keeps a session on the air: opens transports to the station, another one whenever one fails."""

import asyncio
from collections.abc import Awaitable, Callable

from shared.errors import PinholeError
from shared.link.events import SenderEvent
from shared.link.sender_session import SenderSession
from shared.transports.base import ClientTransport
from shared.transports.drive import drive_client

_LONGEST_PAUSE = 60.0
"""Seconds between two attempts to connect."""


class Carrier:
    """Drives a session over one transport after the other.

    Args:
        session: what is carried.
        open_transport: opens a transport to the station; called again when one fails.
        on_event: gets the session's events.
        wake: set when the session has something new to send.
        report: gets one line when the link fails.
        clock: steady, in seconds.
    """

    def __init__(
        self,
        session: SenderSession,
        open_transport: Callable[[], Awaitable[ClientTransport]],
        *,
        on_event: Callable[[SenderEvent], None],
        wake: asyncio.Event,
        report: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._session = session
        self._open_transport = open_transport
        self._on_event = on_event
        self._wake = wake
        self._report = report
        self._clock = clock

    async def first(self, stop: asyncio.Event) -> ClientTransport | None:
        """Open the first transport; return None if ``stop`` was set before it was open.

        Raises:
            PinholeError: if the transport's address is of no use.
        """
        opening = asyncio.ensure_future(self._open_transport())
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([opening, stopped], return_when=asyncio.FIRST_COMPLETED)
            return opening.result() if opening.done() else None
        finally:
            opening.cancel()
            stopped.cancel()
            await asyncio.gather(opening, stopped, return_exceptions=True)

    async def carry(self, transport: ClientTransport) -> None:
        """Drive the session, first over ``transport``, until cancelled."""
        pause = 1.0
        failed = False
        while True:
            began = self._clock()
            try:
                try:
                    await drive_client(
                        self._session, transport, on_event=self._on_event, wake=self._wake, clock=self._clock
                    )
                finally:
                    await transport.close()
            except (OSError, PinholeError) as error:
                if self._clock() - began > _LONGEST_PAUSE:
                    pause, failed = 1.0, False
                if not failed:
                    failed = True
                    self._report(f"link failed ({error}); pictures stay in the spool, connecting again for ever")
            transport, pause = await self._open_again(pause)

    async def _open_again(self, pause: float) -> tuple[ClientTransport, float]:
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                return await self._open_transport(), pause
            except (OSError, PinholeError):
                continue  # reported when the link failed
