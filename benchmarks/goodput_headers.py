"""Bytes of headers and seals; ``benchmarks.goodput`` prints them."""

from benchmarks.link_sessions import sender_envelope, station_gate
from shared.link.envelope import StationEnvelope
from shared.link.packet import CODED, DataPacket, encode_data, encode_reset, encode_versions, place_bytes

SIZES = (1200, 200, 48)


def header_table() -> list[str]:
    """Rows of a Markdown table: bytes that are not symbol or message, and their share of full packets."""
    rows = [
        "| packet | header, place | seal or checksum | together | " + " | ".join(f"of {size}" for size in SIZES) + " |",
        "|---|---:|---:|---:|" + "---:|" * len(SIZES),
    ]
    for sealed in (False, True):
        kind = "sealed" if sealed else "unsealed"
        tail = 16 if sealed else 4
        for known in (True,) if sealed else (True, False):
            for coded in (False, True):
                total = _overhead(sealed=sealed, known=known) + place_bytes(coded=coded)
                name = f"{kind}{'' if sealed else ', short' if known else ', long'}, {'coded' if coded else 'uncoded'}"
                rows.append(_row(name, total, tail))
        rows.append(_row(f"{kind}, report", _report_overhead(sealed=sealed), tail))
    for size in (200, 48):
        hello = sender_envelope(0, sealed=True).hello(size)
        rows.append(f"| hello, packets of {size} (whole) | | | {' + '.join(str(len(p)) for p in hello)} |" + " |" * 3)
    question = len(sender_envelope(0, sealed=True).wrap(CODED, encode_data(DataPacket(1, 0, 4, 4, b"")), known=True))
    for name, size in (
        ("question, sealed", question),
        ("reset", len(encode_reset(0))),
        ("version answer", len(encode_versions(b""))),
    ):
        rows.append(f"| {name} (whole) | | | {size} |" + " |" * len(SIZES))
    return rows


def _row(name: str, total: int, tail: int) -> str:
    shares = " | ".join(f"{100 * total / size:.1f} %" for size in SIZES)
    return f"| {name} | {total - tail} | {tail} | {total} | {shares} |"


def _overhead(*, sealed: bool, known: bool) -> int:
    """Bytes of a packet around its body, measured on one."""
    return len(sender_envelope(0, sealed=sealed).wrap(0, b"body", known=known)) - len(b"body")


def _report_overhead(*, sealed: bool) -> int:
    """Bytes of a control packet around its message, measured on one."""
    envelope = _met(sealed=sealed)
    return len(envelope.wrap(b"message")) - len(b"message")


def _met(*, sealed: bool) -> StationEnvelope:
    """The station's side of a session that has just begun."""
    sender = sender_envelope(0, sealed=sealed)
    gate = station_gate(1, sealed=sealed)
    admitted = None
    for packet in [*sender.hello(1200), sender.wrap(0, b"body", known=False)]:
        admitted = gate.admit(packet)
    if admitted is None:
        raise RuntimeError("the station did not let its sender in")
    return admitted.envelope
