"""Channels made of queueing disciplines of the Linux kernel.

A line with a bounded queue is ``tbf`` (tc-tbf(8)); what happens behind it is ``netem`` (tc-netem(8); Hemminger,
"Network emulation with NetEm", linux.conf.au 2005). They sit on two devices one after the other, so that, as in
`sim.channel.Channel`, what is lost has cost its time on the line; and both lie outside the namespaces of the ends, for
a kernel whose own device drops or holds a packet would know of it, which no modem tells it.
"""

import subprocess
from collections.abc import Sequence
from itertools import pairwise

from shared.errors import PinholeError
from sim.channel import ChannelConfig

_ETHERNET_HEADER = 14
_LARGEST_FRAME = 1514 + 86
"""Bytes of tokens that ``tbf`` must be able to hold to let a full frame pass, with some to spare."""

_PACKETS_UNDER_WAY = 100_000
_ALMOST_NO_TIME = "10gbit"


def tbf_words(config: ChannelConfig) -> list[str] | None:
    """Arguments of ``tc qdisc add dev D root`` for the line and its queue; None where there is no rate."""
    if config.rate is None:
        return None
    # Sizes of tc are those of Ethernet frames; a link's are those of IP packets and whatever lies below them there.
    size = ["stab", "overhead", str(config.overhead_bytes - _ETHERNET_HEADER), "linklayer", "ethernet"]
    limit = max(config.queue_bytes, _LARGEST_FRAME)
    return [*size, "tbf", "rate", f"{config.rate:.0f}bit", "burst", str(_LARGEST_FRAME), "limit", str(limit)]


def netem_words(config: ChannelConfig) -> list[str] | None:
    """Arguments of ``tc qdisc add dev D root`` for delay, loss, doubles and damage; None if there are none of them.

    ``netem`` damages single bits, where `sim.channel.Channel` flips a few neighbouring ones.
    """
    words: list[str] = []
    if config.latency or config.jitter:
        # netem draws evenly from the mean minus to the mean plus the jitter.
        mean, deviation = config.latency + config.jitter / 2, config.jitter / 2
        words += ["delay", f"{mean * 1e6:.0f}us", f"{deviation * 1e6:.0f}us"]
    loss = config.loss
    if loss.p or loss.k < 1.0:
        percent = (f"{100 * share:.6f}%" for share in (loss.p, loss.r, 1.0 - loss.h, 1.0 - loss.k))
        words += ["loss", "gemodel", *percent]
    if config.duplication:
        words += ["duplicate", f"{100 * config.duplication:.6f}%"]
    if config.corruption:
        words += ["corrupt", f"{100 * config.corruption:.6f}%"]
    if not words:
        return None
    if config.jitter and config.keep_order:
        # Jitter reorders, unless there is a rate: then no packet leaves before the one ahead (net/sched/sch_netem.c).
        words += ["rate", _ALMOST_NO_TIME]
    return ["netem", "limit", str(_PACKETS_UNDER_WAY), *words]


def join(chain: Sequence[str], ends: tuple[str, str], device: str, forward: ChannelConfig, back: ChannelConfig) -> None:
    """Link four namespaces in a row; the two in the middle forward packets and hold the queueing disciplines.

    Args:
        chain: names of existing namespaces: one end, two between, other end.
        ends: addresses of the ends, which are yet to be given to them.
        device: what the ends' devices are to be called.
        forward: channel from the first to the last.
        back: the other way.

    Raises:
        PinholeError: if the kernel or the tools lack something for it.
    """

    def left(place: int) -> str:
        return device if place == len(chain) - 1 else "left"

    def right(place: int) -> str:
        return device if place == 0 else "right"

    for place, (near, far) in enumerate(pairwise(chain)):
        macs = [f"02:00:00:00:0{place}:0{end}" for end in (0, 1)]
        ip(
            *("-n", near, "link", "add", right(place), "address", macs[0], "type", "veth"),
            *("peer", "name", left(place + 1), "address", macs[1], "netns", far),
        )
        for namespace, own, target, mac in (
            (near, right(place), ends[1], macs[1]),
            (far, left(place + 1), ends[0], macs[0]),
        ):
            # Large segments, which the card would cut, count as one packet for tc; a link sees each of them.
            ip("-n", namespace, "link", "set", "dev", own, "addrgenmode", "none", "gso_max_segs", "1")
            ip("-n", namespace, "link", "set", "dev", own, "up")
            # Known for good: questions after addresses would be lost and delayed like other packets.
            ip("-n", namespace, "neighbour", "add", target, "lladdr", mac, "dev", own, "nud", "permanent")
    for place in (1, 2):
        ip("netns", "exec", chain[place], "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        ip("-n", chain[place], "route", "add", ends[0], "dev", left(place))
        ip("-n", chain[place], "route", "add", ends[1], "dev", right(place))
    for namespace, own, words in (
        (chain[1], right(1), tbf_words(forward)),
        (chain[2], right(2), netem_words(forward)),
        (chain[2], left(2), tbf_words(back)),
        (chain[1], left(1), netem_words(back)),
    ):
        if words is not None:
            run_tool("tc", "-n", namespace, "qdisc", "add", "dev", own, "root", *words)


def ip(*words: str) -> None:
    """Run ``ip``; errors as for `run_tool`."""
    run_tool("ip", *words)


def run_tool(*words: str) -> None:
    """Run a tool of iproute2.

    Raises:
        PinholeError: if it refuses.
    """
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PinholeError(
            f"emulated link: {' '.join(words)} failed ({last_line(done.stderr)}); "
            "the kernel or iproute2 lacks something for it"
        )


def last_line(text: str) -> str:
    """The last line that a tool said, as part of a sentence."""
    return (text.strip().splitlines() or ["no reason given"])[-1].removeprefix("Error: ").rstrip(".").lower()
