"""The process that stands between two network namespaces: passes their packets through channels, and clears up.

    python -m sim.emulated_forwarder     (started by `sim.namespaces`, told by one line of JSON what to do)

It lives until its standard input ends, which also happens when its owner is killed; then it ends what still runs in the
namespaces and removes them. So nothing stays behind, however the owner came to its end.
"""

import contextlib
import heapq
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import numpy as np

from sim.channel import Channel, ChannelConfig, ChannelStatistics
from sim.loss import GilbertElliott

_LARGEST_READ = 65536
_READS_AT_ONCE = 32
_IPV4 = 4


@dataclass(frozen=True)
class EmulatedStatistics:
    """What happened on an emulated link.

    Attributes:
        forward: from the sender's side to the station's, whole IP packets.
        back: the other way.
        worst_lateness: seconds by which the packet that came latest missed its time, because the machine was busy.
    """

    forward: ChannelStatistics
    back: ChannelStatistics
    worst_lateness: float


def settings_of(forward: ChannelConfig, back: ChannelConfig, seed: int, devices: Sequence[int]) -> dict[str, Any]:
    """What the process is told of the channels, ready for JSON."""
    return {"forward": asdict(forward), "back": asdict(back), "seed": seed, "devices": list(devices)}


def read_statistics(text: str) -> EmulatedStatistics:
    """What the process said at its end."""
    read = json.loads(text)
    return EmulatedStatistics(
        ChannelStatistics(**read["forward"]), ChannelStatistics(**read["back"]), float(read["worst_lateness"])
    )


class Forwarder:
    """Two devices, and a channel each way between them.

    Args:
        devices: file descriptors of two TUN devices: sender's side, station's side.
        forward: from the first to the second.
        back: from the second to the first.
        seed: of all chance.
    """

    def __init__(self, devices: Sequence[int], forward: ChannelConfig, back: ChannelConfig, seed: int) -> None:
        self._devices = tuple(devices)
        generators = np.random.default_rng(seed).spawn(2)
        self.channels = (Channel(forward, generators[0]), Channel(back, generators[1]))
        self._order = count()
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._worst = 0.0

    @property
    def statistics(self) -> EmulatedStatistics:
        """What has happened so far."""
        return EmulatedStatistics(self.channels[0].statistics, self.channels[1].statistics, self._worst)

    def run(self, stop: int) -> None:
        """Forward until ``stop`` can be read."""
        for device in self._devices:
            os.set_blocking(device, False)
        while True:
            now = time.monotonic()
            self._deliver(now)
            wait = None if not self._under_way else max(0.0, self._under_way[0][0] - time.monotonic())
            ready, _, _ = select.select([*self._devices, stop], [], [], wait)
            if stop in ready:
                return
            for side, device in enumerate(self._devices):
                if device in ready:
                    self._take(side, device)

    def _take(self, side: int, device: int) -> None:
        for _ in range(_READS_AT_ONCE):
            try:
                packet = os.read(device, _LARGEST_READ)
            except BlockingIOError:
                return
            # IPv6 neighbour talk would take its share of a narrow line.
            if not packet or packet[0] >> 4 != _IPV4:
                continue
            for arrival in self.channels[side].send(packet, time.monotonic()):
                heapq.heappush(self._under_way, (arrival.time, next(self._order), 1 - side, arrival.data))

    def _deliver(self, now: float) -> None:
        while self._under_way and self._under_way[0][0] <= now:
            due, _, side, packet = heapq.heappop(self._under_way)
            self._worst = max(self._worst, now - due)
            # A damaged first byte is no IP packet any more, which the device refuses: lost like any other damage.
            with contextlib.suppress(OSError):
                os.write(self._devices[side], packet)


def remove_namespaces(names: Sequence[str]) -> None:
    """End the processes in network namespaces and remove these; those that are not there are passed over."""
    for name in names:
        # A process may have started another one while the list was read.
        for _ in range(10):
            listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
            pids = [int(word) for word in listed.stdout.split()]
            if not pids:
                break
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _channel_config(read: Mapping[str, Any]) -> ChannelConfig:
    return ChannelConfig(**{**read, "loss": GilbertElliott(**read["loss"])})


def main() -> None:
    """Read the orders, forward until the standard input ends, clear up, print the statistics."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    # Read byte by byte what is one line, so that nothing waits in a buffer that select does not see.
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    orders = json.loads(line)
    with contextlib.suppress(OSError):
        os.nice(-10)
    statistics = None
    try:
        print("ready", flush=True)
        if orders["devices"]:
            forwarder = Forwarder(
                orders["devices"],
                _channel_config(orders["forward"]),
                _channel_config(orders["back"]),
                orders["seed"],
            )
            forwarder.run(0)
            statistics = asdict(forwarder.statistics)
        else:
            select.select([0], [], [])
    finally:
        remove_namespaces(orders["namespaces"])
    if statistics is not None:
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(statistics), flush=True)


if __name__ == "__main__":
    main()
