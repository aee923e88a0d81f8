"""Keeps a session on the air: opens transports to the station, another one whenever one fails."""

import asyncio
import math
from collections.abc import Awaitable, Callable

from shared.errors import PinholeError, UsageError
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

    async def carry(self) -> None:
        """Open a transport and drive the session over it, over another one whenever one fails, until cancelled.

        What cannot be opened at the start may be later: a modem is not plugged in yet, a broker does not let us in.

        Raises:
            UsageError: if the transport's address is wrong, which no time mends.
        """
        pause, failed, opened = 1.0, False, False
        while True:
            driven_since = math.inf
            try:
                transport = await self._open_transport()
                opened, driven_since = True, self._clock()
                try:
                    await drive_client(
                        self._session, transport, on_event=self._on_event, wake=self._wake, clock=self._clock
                    )
                finally:
                    await transport.close()
            except (OSError, PinholeError) as error:
                if isinstance(error, UsageError) and not opened:
                    raise
                if self._clock() - driven_since > _LONGEST_PAUSE:
                    pause, failed = 1.0, False
                if not failed:
                    failed = True
                    self._report(f"link failed ({error}); pictures stay in the spool, connecting again for ever")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
