"""What the link adds to a picture's layers, and what Reed-Solomon costs: the tables of ``docs/protocol.md``.

    python -m benchmarks.link_overhead

Bytes are counted on packets made by the real sender session, after the station has answered a first picture, and
without loss: what repair adds depends on the channel and is measured by the simulator.
"""

import timeit

import numpy as np
import reedsolo

from benchmarks.link_sessions import make_sender, make_station, sender_envelope, station_gate
from shared.link import LinkConfig, SenderSession, Station, reed_solomon
from shared.link.control import Report as Message
from shared.link.control import encode_report
from shared.link.envelope import StationEnvelope
from shared.link.packet import DataPacket, encode_data, encode_reset, encode_versions

PICTURES = {
    "512 B": (120, 140, 140, 112),
    "1 KB": (200, 300, 300, 224),
    "2 KB": (300, 600, 700, 448),
    "6 KB": (700, 1700, 2000, 1600),
}
SIZES = (1200, 256, 200, 48)

PARITIES = {
    "uncoded": {"parity": 0.0, "base_parity": 0.0},
    "coded, nothing unasked": {"parity": 0.0, "base_parity": 0.0, "adapt": True},
    "parity 0.5 / 0.25": {"parity": 0.25, "base_parity": 0.5},
}
"""What is set, by the name in the table: ``adapt`` on a good link sends repair symbols on request only."""

_SYMBOL = b"symbol"


def header_table() -> list[str]:
    """Rows of a Markdown table: bytes that are not symbol or message, measured on packets, and their share."""
    rows = [
        "| packet | header, place | check or seal | together | " + " | ".join(f"of {size}" for size in SIZES) + " |",
        "|---|---:|---:|---:|" + "---:|" * len(SIZES),
    ]
    for sealed in (False, True):
        kind, check = ("sealed", 16) if sealed else ("unsealed", 4)
        for known in (True,) if sealed else (True, False):
            form = "" if sealed else ", short" if known else ", long"
            for coding, packet in (("uncoded", _packet(0)), ("coded", _packet(4))):
                data = sender_envelope(0, sealed=sealed).wrap(packet.flags, encode_data(packet), known=known)
                rows.append(_row(f"{kind}{form}, {coding}", len(data) - len(_SYMBOL), check))
        message = encode_report(Message(complete=(1,)))
        report = _met(sealed=sealed).wrap(message)
        rows.append(_row(f"{kind}, report", len(report) - len(message), check))
    empty = " |" * len(SIZES)
    whole, halves = (sender_envelope(0, sealed=True).hello(size) for size in (SIZES[0], SIZES[-1]))
    question = encode_data(DataPacket(1, 0, 1, 0, b""))
    for name, sizes in (
        ("hello", [len(packet) for packet in whole]),
        ("hello in packets below 66", [len(packet) for packet in halves]),
        ("question, sealed", [len(sender_envelope(0, sealed=True).wrap(0, question, known=True))]),
        ("question, unsealed", [len(sender_envelope(0, sealed=False).wrap(0, question, known=False))]),
        ("reset", [len(encode_reset(0))]),
        ("version answer", [len(encode_versions(b""))]),
    ):
        rows.append(f"| {name} (whole) | | | {' + '.join(map(str, sizes))} |{empty}")
    return rows


def _packet(m: int) -> DataPacket:
    return DataPacket(1, 0, 4 if m else 1, m, _SYMBOL)


def _row(name: str, total: int, check: int) -> str:
    shares = " | ".join(f"{100 * total / size:.1f} %" for size in SIZES)
    return f"| {name} | {total - check} | {check} | {total} | {shares} |"


def _met(*, sealed: bool) -> StationEnvelope:
    """The station's side of a session that has just begun."""
    sender, gate = sender_envelope(0, sealed=sealed), station_gate(1, sealed=sealed)
    admitted = None
    for packet in (*sender.hello(SIZES[0]), sender.wrap(0, encode_data(_packet(0)), known=False)):
        admitted = gate.admit(packet)
    if admitted is None:
        raise RuntimeError("the station did not let its sender in")
    return admitted.envelope


def bytes_sent(
    config: LinkConfig, sizes: tuple[int, ...], pictures: int, *, sealed: bool = False
) -> tuple[float, float]:
    """Bytes beyond the layers and packets, per picture, all submitted together after others that the station has."""
    session = make_sender(config, 0, sealed=sealed, now=0.0)
    station = make_station(config, senders=1, sealed=sealed, now=0.0)
    now = 0.0
    # So many that the station has described the channel, where the session wants to know.
    for number in range(900, 940):
        session.submit(number, [bytes(100)], now)
        now = _settle(session, station, now)
    before = session.statistics.bytes_sent, session.statistics.packets_sent
    for number in range(1000, 1000 + pictures):
        session.submit(number, [bytes(size) for size in sizes], now)
    _settle(session, station, now)
    added = session.statistics.bytes_sent - before[0] - pictures * sum(sizes)
    return added / pictures, (session.statistics.packets_sent - before[1]) / pictures


def _settle(session: SenderSession, station: Station, now: float) -> float:
    """Let both ends talk for five seconds; returns the time then."""
    for moment in np.arange(now, now + 5.0, 0.5).tolist():
        for packet, _ in session.packets_to_send(moment):
            station.receive_packet(packet, moment)
        while (event := station.next_event()) is not None:
            station.acknowledge(event.sender, event.sequence, event.layer, moment)
        for _, packet in station.packets_to_send(moment):
            session.receive_packet(packet, moment)
    return now + 5.0


def overhead_table(together: int, packets: tuple[int, ...] = SIZES) -> list[str]:
    """Rows of a Markdown table: bytes added to a picture, of which so many are submitted together."""
    kinds = [(sealed, name) for sealed in (False, True) for name in PARITIES]
    rows = [
        "| packet | picture | "
        + " | ".join(f"{'sealed' if sealed else 'unsealed'}: {name}" for sealed, name in kinds)
        + " |",
        "|---:|---:|" + "---:|" * len(kinds),
    ]
    for packet_bytes in packets:
        for name, sizes in PICTURES.items():
            cells = []
            for sealed, parity in kinds:
                config = LinkConfig(packet_bytes=packet_bytes, **PARITIES[parity])  # type: ignore[arg-type]
                added, _ = bytes_sent(config, sizes, together, sealed=sealed)
                cells.append(f"{added:.0f} ({100 * added / sum(sizes):.1f} %)")
            rows.append(f"| {packet_bytes} | {name} | {' | '.join(cells)} |")
    return rows


def code_table(k: int = 12, m: int = 6, length: int = 256) -> list[str]:
    """Rows of a Markdown table: time per block against `reedsolo`, column by column."""
    sources = np.random.default_rng(0).integers(0, 256, (k, length), dtype=np.uint8)
    word = np.concatenate([sources, reed_solomon.encode(sources, m)])
    erased = [*range(0, 2 * m, 2)]
    symbols = {index: word[index] for index in range(k + m) if index not in erased}
    codec = reedsolo.RSCodec(m)
    columns = [sources[:, column].tobytes() for column in range(length)]
    words = [bytes(0 if i in erased else int(word[i, c]) for i in range(k + m)) for c in range(length)]
    for column, message in zip(words, columns, strict=True):
        if bytes(codec.decode(column, erase_pos=erased)[0]) != message:
            raise AssertionError("the code words differ")

    def best(action: object, number: int) -> float:
        return min(timeit.repeat(action, number=number, repeat=5)) / number * 1e6  # type: ignore[arg-type]

    encode = best(lambda: reed_solomon.encode(sources, m), 200)
    restore = best(lambda: reed_solomon.restore(symbols, k, m), 200)
    slow_encode = best(lambda: [codec.encode(column) for column in columns], 1)
    slow_restore = best(lambda: [codec.decode(column, erase_pos=erased) for column in words], 1)
    return [
        f"| k={k}, m={m}, {length}-byte symbols | here | `reedsolo` | ratio |",
        "|---|---:|---:|---:|",
        f"| encode | {encode:.0f} us | {slow_encode:.0f} us | {slow_encode / encode:.0f} |",
        f"| restore {m} of them | {restore:.0f} us | {slow_restore:.0f} us | {slow_restore / restore:.0f} |",
    ]


def main() -> None:
    """Print all tables."""
    print("\n".join([*header_table(), "", *overhead_table(1), "", *overhead_table(4, SIZES[:2]), "", *code_table()]))


if __name__ == "__main__":
    main()
