"""The sending side for tests of the receiver: a real session over a real transport."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from shared.link.config import LinkConfig
from shared.link.events import LayerAcknowledged, SenderEvent
from shared.link.sender_session import SenderSession
from shared.transports import open_client
from shared.transports.drive import drive_client

QUICK = LinkConfig(flush_after=0.02, retransmit_after=0.3)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TestSender:
    """A session that remembers what was acknowledged."""

    __test__ = False

    def __init__(self, *, sender: int = 0x2A, epoch: int = 1, config: LinkConfig = QUICK) -> None:
        self._clock = asyncio.get_running_loop().time
        self._wake = asyncio.Event()
        self.session = SenderSession.unsealed(config, sender=sender, epoch=epoch, now=self._clock())
        self.acknowledged: list[tuple[int, int]] = []

    def submit(self, sequence: int, layers: Sequence[bytes], first: int = 0, total: int | None = None) -> None:
        self.session.submit(sequence, layers, self._clock(), first_layer=first, total_layers=total)
        self._wake.set()

    @contextlib.asynccontextmanager
    async def connected(self, url: str) -> AsyncIterator["TestSender"]:
        transport = await open_client(url)
        task = asyncio.create_task(
            drive_client(self.session, transport, on_event=self._note, wake=self._wake, clock=self._clock)
        )
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await transport.close()

    def _note(self, event: SenderEvent) -> None:
        assert isinstance(event, LayerAcknowledged)
        self.acknowledged.append((event.sequence, event.layer))


async def until(condition: Callable[[], bool], *, patience: float = 60.0) -> None:
    """Wait for something to become true; the patience only ends tests that hang."""
    async with asyncio.timeout(patience):
        while not condition():
            await asyncio.sleep(0.01)


async def send(url: str, pictures: Mapping[int, Sequence[bytes]], *, sender: int = 0x2A, epoch: int = 1) -> None:
    """Send pictures and return when every layer is acknowledged."""
    async with TestSender(sender=sender, epoch=epoch).connected(url) as end:
        for sequence, layers in pictures.items():
            end.submit(sequence, layers)
        await until(lambda: end.session.backlog_bytes == 0)
