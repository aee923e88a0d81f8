"""One connection of a ZeroMQ client, from its attempt to its end."""

import asyncio
from enum import Enum, auto

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

_FAILED: dict[int, str] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "the station does not list this sender's keys; have them allowed there",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "the connection cannot be sealed as this end wants; check both ends' keys",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the station ended the handshake; check its key, and that both ends seal",
}
_ENDED: set[int] = {zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED}
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.25


class _State(Enum):
    TRYING = auto()
    STANDING = auto()
    ENDED = auto()


class Connection:
    """A DEALER that is connected once.

    Args:
        dealer: set up, not connected; this object closes it.
    """

    def __init__(self, dealer: zmq.asyncio.Socket) -> None:
        self._dealer = dealer
        self._monitor = dealer.get_monitor_socket()
        self._state = _State.TRYING
        self.heard = False
        """Whether the station has said anything."""

    @property
    def stands(self) -> bool:
        """Whether the handshake is done and the end not noticed."""
        return self._state is _State.STANDING

    async def open(self, endpoint: str) -> str | None:
        """Connect and shake hands.

        Args:
            endpoint: of ZeroMQ, with a numeric host.

        Returns:
            None, or in a few words why it failed.
        """
        self._dealer.connect(endpoint)
        reason = "nobody listens there"
        while self._state is _State.TRYING:
            event = (await recv_monitor_message(self._monitor))["event"]
            reason = _FAILED.get(event, reason)
            if event == zmq.EVENT_CONNECTED:
                reason = _FAILED[zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL]
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._state = _State.STANDING
            elif event in _ENDED:
                self._state = _State.ENDED
        return None if self.stands else reason

    async def ended(self) -> None:
        """Wait until a standing connection breaks."""
        while self.stands:
            if (await recv_monitor_message(self._monitor))["event"] in _ENDED:
                self._state = _State.ENDED

    async def receive(self) -> bytes:
        """Wait for a message; those of several parts are nobody's and dropped."""
        while True:
            frames = await self._dealer.recv_multipart()
            self.heard = True
            if len(frames) == 1:
                return frames[0]

    async def send(self, message: bytes) -> bool:
        """Hand over a message; False if the connection does not stand any more.

        It is there at once but for the moments in which ZeroMQ has not told itself of a beginning or an end.
        """
        pause = _FIRST_PAUSE
        while self.stands and not self._dealer.closed:
            if await self.try_to_send(message):
                return True
            await asyncio.sleep(pause)
            pause = min(2.0 * pause, _LONGEST_PAUSE)
        return False

    async def try_to_send(self, message: bytes) -> bool:
        """Hand over a message if that can be done at once."""
        if not self.stands or self._dealer.closed:
            return False
        try:
            await self._dealer.send(message, flags=zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def close(self, linger: int) -> None:
        """Close; what was handed over has ``linger`` milliseconds to leave."""
        self._state = _State.ENDED
        if not self._dealer.closed:
            self._dealer.disable_monitor()
            self._monitor.close(linger=0)
            self._dealer.close(linger=linger)
