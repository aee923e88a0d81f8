"""A hundred senders on one station: do all finish, is it fair, and what does each cost the station in memory?

    python -m benchmarks.many_senders [--senders 100] [--parts virtual,real] [--json FILE]

Each sender has a link of its own to the station, all of one rate, with losses from 0 to 30 % in bursts of 2 packets on
the mean, alike on both ways. All pictures are submitted at once.

On the virtual clock: seconds until the sender has the last acknowledgement; goodput is its bytes over that time, a
share of the rate times (1 - the sender's loss). Fairness is Jain's index of these shares: 1 if all fare alike, 1/n if
one has everything (Jain, Chiu, Hawe, "A quantitative measure of fairness", DEC TR-301, 1984). Memory is what becomes
free when the station is dropped (tracemalloc), in the middle of the transfer and after it.

In real time: one station process, and one process with all the sessions, each with a UDP socket of its own on
loopback; the losses are made where the packets leave and arrive. Memory is what the station process has in RAM
(resident set), with all senders less with one that came before them.
"""

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.goodput_virtual import percentile
from benchmarks.link_ends import Orders
from benchmarks.link_sessions import make_sender
from shared.errors import PinholeError
from shared.link import LayerAcknowledged, LinkConfig, SenderEvent
from shared.transports import ClientOptions, ClientTransport, open_client
from shared.transports.drive import drive_client
from sim.channel import Channel, ChannelConfig
from sim.link import SimulatedLink, Submission
from sim.loss import GilbertElliott

LAYERS = (300, 600, 700, 448)
BURST = 2.0
MOST_LOSS = 0.30
RATE = 32_000.0
LATENCY = 0.15
PACKET_BYTES = 256
BANDS = 6
_VIRTUAL_LIMIT = 24 * 3600.0
_REAL_LIMIT = 600.0


@dataclass(frozen=True)
class Fate:
    """What became of one sender.

    Attributes:
        loss: set for its links.
        seconds: until all was acknowledged, None if that did not come about.
        goodput: share of what its link let through.
    """

    loss: float
    seconds: float | None
    goodput: float


def losses(senders: int) -> list[float]:
    """Of all senders, evenly from 0 to the most."""
    return [float(loss) for loss in np.linspace(0.0, MOST_LOSS, senders)]


def channel(loss: float) -> ChannelConfig:
    """Each way between a sender and the station."""
    return ChannelConfig(rate=RATE, latency=LATENCY, loss=GilbertElliott.from_mean(loss, BURST))


def link_config() -> LinkConfig:
    """Of all sessions."""
    return LinkConfig(packet_bytes=PACKET_BYTES, burst_bytes=2 * PACKET_BYTES, rate=RATE, adapt=True)


def jain(shares: Sequence[float]) -> float:
    """Jain's index, 1/n to 1."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


class VirtualRun:
    """All senders and the station on the virtual clock."""

    def __init__(self, senders: int, pictures: int, *, sealed: bool) -> None:
        configs = [channel(loss) for loss in losses(senders)]
        self.done: dict[int, float] = {}
        self._open = [pictures * len(LAYERS)] * senders
        self.link = SimulatedLink(
            link_config(), configs, configs, senders=senders, sealed=sealed, on_acknowledged=self._note
        )
        generator = np.random.default_rng(1)
        for sender in range(senders):
            for sequence in range(pictures):
                layers = [generator.bytes(size) for size in LAYERS]
                self.link.submit(Submission(0.0, sender, sequence, layers))

    def _note(self, now: float, sender: int, event: SenderEvent) -> None:
        self._open[sender] -= 1
        if not self._open[sender]:
            self.done[sender] = now

    def memory_of_station(self) -> int:
        """Bytes that the station alone keeps; it is gone afterwards."""
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        del self.link.station
        gc.collect()
        return before - tracemalloc.get_traced_memory()[0]


def run_virtual(senders: int, pictures: int, *, sealed: bool) -> tuple[list[Fate], dict[str, float]]:
    """Run twice, the second time up to the middle only; returns fates and figures."""
    tracemalloc.start()
    run = VirtualRun(senders, pictures, sealed=sealed)
    run.link.run_until(_VIRTUAL_LIMIT)
    totals = run.link.station.totals
    after = run.memory_of_station()
    payload = pictures * sum(LAYERS)
    fates = []
    for sender, loss in enumerate(losses(senders)):
        seconds = run.done.get(sender)
        share = payload * 8 / RATE / seconds / (1.0 - loss) if seconds else 0.0
        fates.append(Fate(loss, seconds, share))
    half = VirtualRun(senders, pictures, sealed=sealed)
    half.link.run_until(min(run.done.values(), default=0.0) / 2)
    busy = half.memory_of_station()
    tracemalloc.stop()
    figures = {
        "complete": float(len(run.done)),
        "jain": jain([fate.goodput for fate in fates]),
        "busy_bytes_per_sender": busy / senders,
        "idle_bytes_per_sender": after / senders,
        "layers_received": float(totals.layers_received),
        "layers_expected": float(senders * pictures * len(LAYERS)),
        "spurious": totals.bytes_spurious / totals.bytes_received,
    }
    return fates, figures


class LossyClient:
    """A transport whose packets meet the loss of a channel, each way."""

    def __init__(self, inner: ClientTransport, loss: float, seed: int) -> None:
        self._inner = inner
        config = replace(channel(loss), rate=None)
        self._ways = [Channel(config, generator) for generator in np.random.default_rng(seed).spawn(2)]

    async def send(self, packet: bytes, priority: int = 0) -> None:
        """See `ClientTransport`."""
        if self._ways[0].send(packet, time.monotonic()):
            await self._inner.send(packet, priority)

    async def receive(self) -> bytes:
        """See `ClientTransport`."""
        while True:
            packet = await self._inner.receive()
            if self._ways[1].send(packet, time.monotonic()):
                return packet

    async def close(self) -> None:
        """See `ClientTransport`."""
        await self._inner.close()


async def send_all(url: str, number: int, loss: float, pictures: int, *, sealed: bool) -> Fate:
    """One real sender, until all is acknowledged."""
    config = link_config()
    session = make_sender(config, number, sealed=sealed, now=time.monotonic())
    options = ClientOptions(sender=number + 1, rate=config.rate, packet_bytes=config.packet_bytes)
    transport = LossyClient(await open_client(url, options), loss, number)
    finished = asyncio.Event()
    open_layers = pictures * len(LAYERS)

    def note(event: SenderEvent) -> None:
        nonlocal open_layers
        open_layers -= isinstance(event, LayerAcknowledged)
        if not open_layers:
            finished.set()

    generator = np.random.default_rng(number)
    start = time.monotonic()
    for sequence in range(pictures):
        session.submit(sequence, [generator.bytes(size) for size in LAYERS], start)
    driving = asyncio.create_task(
        drive_client(session, transport, on_event=note, wake=asyncio.Event(), clock=time.monotonic)
    )
    ending = asyncio.create_task(finished.wait())
    await asyncio.wait([driving, ending], timeout=_REAL_LIMIT, return_when=asyncio.FIRST_COMPLETED)
    seconds = time.monotonic() - start if finished.is_set() else None
    for task in (driving, ending):
        task.cancel()
    await asyncio.gather(driving, ending, return_exceptions=True)
    await transport.close()
    payload = pictures * sum(LAYERS)
    return Fate(loss, seconds, payload * 8 / RATE / seconds / (1.0 - loss) if seconds else 0.0)


def run_real(senders: int, pictures: int, *, sealed: bool) -> tuple[list[Fate], dict[str, float]]:
    """A station process and the senders in this one; returns fates and figures."""
    settings = {"packet_bytes": PACKET_BYTES}
    # The station's time ends when its standard input does.
    orders = Orders(
        "station", "udp://127.0.0.1:0", 0.0, time.monotonic() + 2 * _REAL_LIMIT, settings, sealed, senders + 1
    )
    with subprocess.Popen(orders.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as station:
        if station.stdout is None or not (said := station.stdout.readline().split()):
            raise PinholeError("the station of the benchmark did not start; see the lines above")
        url = said[1]

        async def run() -> list[Fate]:
            await send_all(url, senders, 0.1, pictures, sealed=sealed)
            together = (
                send_all(url, number, loss, pictures, sealed=sealed) for number, loss in enumerate(losses(senders))
            )
            return list(await asyncio.gather(*together))

        try:
            fates = asyncio.run(run())
            result = json.loads(station.communicate(timeout=60.0)[0])
        finally:
            station.kill()
    memory = {int(count): size for count, size in result["memory"].items()}
    received = sum(result["layers"].values())
    most = max(memory)
    figures = {
        "complete": float(sum(fate.seconds is not None for fate in fates)),
        "jain": jain([fate.goodput for fate in fates]),
        "station_with_one": float(memory[1]),
        "station_with_all": float(memory[most]),
        "bytes_per_sender": (memory[most] - memory[1]) / max(1, most - 1),
        "processor_seconds": result["processor_seconds"],
        "layers_received": float(received),
        "layers_expected": float((senders + 1) * pictures * len(LAYERS)),
    }
    return fates, figures


def table(fates: Sequence[Fate]) -> list[str]:
    """Rows of a Markdown table, senders gathered by loss."""
    rows = [
        "| loss | senders | complete | seconds, median | longest | goodput share, least | median | most |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for band in np.array_split(np.arange(len(fates)), min(BANDS, len(fates))):
        chosen = [fates[int(i)] for i in band]
        took = [fate.seconds for fate in chosen if fate.seconds is not None]
        shares = [fate.goodput for fate in chosen]
        rows.append(
            f"| {100 * chosen[0].loss:.1f} to {100 * chosen[-1].loss:.1f} % | {len(chosen)} | {len(took)} | "
            f"{percentile(took, 0.5):.1f} | {max(took, default=float('nan')):.1f} | {min(shares):.3f} | "
            f"{percentile(shares, 0.5):.3f} | {max(shares):.3f} |"
        )
    return rows


def _print(title: str, fates: Sequence[Fate], remarks: Sequence[str]) -> None:
    print("\n".join([f"## {title}", "", *table(fates), "", *remarks, ""]), flush=True)


def main() -> None:
    """Run, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--senders", type=int, default=100)
    parser.add_argument("--pictures", type=int, default=20, help="of each sender")
    parser.add_argument("--parts", default="virtual,real", help="which, separated by commas")
    parser.add_argument("--unsealed", action="store_true", help="without seals")
    parser.add_argument("--json", type=Path, help="also write all figures there")
    options = parser.parse_args()
    sealed = not options.unsealed
    found: dict[str, Any] = {}
    if "virtual" in options.parts.split(","):
        fates, figures = run_virtual(options.senders, options.pictures, sealed=sealed)
        found["virtual"] = {"fates": [asdict(fate) for fate in fates], **figures}
        _print(
            f"{options.senders} senders, virtual clock",
            fates,
            [
                f"Complete: {figures['complete']:.0f} of {options.senders}; layers at the station "
                f"{figures['layers_received']:.0f} of {figures['layers_expected']:.0f}, each once. "
                f"Fairness {figures['jain']:.4f}. Spurious bytes {100 * figures['spurious']:.2f} %.",
                f"Memory of the station for each sender: {figures['busy_bytes_per_sender'] / 1024:.1f} KiB in the "
                f"middle of the transfer, {figures['idle_bytes_per_sender'] / 1024:.1f} KiB after it.",
            ],
        )
    if "real" in options.parts.split(","):
        fates, figures = run_real(options.senders, options.pictures, sealed=sealed)
        found["real"] = {"fates": [asdict(fate) for fate in fates], **figures}
        _print(
            f"{options.senders} senders, real sockets",
            fates,
            [
                f"Complete: {figures['complete']:.0f} of {options.senders}; layers at the station "
                f"{figures['layers_received']:.0f} of {figures['layers_expected']:.0f}. "
                f"Fairness {figures['jain']:.4f}.",
                f"Resident memory of the station: {figures['station_with_one'] / 2**20:.1f} MiB with one sender, "
                f"{figures['station_with_all'] / 2**20:.1f} MiB with all, {figures['bytes_per_sender'] / 1024:.1f} KiB "
                f"for each. Processor time of the station: {figures['processor_seconds']:.1f} s.",
            ],
        )
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except PinholeError as error:
        sys.exit(f"many_senders: {error}")
