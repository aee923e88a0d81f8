"""The report of a simulation: ``report.json`` for programs, ``report.md`` for people.

Nothing in it depends on the machine or the hour: the same scenario and seed give the same bytes.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from shared.errors import PinholeError
from shared.files import write_atomically
from shared.link.statistics import SenderStatistics
from sim.channel import ChannelStatistics
from sim.simulation import Outcome, percentiles

_DECIMALS = 6


def summarise(outcome: Outcome) -> dict[str, object]:
    """Return the figures of a run as plain values, ready for JSON; times in seconds, rates in bit/s."""
    scenario, fates = outcome.scenario, outcome.fates
    layers = sum(len(fate.submission.layers) for fate in fates)
    layers_received = sum(len(fate.received) for fate in fates)
    base = [seconds for fate in fates if (seconds := fate.base_seconds) is not None]
    complete = [seconds for fate in fates if (seconds := fate.complete_seconds) is not None]
    started = min((fate.submission.time for fate in fates), default=0.0)
    ended = max((time for fate in fates for time in fate.received.values()), default=started)
    payload = sum(fate.received_bytes for fate in fates)
    sender = _sum_senders(outcome.senders)
    report: dict[str, object] = {
        "scenario": {
            "name": scenario.name,
            "description": scenario.description,
            "seed": scenario.seed,
            "senders": scenario.senders,
            "duration": scenario.duration,
            "simplex": scenario.back is None,
            "forward": dataclasses.asdict(scenario.forward),
            "return": None if scenario.back is None else dataclasses.asdict(scenario.back),
            "link": dataclasses.asdict(scenario.link),
            "traffic": dataclasses.asdict(scenario.traffic),
        },
        "seconds": outcome.seconds,
        "pictures": {
            "submitted": len(fates),
            "base_complete": len(base),
            "complete": len(complete),
            "damaged_layers": sum(fate.damaged for fate in fates),
        },
        "layers": {
            "submitted": layers,
            "received": layers_received,
            "residual_loss": (layers - layers_received) / layers if layers else 0.0,
        },
        "latency": {"base": percentiles(base), "complete": percentiles(complete)},
        "goodput": payload * 8.0 / (ended - started) if ended > started else 0.0,
        "bytes": {
            "layers_submitted": sum(len(layer) for fate in fates for layer in fate.submission.layers),
            "layers_received": payload,
            "packets_forward": sum(channel.offered_bytes for channel in outcome.forward),
            "source_symbols": outcome.ledger.source,
            "repair_symbols": outcome.ledger.repair,
            "questions": outcome.ledger.question,
            "packet_headers": outcome.ledger.header,
            "spurious": outcome.station.bytes_spurious,
            "line_forward": sum(channel.line_bytes for channel in outcome.forward),
            "packets_return": sum(channel.offered_bytes for channel in outcome.back),
            "line_return": sum(channel.line_bytes for channel in outcome.back),
        },
        "packets": {
            "source": sender.source_symbols_sent,
            "repair": sender.repair_symbols_sent,
            "resent": sender.symbols_resent,
            "control": outcome.station.reports_sent,
        },
        "sender": _without_none(dataclasses.asdict(sender)),
        "station": dataclasses.asdict(outcome.station),
        "forward": _channel_sums(outcome.forward),
        "return": _channel_sums(outcome.back) if outcome.back else None,
    }
    rounded = _rounded(report)
    assert isinstance(rounded, dict)
    return rounded


def write_reports(outcome: Outcome, folder: Path) -> dict[str, object]:
    """Write ``report.json`` and ``report.md`` into a folder; return the figures.

    Raises:
        PinholeError: if the folder cannot be written.
    """
    report = summarise(outcome)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PinholeError(f"{folder}: cannot make the folder ({error.strerror}); give another with -o") from None
    write_atomically(folder / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    write_atomically(folder / "report.md", _markdown(outcome, report).encode())
    return report


def rows(report: dict[str, object]) -> list[tuple[str, str]]:
    """Return the figures that matter most as names and texts, for tables."""
    pictures, layers, packets = (_table(report, name) for name in ("pictures", "layers", "packets"))
    sizes, latency, forward = (_table(report, name) for name in ("bytes", "latency", "forward"))
    submitted = _number(pictures, "submitted")
    line, payload = _number(sizes, "line_forward"), _number(sizes, "layers_received")
    result = [
        ("virtual time", f"{_number(report, 'seconds'):,.1f} s"),
        ("pictures submitted", f"{submitted:,.0f}"),
        ("base layer arrived", _share(_number(pictures, "base_complete"), submitted)),
        ("complete", _share(_number(pictures, "complete"), submitted)),
        ("layers lost for good", f"{_number(layers, 'residual_loss'):.3%}"),
        ("layers with wrong bytes", f"{_number(pictures, 'damaged_layers'):.0f}"),
    ]
    for name, title in (("base", "base layer after"), ("complete", "whole picture after")):
        times = _table(latency, name)
        if times:
            text = ", ".join(f"{key} {_number(times, key):,.2f} s" for key in ("p50", "p95", "p99", "p100"))
            result.append((title, text))
    result += [
        ("goodput", f"{_number(report, 'goodput'):,.0f} bit/s"),
        (
            "packets lost on the way",
            f"{_number(forward, 'loss_rate'):.2%}, mean burst {_number(forward, 'mean_burst'):.2f}",
        ),
        ("packets dropped by a full queue", f"{_number(forward, 'queue_dropped'):,.0f}"),
        ("packets damaged / doubled / reordered", _three(forward, "damaged", "duplicated", "reordered")),
        ("source / repair / resent packets", _three(packets, "source", "repair", "resent")),
        ("control packets back", f"{_number(packets, 'control'):,.0f}"),
        ("layer bytes per line byte", f"{payload / line if line else 0.0:.3f}"),
    ]
    return result


def _markdown(outcome: Outcome, report: dict[str, object]) -> str:
    scenario = outcome.scenario
    lines = [f"# {scenario.name}", "", scenario.description, "", f"Seed {scenario.seed}.", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {text} |" for name, text in rows(report)]
    lines += ["", "## Bytes", "", "| what | bytes |", "|---|---:|"]
    lines += [f"| {name.replace('_', ' ')} | {size:,} |" for name, size in _table(report, "bytes").items()]
    lines += [
        "",
        "Times run from a picture's submission to its arrival at the station. `report.json` has every counter.",
        "",
    ]
    return "\n".join(lines)


def _share(part: float, whole: float) -> str:
    return f"{part:,.0f} ({part / whole:.2%})" if whole else "0"


def _three(table: dict[str, object], *names: str) -> str:
    return " / ".join(f"{_number(table, name):,.0f}" for name in names)


def _table(report: dict[str, object], name: str) -> dict[str, object]:
    table = report[name]
    assert isinstance(table, dict)
    return table


def _number(table: dict[str, object], name: str) -> float:
    value = table[name]
    assert isinstance(value, int | float)
    return float(value)


def _sum_senders(senders: Sequence[SenderStatistics]) -> SenderStatistics:
    total = SenderStatistics()
    for field in dataclasses.fields(SenderStatistics):
        values = [value for s in senders if (value := getattr(s, field.name)) is not None]
        if field.name == "round_trip":
            total.round_trip = sum(values) / len(values) if values else None
        else:
            setattr(total, field.name, sum(values))
    return total


def _channel_sums(channels: Sequence[ChannelStatistics]) -> dict[str, object]:
    total = ChannelStatistics()
    for field in dataclasses.fields(ChannelStatistics):
        values = [getattr(channel, field.name) for channel in channels]
        setattr(total, field.name, max(values) if field.name == "longest_burst" else sum(values))
    return {**dataclasses.asdict(total), "loss_rate": total.loss_rate, "mean_burst": total.mean_burst}


def _without_none(values: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _rounded(value: object) -> object:
    # Six decimals hide nothing that matters and keep reports readable.
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, _DECIMALS) if isinstance(value, float) else value
