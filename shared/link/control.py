"""Control messages from the station to a sender: msgpack arrays without keys."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

import msgpack

from shared.errors import CorruptDataError
from shared.link.frames import LARGEST_SEQUENCE, MOST_LAYERS
from shared.link.gilbert import GilbertFit
from shared.link.packet import BLOCK_NUMBERS, COUNTERS
from shared.link.reed_solomon import LONGEST_CODE_WORD

_MOST_ENTRIES = 65536
_PARTS = 7

MOST_OTHERS = 256
"""Blocks after the first one that is not stored about which a report can speak."""


class Request(NamedTuple):
    """Ask for repair.

    Attributes:
        block: number of the block modulo 2**16.
        needed: symbols that are wanting, 0 if nothing at all is known of the block.
        missing: bit i of byte i // 8 (lowest first) says that source symbol i is wanting; empty if unknown.
    """

    block: int
    needed: int
    missing: bytes

    def misses(self, index: int) -> bool:
        """Whether source symbol ``index`` is known to be missing."""
        return index // 8 < len(self.missing) and bool(self.missing[index // 8] >> index % 8 & 1)


class Echo(NamedTuple):
    """The packet heard last: lets the sender measure the round trip.

    Attributes:
        counter: of that packet, modulo 2**16.
        held: milliseconds between its arrival and the report.
    """

    counter: int
    held: int


class StoredBlocks(NamedTuple):
    """Blocks all of whose layers are stored; said again in every report, so that a lost one costs nothing.

    Attributes:
        first: number of the first block of the run, modulo 2**16.
        run: so many blocks from it on are stored.
        others: bit i of byte i // 8 (lowest first) says that block ``first + run + 1 + i`` is stored as well.
    """

    first: int
    run: int
    others: bytes

    def numbers(self) -> Iterator[int]:
        """The blocks' numbers modulo 2**16."""
        for step in range(self.run):
            yield (self.first + step) % BLOCK_NUMBERS
        start = self.first + self.run + 1
        for i in range(8 * len(self.others)):
            if self.others[i // 8] >> i % 8 & 1:
                yield (start + i) % BLOCK_NUMBERS


class TakenNumbers(NamedTuple):
    """Numbers under which the station has other pictures, so that the sender must give its own new ones.

    Attributes:
        highest: largest number of a picture that the station has of this sender, at least the last of ``sequences``.
        sequences: the numbers of the sender's pictures, rising, at least one.
    """

    highest: int
    sequences: tuple[int, ...]


@dataclass(frozen=True)
class Report:
    """All that a station tells a sender.

    Attributes:
        acknowledged: (sequence, layers as a bit set, bit 0 the base), stored durably.
        requests: blocks that want repair.
        complete: blocks that are whole although some of their layers are not acknowledged yet.
        echo: the packet heard last, None if there is nothing new to measure.
        stored: blocks that are whole and stored, None if there are none.
        fit: what the channel does to packets, None if it is not known or as it was said last.
        taken: numbers that other pictures have, None if nothing is to be said of them.
    """

    acknowledged: tuple[tuple[int, int], ...] = ()
    requests: tuple[Request, ...] = ()
    complete: tuple[int, ...] = ()
    echo: Echo | None = None
    stored: StoredBlocks | None = None
    fit: GilbertFit | None = None
    taken: TakenNumbers | None = None


def encode_report(report: Report) -> bytes:
    """The report as a msgpack array; empty parts at its end are left out."""
    acknowledged: list[int] = []
    before = 0
    for sequence, layers in sorted(report.acknowledged):
        # Differences of sorted numbers mostly take one byte where the numbers take three or five.
        acknowledged += (sequence - before, layers)
        before = sequence
    requests: list[int | bytes] = []
    for request in report.requests:
        requests += request
    message: list[Sequence[object]] = [
        acknowledged,
        [*(report.echo or ())],
        requests,
        report.complete,
        [*(report.stored or ())],
        () if report.fit is None else report.fit.to_wire(),
        () if report.taken is None else _steps(report.taken),
    ]
    while message and not message[-1]:
        message.pop()
    packed: bytes = msgpack.packb(message)
    return packed


def _steps(taken: TakenNumbers) -> list[int]:
    """The largest number, then the rising ones as differences."""
    return [taken.highest, *map(int.__sub__, taken.sequences, (0, *taken.sequences))]


def pack_report(report: Report, room: int) -> list[bytes]:
    """Reports of at most ``room`` bytes each that say it all together, as far as each single thing fits."""
    message = encode_report(report)
    if len(message) <= room:
        return [message]
    lists = replace(report, echo=None, stored=None, fit=None, taken=None)
    if lists != report:
        rest = [Report(echo=report.echo), Report(stored=report.stored), Report(fit=report.fit)]
        packed = [packed for part in (lists, *rest) if part != Report() for packed in _pack_lists(part, room)]
        return packed if report.taken is None else packed + _pack_taken(report.taken, room)
    return _pack_lists(report, room)


def _pack_taken(taken: TakenNumbers, room: int) -> list[bytes]:
    message = encode_report(Report(taken=taken))
    if len(message) <= room:
        return [message]
    half = len(taken.sequences) // 2
    if half == 0:
        return []  # no room for it here, in which no report has any
    parts = taken.sequences[:half], taken.sequences[half:]
    return [packed for part in parts for packed in _pack_taken(taken._replace(sequences=part), room)]


def _pack_lists(report: Report, room: int) -> list[bytes]:
    message = encode_report(report)
    lists = {"acknowledged": report.acknowledged, "requests": report.requests, "complete": report.complete}
    longest = max(lists, key=lambda name: len(lists[name]))
    half = len(lists[longest]) // 2
    if len(message) <= room:
        return [message]
    if half == 0:
        alone = [Report(**{name: entries}) for name, entries in lists.items() if entries]  # type: ignore[arg-type]
        if len(alone) <= 1:
            return []  # no room for it here; it is said again, or asked for
        return [packed for part in alone for packed in _pack_lists(part, room)]
    first = replace(report, **{longest: lists[longest][:half]})  # type: ignore[arg-type]
    second = Report(**{longest: lists[longest][half:]})  # type: ignore[arg-type]
    return [*_pack_lists(first, room), *_pack_lists(second, room)]


def parse_report(message: bytes) -> Report:
    """Read a report.

    Raises:
        CorruptDataError: if it is anything else.
    """
    try:
        parts = msgpack.unpackb(message, max_array_len=_MOST_ENTRIES, max_bin_len=64, max_str_len=0, max_map_len=0)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise CorruptDataError("a control message is not msgpack") from error
    if not isinstance(parts, list) or len(parts) > _PARTS or not all(isinstance(part, list) for part in parts):
        raise CorruptDataError("a control message is no report")
    parts += [[]] * (_PARTS - len(parts))
    acknowledged, echo, requests, complete, stored, fit, taken = parts
    return Report(
        _acknowledged(acknowledged),
        _requests(requests),
        _complete(complete),
        _echo(echo),
        _stored(stored),
        _fit(fit),
        _taken(taken),
    )


def _acknowledged(values: list[object]) -> tuple[tuple[int, int], ...]:
    if len(values) % 2:
        raise CorruptDataError("a report acknowledges half a layer")
    found = []
    sequence = 0
    for step, layers in zip(values[::2], values[1::2], strict=True):
        sequence += _number(step, LARGEST_SEQUENCE)
        if sequence > LARGEST_SEQUENCE:
            raise CorruptDataError("a report acknowledges a picture that cannot be")
        found.append((sequence, _number(layers, (1 << MOST_LAYERS) - 1)))
    return tuple(found)


def _requests(values: list[object]) -> tuple[Request, ...]:
    if len(values) % 3:
        raise CorruptDataError("a report asks for a part of a block that cannot be")
    found = []
    for block, needed, missing in zip(values[::3], values[1::3], values[2::3], strict=True):
        if not isinstance(missing, bytes) or len(missing) > (LONGEST_CODE_WORD + 7) // 8:
            raise CorruptDataError("a report's list of missing symbols is no bit set")
        found.append(Request(_number(block, BLOCK_NUMBERS - 1), _number(needed, LONGEST_CODE_WORD), missing))
    return tuple(found)


def _complete(values: list[object]) -> tuple[int, ...]:
    return tuple(_number(block, BLOCK_NUMBERS - 1) for block in values)


def _echo(values: list[object]) -> Echo | None:
    if not values:
        return None
    if len(values) != 2:
        raise CorruptDataError("a report echoes something that is no packet")
    return Echo(_number(values[0], COUNTERS - 1), _number(values[1], 0xFFFFFFFF))


def _stored(values: list[object]) -> StoredBlocks | None:
    if not values:
        return None
    if len(values) != 3 or not isinstance(values[2], bytes) or len(values[2]) > MOST_OTHERS // 8:
        raise CorruptDataError("a report lists stored blocks that cannot be")
    return StoredBlocks(_number(values[0], BLOCK_NUMBERS - 1), _number(values[1], BLOCK_NUMBERS // 4), values[2])


def _fit(values: list[object]) -> GilbertFit | None:
    if not values:
        return None
    return GilbertFit.from_wire(values)


def _taken(values: list[object]) -> TakenNumbers | None:
    if not values:
        return None
    highest, *steps = (_number(value, LARGEST_SEQUENCE) for value in values)
    sequences = tuple(accumulate(steps))
    if not sequences or 0 in steps[1:] or sequences[-1] > highest:
        raise CorruptDataError("a report says of numbers that cannot be that they are taken")
    return TakenNumbers(highest, sequences)


def _number(value: object, largest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        raise CorruptDataError("a report holds something that is not a number in range")
    return value
