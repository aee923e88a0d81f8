"""What the link adds to a picture's layers, and what Reed-Solomon costs: the tables of ``docs/protocol.md``.

    python -m benchmarks.link_overhead

Bytes are counted on packets made by the real sender session, after the station has answered once (short headers), and
without loss: what repair adds depends on the channel and is measured by the simulator.
"""

import timeit

import numpy as np
import reedsolo

from shared.link import LinkConfig, SenderSession, Station, reed_solomon

PICTURES = {
    "512 B": (120, 140, 140, 112),
    "1 KB": (200, 300, 300, 224),
    "2 KB": (300, 600, 700, 448),
    "6 KB": (700, 1700, 2000, 1600),
}


def bytes_sent(config: LinkConfig, sizes: tuple[int, ...], pictures: int) -> tuple[float, float]:
    """Bytes beyond the layers and packets, per picture; pictures are submitted together, after a first one."""
    session = SenderSession.unsealed(config, sender=0x1234ABCD, epoch=1, now=0.0)
    station = Station(config, now=0.0)
    session.submit(999, [b"first"], 0.0)
    _settle(session, station, 0.0)
    before = session.statistics.bytes_sent, session.statistics.packets_sent
    now = 100.0
    for number in range(1000, 1000 + pictures):
        session.submit(number, [bytes(size) for size in sizes], now)
    _settle(session, station, now)
    added = session.statistics.bytes_sent - before[0] - pictures * sum(sizes)
    return added / pictures, (session.statistics.packets_sent - before[1]) / pictures


def _settle(session: SenderSession, station: Station, now: float) -> None:
    for moment in np.arange(now, now + 5.0, 0.5).tolist():
        for packet, _ in session.packets_to_send(moment):
            station.receive_packet(packet, moment)
        while (event := station.next_event()) is not None:
            station.acknowledge(event.sender, event.sequence, event.layer, moment)
        for _, packet in station.packets_to_send(moment):
            session.receive_packet(packet, moment)


def overhead_table() -> list[str]:
    """Rows of a Markdown table."""
    rows = [
        "| packet | parity (base / refinements) | pictures together | picture | added bytes | added | packets |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for packet_bytes in (1200, 256):
        for base_parity, parity in ((0.0, 0.0), (0.5, 0.25)):
            for together in (1, 4):
                for name, sizes in PICTURES.items():
                    config = LinkConfig(packet_bytes=packet_bytes, parity=parity, base_parity=base_parity)
                    added, packets = bytes_sent(config, sizes, together)
                    rows.append(
                        f"| {packet_bytes} | {base_parity:g} / {parity:g} | {together} | {name} | {added:.1f} | "
                        f"{100 * added / sum(sizes):.1f} % | {packets:.2f} |"
                    )
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
    """Print both tables."""
    print("\n".join([*overhead_table(), "", *code_table()]))


if __name__ == "__main__":
    main()
