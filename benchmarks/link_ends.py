"""The ends of a link as processes of their own, for benchmarks over real sockets.

    python -m benchmarks.link_ends ORDERS

ORDERS is a JSON object, see `Orders`. Every end prints ``ready`` once it listens or is about to send, and one JSON
object when its time is over; a station's is also over when its standard input ends. Times are those of the machine's
monotonic clock, which all its namespaces share.
"""

import asyncio
import json
import os
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.link_sessions import make_sender, make_station
from shared.link.config import LinkConfig
from shared.link.events import LayerAcknowledged, LayerReceived, SenderEvent
from shared.transports import ClientOptions, ClientTransport, StationTransport, open_client, open_station
from shared.transports.drive import drive_client, drive_station

_BACKLOG_SECONDS = 30.0
_FEED_EVERY = 0.2
_SAMPLE_EVERY = 0.25
_BULK_BLOCK = 16384


@dataclass(frozen=True)
class Orders:
    """What an end shall do.

    Attributes:
        end: ``sender`` and ``station`` of a link session, ``give`` and ``take`` of a plain TCP connection.
        url: of the station; ``host:port`` for TCP.
        start: from when bytes count, seconds of the monotonic clock.
        stop: until when; the end of the process.
        link: settings of the session.
        sealed: whether packets are sealed.
        senders: how many senders the station lets in.
        layers: bytes of the layers of every picture.
    """

    end: str
    url: str
    start: float
    stop: float
    link: dict[str, Any]
    sealed: bool = False
    senders: int = 1
    layers: tuple[int, ...] = ()

    @property
    def command(self) -> list[str]:
        """The process that follows them."""
        return [sys.executable, "-m", "benchmarks.link_ends", json.dumps(asdict(self))]

    def counts(self) -> bool:
        """Whether what happens now counts."""
        return self.start <= time.monotonic() < self.stop


def memory(kind: str = "VmRSS") -> int:
    """Bytes of memory that this process has in RAM (``VmHWM``: had at most), from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {kind}")


def _input_ended() -> threading.Event:
    """Set when there is nothing more to read on the standard input."""
    ended = threading.Event()

    def watch() -> None:
        while os.read(0, 4096):
            pass
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    return ended


async def station(orders: Orders) -> None:
    """Receive, acknowledge at once, and watch one's own memory."""
    core = make_station(LinkConfig(**orders.link), senders=orders.senders, sealed=orders.sealed, now=time.monotonic())
    transport = await open_station(orders.url)
    wake = asyncio.Event()
    received = 0
    layers: dict[int, int] = {}
    memory_at: dict[int, int] = {}

    def take(event: LayerReceived) -> None:
        nonlocal received
        if orders.counts():
            received += len(event.payload)
        layers[event.sender] = layers.get(event.sender, 0) + 1
        core.acknowledge(event.sender, event.sequence, event.layer, time.monotonic())

    driving = asyncio.create_task(drive_station(core, transport, on_event=take, wake=wake, clock=time.monotonic))
    print("ready", transport.url, flush=True)
    ended = _input_ended()
    while time.monotonic() < orders.stop and not driving.done() and not ended.is_set():
        await asyncio.sleep(_SAMPLE_EVERY)
        known = len(core.senders)
        memory_at[known] = max(memory_at.get(known, 0), memory())
    result = {
        "bytes": received,
        "layers": layers,
        "memory": memory_at,
        "processor_seconds": time.process_time(),
        "statistics": asdict(core.totals),
    }
    await _end(driving, transport, result)


async def sender(orders: Orders) -> None:
    """Send pictures without end."""
    session = make_sender(LinkConfig(**orders.link), 0, sealed=orders.sealed, now=time.monotonic())
    options = ClientOptions(sender=1, rate=session.config.rate, packet_bytes=session.config.packet_bytes)
    transport = await open_client(orders.url, options)
    wake = asyncio.Event()
    generator = np.random.default_rng(1)
    acknowledged = sequence = 0

    def note(event: SenderEvent) -> None:
        nonlocal acknowledged
        if isinstance(event, LayerAcknowledged) and orders.counts():
            acknowledged += orders.layers[event.layer]

    driving = asyncio.create_task(drive_client(session, transport, on_event=note, wake=wake, clock=time.monotonic))
    print("ready", flush=True)
    ahead = _BACKLOG_SECONDS * (session.config.rate or 1e6) / 8
    while time.monotonic() < orders.stop and not driving.done():
        while session.backlog_bytes < ahead:
            session.submit(sequence, [generator.bytes(size) for size in orders.layers], time.monotonic())
            sequence += 1
            wake.set()
        await asyncio.sleep(_FEED_EVERY)
    await _end(driving, transport, {"bytes": acknowledged, "statistics": asdict(session.statistics)})


async def _end(
    driving: "asyncio.Task[None]", transport: ClientTransport | StationTransport, result: dict[str, Any]
) -> None:
    """Say what came out of it, unless the driving failed, which is then the end of the process."""
    if driving.done():
        driving.result()
    print(json.dumps(result), flush=True)
    driving.cancel()
    await asyncio.gather(driving, return_exceptions=True)
    await transport.close()


def take(orders: Orders) -> dict[str, Any]:
    """Receive what comes over one TCP connection."""
    host, _, port = orders.url.rpartition(":")
    received = 0
    with socket.create_server((host, int(port))) as server:
        print("ready", flush=True)
        server.settimeout(max(0.1, orders.stop - time.monotonic()))
        try:
            connection, _ = server.accept()
            with connection:
                while (left := orders.stop - time.monotonic()) > 0:
                    connection.settimeout(left)
                    data = connection.recv(65536)
                    if not data:
                        break
                    received += len(data) if orders.counts() else 0
        except TimeoutError:
            pass
    return {"bytes": received}


def give(orders: Orders) -> dict[str, Any]:
    """Send over one TCP connection, as much as it takes."""
    host, _, port = orders.url.rpartition(":")
    block = np.random.default_rng(1).bytes(_BULK_BLOCK)
    algorithm = b""
    print("ready", flush=True)
    while not algorithm and (left := orders.stop - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, int(port)), timeout=left) as connection:
                algorithm = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
                while (left := orders.stop - time.monotonic()) > 0:
                    connection.settimeout(left)
                    connection.sendall(block)
        except TimeoutError:
            pass
    return {"congestion_control": algorithm.rstrip(b"\0").decode()}


def main() -> None:
    """Follow the orders."""
    orders = Orders(**json.loads(sys.argv[1]))
    match orders.end:
        case "take":
            print(json.dumps(take(orders)), flush=True)
        case "give":
            print(json.dumps(give(orders)), flush=True)
        case "station":
            asyncio.run(station(orders))
        case _:
            asyncio.run(sender(orders))


if __name__ == "__main__":
    main()
