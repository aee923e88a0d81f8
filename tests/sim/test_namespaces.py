"""Real sockets of real processes over the emulated link; only root can make one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared.errors import PinholeError
from sim import namespaces
from sim.channel import ChannelConfig
from sim.emulated_netem import netem_words, tbf_words
from sim.loss import GilbertElliott
from sim.namespaces import SENDER_ADDRESS, STATION_ADDRESS, Backend, EmulatedLink, Side

MISSING = namespaces.what_is_missing()
needs_namespaces = pytest.mark.skipif(MISSING is not None, reason=f"no network namespaces: {MISSING}")

CLEAN = ChannelConfig()

ECHO = f"""
import socket
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("{STATION_ADDRESS}", 7000))
print("up", flush=True)
while True:
    udp.sendto(*udp.recvfrom(2000))
"""

# Sends datagrams, waits until none has come back for a while, prints the round trips in seconds by number.
PINGS = f"""
import json, socket, sys, threading, time
count, size, gap, patience = json.loads(sys.argv[1])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.connect(("{STATION_ADDRESS}", 7000))
udp.settimeout(patience)
sent, trips = {{}}, []
def listen():
    try:
        while True:
            number = int.from_bytes(udp.recv(2000)[:4], "big")
            trips.append((number, time.monotonic() - sent[number]))
    except TimeoutError:
        pass
listener = threading.Thread(target=listen)
listener.start()
for number in range(count):
    sent[number] = time.monotonic()
    udp.send(number.to_bytes(4, "big") + bytes(size - 4))
    time.sleep(gap)
listener.join()
print(json.dumps(trips))
"""

TAKE = f"""
import hashlib, socket
with socket.create_server(("{STATION_ADDRESS}", 7000)) as server:
    print("up", flush=True)
    connection, (address, _) = server.accept()
    data = b"".join(iter(lambda: connection.recv(65536), b""))
    print(address, hashlib.sha256(data).hexdigest(), flush=True)
"""

GIVE = f"""
import hashlib, random, socket
data = random.Random(1).randbytes(60_000)
with socket.create_connection(("{STATION_ADDRESS}", 7000)) as connection:
    connection.sendall(data)
    print(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\\0").decode())
print(hashlib.sha256(data).hexdigest())
"""


def python(link: EmulatedLink, side: Side, code: str, *arguments: str) -> "subprocess.Popen[str]":
    return link.run(side, [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


def pings(link: EmulatedLink, count: int, size: int = 100, gap: float = 0.0, patience: float = 3.0) -> dict[int, float]:
    station = python(link, Side.STATION, ECHO)
    assert station.stdout is not None
    assert station.stdout.readline() == "up\n"
    said, _ = python(link, Side.SENDER, PINGS, json.dumps([count, size, gap, patience])).communicate(timeout=60)
    trips = json.loads(said)
    assert len(dict(trips)) == len(trips), "nothing is doubled where that is not asked for"
    return dict(trips)


def names_of(link: EmulatedLink) -> set[str]:
    return {link.namespace(side) for side in Side}


def existing() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines()}


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"  # dead, though perhaps nobody has asked after it


@needs_namespaces
def test_datagrams_meet_the_delay_and_the_loss() -> None:
    forward = ChannelConfig(latency=0.08, loss=GilbertElliott.from_mean(0.3, 2.0))
    back = ChannelConfig(latency=0.05)
    with EmulatedLink(forward, back, seed=5, backend=Backend.USERSPACE) as link:
        trips = pings(link, 400, gap=0.002)
    assert min(trips.values()) >= 0.13
    assert link.statistics is not None
    assert link.statistics.forward.offered == 400
    assert 0.2 < link.statistics.forward.loss_rate < 0.4
    assert 1.5 < link.statistics.forward.mean_burst < 2.5
    assert len(trips) == 400 - link.statistics.forward.lost == link.statistics.back.delivered


@needs_namespaces
@pytest.mark.parametrize("backend", list(Backend))
def test_the_queue_is_bounded(backend: Backend) -> None:
    # 300 datagrams of 1028 bytes would take half a minute; they are offered at once.
    with EmulatedLink(ChannelConfig(rate=80_000.0, queue_bytes=6000), CLEAN, backend=backend) as link:
        assert link.backend is backend
        trips = pings(link, 300, size=1000)
    assert 0 in trips
    assert 5 <= len(trips) < 200
    # Some of those that got in waited for the line; of the tokens of tbf the first ones need none.
    assert max(trips.values()) > 0.3


@needs_namespaces
@pytest.mark.parametrize("congestion_control", [None, "reno"])
def test_tcp_gets_through_loss(congestion_control: str | None) -> None:
    lossy = ChannelConfig(rate=1e6, latency=0.01, jitter=0.01, loss=GilbertElliott.from_mean(0.03, 1.0))
    with EmulatedLink(lossy, lossy, seed=2, backend=Backend.USERSPACE, congestion_control=congestion_control) as link:
        station = python(link, Side.STATION, TAKE)
        assert station.stdout is not None
        assert station.stdout.readline() == "up\n"
        algorithm, sent = python(link, Side.SENDER, GIVE).communicate(timeout=60)[0].split()
        address, received = station.communicate(timeout=60)[0].split()
    assert (address, received) == (SENDER_ADDRESS, sent)
    assert congestion_control in (None, algorithm)
    assert link.statistics is not None
    assert link.statistics.forward.lost > 0


@needs_namespaces
def test_all_is_gone_afterwards() -> None:
    with pytest.raises(KeyboardInterrupt), EmulatedLink(CLEAN, CLEAN) as link:  # noqa: PT012
        process = link.run(Side.STATION, ["sleep", "600"])
        assert names_of(link) <= existing()
        raise KeyboardInterrupt
    assert process.poll() is not None
    assert not names_of(link) & existing()


@needs_namespaces
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_all_is_gone_when_the_owner_is_killed(end: signal.Signals) -> None:
    code = (
        "import signal, time; from sim.channel import ChannelConfig; from sim.namespaces import EmulatedLink, Side\n"
        # Whoever runs these tests in the background of a shell has it ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with EmulatedLink(ChannelConfig(), ChannelConfig()) as link:\n"
        "    process = link.run(Side.SENDER, ['sleep', '600'])\n"
        "    print(link.namespace(Side.SENDER), process.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as owner:
        assert owner.stdout is not None
        name, pid = owner.stdout.readline().split()
        assert name in existing()
        owner.send_signal(end)
        owner.wait(60)
        for _ in range(600):
            if name not in existing():
                break
            time.sleep(0.1)
    assert name not in existing()
    assert not runs(int(pid))


@needs_namespaces
def test_a_link_that_cannot_be_made_says_why_and_leaves_nothing() -> None:
    link = EmulatedLink(CLEAN, CLEAN, congestion_control="no-such-algorithm")
    with pytest.raises(PinholeError, match=r"emulated link: ip .*congctl no-such-algorithm.* failed"):
        link.__enter__()
    assert not names_of(link) & existing()


def test_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PinholeError, match="emulated link: it needs root"):
        EmulatedLink(CLEAN, CLEAN).__enter__()


def test_without_the_tools_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PinholeError, match="ip and tc not found; install iproute2"):
        EmulatedLink(CLEAN, CLEAN).__enter__()


def test_channels_in_the_words_of_tc() -> None:
    config = ChannelConfig(
        rate=64_000.0,
        latency=0.1,
        jitter=0.04,
        queue_bytes=8000,
        overhead_bytes=4,
        loss=GilbertElliott(p=0.02, r=0.25, h=0.1, k=0.999),
        duplication=0.01,
        corruption=0.001,
    )
    assert " ".join(tbf_words(config) or []) == (
        "stab overhead -10 linklayer ethernet tbf rate 64000bit burst 1600 limit 8000"
    )
    assert " ".join(netem_words(config) or []) == (
        "netem limit 100000 delay 120000us 20000us loss gemodel 2.000000% 25.000000% 90.000000% 0.100000% "
        "duplicate 1.000000% corrupt 0.100000% rate 10gbit"
    )
    assert tbf_words(CLEAN) is None
    assert netem_words(CLEAN) is None
    free = ChannelConfig(jitter=0.04, keep_order=False)
    assert netem_words(free) == ["netem", "limit", "100000", "delay", "20000us", "20000us"]
