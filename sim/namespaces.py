"""Two network namespaces of this machine with nothing between them but an emulated link.

Processes in them use the kernel's own TCP and UDP and cannot tell the link from a real one. Where the kernel has netem
it carries the packets itself, by two more namespaces on the way (`sim.emulated_netem`). Elsewhere a process of ours
carries them between two TUN devices, through the same `sim.channel.Channel` that the virtual clock runs
(`sim.emulated_forwarder`). See network_namespaces(7), ip-netns(8), and Documentation/networking/tuntap.rst of Linux.
"""

import contextlib
import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from enum import StrEnum
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from shared.errors import PinholeError
from sim.channel import ChannelConfig
from sim.emulated_forwarder import EmulatedStatistics, read_statistics, remove_namespaces, settings_of
from sim.emulated_netem import ip, join, last_line, run_tool

SENDER_ADDRESS = "10.80.0.1"
STATION_ADDRESS = "10.80.0.2"
DEVICE = "link0"
"""What the link is called on either side."""

_ADDRESSES = (SENDER_ADDRESS, STATION_ADDRESS)

_TUN = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_END_WITHIN = 10.0  # seconds
_numbers = count(1)


class Side(StrEnum):
    """The two ends of the link."""

    SENDER = "sender"
    STATION = "station"


class Backend(StrEnum):
    """What carries the packets."""

    NETEM = "netem"
    USERSPACE = "userspace"


def what_is_missing() -> str | None:
    """Why namespaces cannot be made here, in a few words with the mend; None if they can."""
    if not sys.platform.startswith("linux"):
        return "this is not Linux"
    if os.geteuid() != 0:
        return "it needs root; run it as root or in a container that may administer its network"
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} not found; install iproute2"
    name = f"pinhole-try-{os.getpid()}-{next(_numbers)}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"no namespace can be made ({last_line(tried.stderr)}); run it where the kernel allows that"
    remove_namespaces([name])
    return None


class EmulatedLink:
    """Namespaces and the link between them, for as long as the context lasts.

    The sender's side has the address `SENDER_ADDRESS`, the station's side `STATION_ADDRESS`. Sizes and rates are those
    of whole IP packets, to which ``overhead_bytes`` of a channel add. Everything goes when the context ends, also by an
    exception or Ctrl-C, and even if this process is killed.

    Args:
        forward: channel from the sender's side to the station's.
        back: the other way.
        seed: of all chance; netem has a chance of its own, which cannot be set.
        backend: what carries the packets; None takes netem where the kernel has it.
        congestion_control: of all TCP connections across the link, such as ``cubic``; None for the kernel's default.
    """

    def __init__(
        self,
        forward: ChannelConfig,
        back: ChannelConfig,
        seed: int = 1,
        *,
        backend: Backend | None = None,
        congestion_control: str | None = None,
    ) -> None:
        self._channels = (forward, back)
        self._seed = seed
        self._wanted = backend
        self._congestion_control = congestion_control
        self._processes: list[subprocess.Popen[Any]] = []
        self._stack = contextlib.ExitStack()
        number = next(_numbers)
        self._names = {side: f"pinhole-{os.getpid()}-{number}-{side}" for side in Side}
        self._between = [f"pinhole-{os.getpid()}-{number}-{place}" for place in ("near", "far")]
        self.backend: Backend | None = None
        """What carries the packets, once the context is entered."""
        self.statistics: EmulatedStatistics | None = None
        """What happened, once the context has ended; None where netem carried the packets."""

    def namespace(self, side: Side) -> str:
        """Name of a side's namespace, as ``ip netns`` takes it."""
        return self._names[side]

    def __enter__(self) -> Self:
        """Make namespaces and link.

        Raises:
            PinholeError: if this machine does not allow it.
        """
        missing = what_is_missing()
        if missing is not None:
            raise PinholeError(f"emulated link: {missing}")
        with contextlib.ExitStack() as stack:
            names = [*self._names.values(), *self._between]
            stack.callback(remove_namespaces, names)
            for name in self._names.values():
                ip("netns", "add", name)
                ip("-n", name, "link", "set", "lo", "up")
            self.backend = self._choose()
            devices: list[BinaryIO] = []
            if self.backend is Backend.USERSPACE:
                devices = [self._make_tun(side, stack) for side in Side]
            else:
                for name in self._between:
                    ip("netns", "add", name)
                chain = [self._names[Side.SENDER], *self._between, self._names[Side.STATION]]
                join(chain, _ADDRESSES, DEVICE, *self._channels)
            for side in Side:
                self._route(side)
            keeper = self._start_keeper(devices, names)
            stack.callback(self._end_keeper, keeper)
            stack.callback(self._end_processes)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what runs in the namespaces and remove them."""
        self._stack.close()

    def run(self, side: Side, argv: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
        """Start a process on one side of the link; it is killed when the context ends.

        Args:
            side: where.
            argv: the command.
            options: further arguments of `subprocess.Popen`.
        """
        # A session of its own: Ctrl-C is for the owner, who ends the process.
        process = subprocess.Popen(["ip", "netns", "exec", self._names[side], *argv], start_new_session=True, **options)
        self._processes.append(process)
        return process

    def _choose(self) -> Backend:
        if self._wanted is not None:
            return self._wanted
        name = self._names[Side.SENDER]
        words = ["tc", "-n", name, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
        if subprocess.run(words, capture_output=True, check=False).returncode != 0:
            return Backend.USERSPACE
        run_tool("tc", "-n", name, "qdisc", "delete", "dev", "lo", "root")
        return Backend.NETEM

    def _make_tun(self, side: Side, stack: contextlib.ExitStack) -> BinaryIO:
        """A TUN device in a side's namespace."""
        try:
            device = open(_TUN, "r+b", buffering=0)  # noqa: SIM115 (the stack closes it)
        except OSError as error:
            raise PinholeError(
                f"{_TUN}: cannot be opened ({(error.strerror or '').lower()}); load the module tun, or use a kernel "
                "with netem"
            ) from error
        stack.callback(device.close)
        asked = struct.pack("16sH22x", b"pinhole%d", _IFF_TUN | _IFF_NO_PI)
        made = fcntl.ioctl(device, _TUNSETIFF, asked)
        name = made[:16].rstrip(b"\0").decode()
        ip("link", "set", "dev", name, "netns", self._names[side], "name", DEVICE)
        return device

    def _route(self, side: Side) -> None:
        name = self._names[side]
        own, other = _ADDRESSES if side is Side.SENDER else _ADDRESSES[::-1]
        ip("-n", name, "link", "set", "dev", DEVICE, "addrgenmode", "none")
        ip("-n", name, "link", "set", "dev", DEVICE, "up")
        ip("-n", name, "address", "add", f"{own}/32", "dev", DEVICE)
        # By the route and not by the kernel's setting, which may not be changed in a namespace for every algorithm.
        chosen = [] if self._congestion_control is None else ["congctl", self._congestion_control]
        ip("-n", name, "route", "add", f"{other}/32", "dev", DEVICE, "src", own, *chosen)

    def _start_keeper(self, devices: Sequence[BinaryIO], names: Sequence[str]) -> "subprocess.Popen[str]":
        numbers = [device.fileno() for device in devices]
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        keeper = subprocess.Popen(
            [sys.executable, "-m", "sim.emulated_forwarder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=numbers,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        orders = settings_of(*self._channels, self._seed, numbers) | {"namespaces": list(names)}
        if keeper.stdin is None or keeper.stdout is None:
            raise RuntimeError("the process was started with pipes")
        with contextlib.suppress(BrokenPipeError):
            keeper.stdin.write(json.dumps(orders) + "\n")
            keeper.stdin.flush()
        if keeper.stdout.readline() != "ready\n":
            keeper.kill()
            keeper.wait()
            raise PinholeError("emulated link: its process did not start; see the lines above")
        # The devices are the keeper's from now on and go with it.
        for device in devices:
            device.close()
        return keeper

    def _end_keeper(self, keeper: "subprocess.Popen[str]") -> None:
        try:
            said, _ = keeper.communicate(timeout=_END_WITHIN)
        except subprocess.TimeoutExpired:
            keeper.kill()
            keeper.wait()
            return
        if said:
            self.statistics = read_statistics(said)

    def _end_processes(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
