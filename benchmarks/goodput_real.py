"""Goodput between two processes over an emulated link in real time; ``benchmarks.goodput`` prints it."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.goodput_virtual import LAYER_BYTES
from benchmarks.link_ends import Orders
from shared.errors import PinholeError
from sim.channel import ChannelConfig
from sim.loss import GilbertElliott
from sim.namespaces import STATION_ADDRESS, Backend, EmulatedLink, Side

_PORT = 7000
_UDP_OVER_IP = 28
_WARM_UP = 15.0
_STARTING = 2.0
_QUEUE_SECONDS = 2.0
_PATIENCE = 30.0
_ALGORITHMS = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


@dataclass(frozen=True)
class Way:
    """How bytes are brought across.

    Attributes:
        name: for the table.
        transport: ``udp`` and ``tcp`` (ZeroMQ) carry a link session, ``bulk`` is one plain TCP connection.
        link: settings of the session.
        congestion_control: of TCP.
        sealed: whether packets are sealed.
    """

    name: str
    transport: str
    link: dict[str, Any]
    congestion_control: str | None = None
    sealed: bool = False


@dataclass(frozen=True)
class RealCase:
    """One run.

    Attributes:
        way: how.
        rate: of the line in bit/s, IP headers included, each way.
        loss: share of packets lost, each way, independently.
        seconds: length of the measured window.
        latency: one way, seconds.
        seed: of all chance of the link.
    """

    way: Way
    rate: float
    loss: float
    seconds: float
    latency: float
    seed: int


@dataclass(frozen=True)
class RealGoodput:
    """What was brought across.

    Attributes:
        case: under which circumstances.
        backend: what carried the packets.
        goodput: bytes that reached the receiving program within the window, as a share of the line.
        acknowledged: picture bytes acknowledged to the sender within the window, as a share of the line; None for TCP.
        loss: share of the forward packets that the link lost; None if the kernel carried them.
        dropped: share of those dropped at the full queue before the line, likewise.
        lateness: seconds by which the latest packet missed its time, likewise.
    """

    case: RealCase
    backend: str
    goodput: float
    acknowledged: float | None
    loss: float | None
    dropped: float | None
    lateness: float | None


def ways(link: dict[str, Any], plain: dict[str, Any], *, sealed: bool) -> list[Way]:
    """Those that are compared; of TCP's congestion controls, those that the kernel has.

    Args:
        link: settings of the session as it is.
        plain: settings of one that only sends again; over TCP, which loses nothing, it is the better one.
        sealed: whether the sessions are sealed.
    """
    algorithms = [name for name in ("cubic", "bbr") if name in _ALGORITHMS.read_text().split()]
    return [
        Way("link over UDP", "udp", link, sealed=sealed),
        Way("link over UDP, plain re-sending", "udp", plain, sealed=sealed),
        *(Way(f"link over ZeroMQ, {name}", "tcp", plain, name, sealed) for name in algorithms),
        *(Way(f"TCP bulk, {name}", "bulk", {}, name) for name in algorithms),
    ]


def measure_all(
    cases: Sequence[RealCase], together: int, note: Callable[[RealGoodput], None] = lambda result: None
) -> list[RealGoodput]:
    """Run cases, so many at a time, each over a link of its own."""

    def run(case: RealCase) -> RealGoodput:
        result = measure(case)
        note(result)
        return result

    with ThreadPoolExecutor(together) as pool:
        return list(pool.map(run, cases))


def measure(case: RealCase) -> RealGoodput:
    """Run one case.

    Raises:
        PinholeError: if there can be no namespaces here, or an end fails.
    """
    loss = GilbertElliott.from_mean(case.loss, 1.0 / (1.0 - case.loss))
    channel = ChannelConfig(
        rate=case.rate, latency=case.latency, loss=loss, queue_bytes=round(_QUEUE_SECONDS * case.rate / 8)
    )
    with EmulatedLink(channel, channel, case.seed, congestion_control=case.way.congestion_control) as link:
        start = time.monotonic() + _STARTING + _WARM_UP
        orders = _orders(case, start, start + case.seconds)
        station = _start(link, Side.STATION, orders[0])
        sender = _start(link, Side.SENDER, orders[1])
        received, sent = (_result(process, start + case.seconds) for process in (station, sender))
        backend = link.backend or Backend.USERSPACE
    line = case.rate / 8 * case.seconds
    acknowledged = sent["bytes"] / line if "bytes" in sent else None
    if link.statistics is None:
        return RealGoodput(case, backend, received["bytes"] / line, acknowledged, None, None, None)
    forward = link.statistics.forward
    return RealGoodput(
        case,
        backend,
        received["bytes"] / line,
        acknowledged,
        forward.loss_rate,
        forward.queue_dropped / max(1, forward.offered),
        link.statistics.worst_lateness,
    )


def _orders(case: RealCase, start: float, stop: float) -> tuple[Orders, Orders]:
    way = case.way
    if way.transport == "bulk":
        url = f"{STATION_ADDRESS}:{_PORT}"
        return Orders("take", url, start, stop, {}), Orders("give", url, start, stop, {})
    packet_bytes = way.link["packet_bytes"]
    # The line carries IP packets. Over UDP the session must leave room for their headers; TCP brakes by itself.
    rate = case.rate * packet_bytes / (packet_bytes + _UDP_OVER_IP) if way.transport == "udp" else case.rate
    settings = {**way.link, "rate": rate}
    url = f"{way.transport}://{STATION_ADDRESS}:{_PORT}"
    return (
        Orders("station", url, start, stop, settings, way.sealed),
        Orders("sender", url, start, stop, settings, way.sealed, layers=LAYER_BYTES),
    )


def _start(link: EmulatedLink, side: Side, orders: Orders) -> "subprocess.Popen[str]":
    process = link.run(side, orders.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if process.stdout is None or not process.stdout.readline().startswith("ready"):
        raise PinholeError(f"{orders.end} of the benchmark did not start; see the lines above")
    return process


def _result(process: "subprocess.Popen[str]", stop: float) -> dict[str, Any]:
    said = ""
    if process.stdout is not None:
        last = threading.Timer(max(0.0, stop - time.monotonic()) + _PATIENCE, process.kill)
        last.start()
        said = process.stdout.readline()
        last.cancel()
    if not said:
        raise PinholeError("an end of the benchmark failed; see the lines above")
    result: dict[str, Any] = json.loads(said)
    return result
