"""How many of a link's bytes are picture bytes: on the virtual clock, in headers, and against TCP in real time.

    python -m benchmarks.goodput [--quick] [--parts virtual,headers,real] [--link NAME=VALUE ...] [--json FILE]

Goodput on the virtual clock: bytes of layers acknowledged to the sender, over all that the line carries in the same
time. Capacity counts whole packets of the link, header and seal included; the headers of IP and UDP below them not. The
sender always has pictures waiting; the first minute is left out, then a window of fixed length counts, and nothing
after it. Loss is the same on both ways; *burst 1* means that losses are independent of each other. *Of what got
through* is goodput over (1 - the loss that the window really had). Latency is that of another run, whose pictures ask
for half of the capacity: from submission until the last layer is at the station.

In real time two processes run in network namespaces of their own, joined by an emulated link (``sim.namespaces``). Here
the line counts all bytes, those of IP, UDP and TCP included, alike for all. Goodput is what the receiving program was
handed within the window, which begins 15 s after both ends have started. Needs root.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.goodput_real import RealCase, RealGoodput, Way, measure_all, ways
from benchmarks.goodput_virtual import Case, Goodput, measure
from benchmarks.link_overhead import header_table
from shared.errors import PinholeError
from shared.link.config import LinkConfig
from sim.namespaces import what_is_missing

TARGETS = {1200: 0.93, 200: 0.80}
"""Least goodput over (1 - loss) x capacity, by packet size."""

LOSSES = (0.0, 0.05, 0.10, 0.20)
LATENCY = 0.15
"""Seconds one way."""

RATE = 64_000.0
AS_IT_IS = "as it is"
WAYS: dict[str, dict[str, Any]] = {
    AS_IT_IS: {"adapt": True},
    "plain re-sending": {"parity": 0.0, "base_parity": 0.0},
}


def settings(way: str, packet_bytes: int) -> dict[str, Any]:
    """Of the session."""
    return {"packet_bytes": packet_bytes, "burst_bytes": 2 * packet_bytes, **WAYS[way]}


def virtual_cases(quick: bool, sealed: bool) -> list[Case]:
    """All rows of the first table."""
    return [
        Case(
            way,
            LinkConfig(**settings(way, packet_bytes)),
            loss,
            burst,
            RATE,
            round(packets * (0.2 if quick else 1.0)),
            LATENCY,
            sealed,
            seed=1,
        )
        for packet_bytes, packets in ((1200, 8000), (200, 30_000))
        for loss in LOSSES
        for burst in ((1.0, 3.0) if loss else (1.0,))
        for way in WAYS
    ]


def virtual_table(results: Sequence[Goodput]) -> list[str]:
    """Rows of a Markdown table."""
    rows = [
        "| packet | loss | burst | session | line used | goodput | of what got through | target | spurious | "
        "latency, median | 95 % |",
        "|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        case = result.case
        target = TARGETS[case.link.packet_bytes]
        verdict = "-"
        if case.way == AS_IT_IS:
            verdict = f"{target:.2f} {'reached' if result.efficiency >= target else 'missed'}"
        lost = f", {result.unfinished} unfinished" if result.unfinished else ""
        rows.append(
            f"| {case.link.packet_bytes} | {100 * result.loss:.1f} % | {case.burst:g} | {case.way} | "
            f"{result.used:.3f} | {result.goodput:.3f} | {result.efficiency:.3f} | {verdict} | "
            f"{100 * result.spurious:.2f} % | {result.median:.1f} s | {result.late:.1f} s{lost} |"
        )
    return rows


def real_cases(quick: bool, sealed: bool, rates: Sequence[float], seconds: float) -> list[RealCase]:
    """All runs in real time."""
    losses = (0.0, 0.10) if quick else LOSSES
    compared: list[Way] = ways(settings(AS_IT_IS, 1200), settings("plain re-sending", 1200), sealed=sealed)
    return [
        RealCase(way, rate, loss, seconds, LATENCY, seed=1) for rate in rates for loss in losses for way in compared
    ]


def real_table(results: Sequence[RealGoodput]) -> list[str]:
    """Rows of a Markdown table; the ratio is to the first way, the link over UDP."""
    rows = [
        "| line | loss | way | goodput | of what got through | link over UDP is | acknowledged | queue dropped |",
        "|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    base = {(r.case.rate, r.case.loss): r.goodput for r in results if r.case.way.name == results[0].case.way.name}
    for result in results:
        case = result.case
        loss = case.loss if result.loss is None else result.loss
        ratio = base[case.rate, case.loss] / result.goodput if result.goodput else float("inf")
        acknowledged = "-" if result.acknowledged is None else f"{result.acknowledged:.3f}"
        dropped = "-" if result.dropped is None else f"{100 * result.dropped:.1f} %"
        rows.append(
            f"| {case.rate / 1000:g} kbit/s | {100 * case.loss:g} % ({100 * loss:.1f} %) | {case.way.name} | "
            f"{result.goodput:.3f} | {result.goodput / (1 - loss):.3f} | {ratio:.2f} x | {acknowledged} | {dropped} |"
        )
    lateness = [result.lateness for result in results if result.lateness is not None]
    carried = results[0].backend
    remark = f"; no packet was more than {1000 * max(lateness):.0f} ms late by it" if lateness else ""
    rows += ["", f"Packets carried by: {carried}{remark}. Loss: as set, and in brackets as it was."]
    return rows


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the packets, fewer and shorter runs")
    parser.add_argument("--parts", default="virtual,headers,real", help="which, separated by commas")
    parser.add_argument("--unsealed", action="store_true", help="without seals")
    parser.add_argument("--link", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the session as it is")
    parser.add_argument("--rates", default="64000,256000", help="of the lines in real time, bit/s")
    parser.add_argument("--seconds", type=float, help="of each window in real time (45, quick 15)")
    parser.add_argument("--together", type=int, default=6, help="links in real time at once")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes for the virtual clock")
    parser.add_argument("--json", type=Path, help="also write all figures there")
    options = parser.parse_args()
    for setting in options.link:
        name, _, value = setting.partition("=")
        WAYS[AS_IT_IS][name] = json.loads(value)
    parts = options.parts.split(",")
    figures: dict[str, list[dict[str, Any]]] = {}
    if "virtual" in parts:
        cases = virtual_cases(options.quick, not options.unsealed)
        with ProcessPoolExecutor(options.jobs) as pool:
            results = list(pool.map(measure, cases))
        _print("Virtual clock", virtual_table(results))
        figures["virtual"] = [asdict(result) for result in results]
    if "headers" in parts:
        _print("Headers and seals, bytes", header_table())
    if "real" in parts:
        figures["real"] = _real(options)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def _real(options: argparse.Namespace) -> list[dict[str, Any]]:
    missing = what_is_missing()
    if missing is not None:
        _print("Real time", [f"Left out: {missing}."])
        return []
    seconds = options.seconds or (15.0 if options.quick else 45.0)
    rates = [float(rate) for rate in options.rates.split(",")][: 1 if options.quick else None]
    cases = real_cases(options.quick, not options.unsealed, rates, seconds)
    note: Callable[[RealGoodput], None] = lambda r: _say(  # noqa: E731
        f"{r.case.way.name}, {r.case.rate:.0f} bit/s, loss {r.case.loss}: {r.goodput:.3f}"
    )
    results = measure_all(cases, options.together, note)
    _print("Real time, emulated link", real_table(results))
    return [asdict(result) for result in results]


def _print(title: str, rows: Sequence[str]) -> None:
    print("\n".join([f"## {title}", "", *rows, ""]), flush=True)


if __name__ == "__main__":
    try:
        main()
    except PinholeError as error:
        sys.exit(f"goodput: {error}")
