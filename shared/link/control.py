"""Control messages from the station to a sender: msgpack arrays without keys."""

from dataclasses import dataclass, field
from typing import NamedTuple

import msgpack

from shared.errors import CorruptDataError
from shared.link.frames import LARGEST_SEQUENCE, MOST_LAYERS
from shared.link.packet import BLOCK_NUMBERS
from shared.link.reed_solomon import LONGEST_CODE_WORD

_MOST_ENTRIES = 65536


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


@dataclass(frozen=True)
class Echo:
    """The packet heard last: lets the sender measure the round trip.

    Attributes:
        block: number modulo 2**16.
        symbol: its place in the block.
        held: milliseconds between its arrival and the report.
    """

    block: int
    symbol: int
    held: int


@dataclass(frozen=True)
class Report:
    """All that a station tells a sender.

    Attributes:
        acknowledged: (sequence, layers as a bit set, bit 0 the base), stored durably.
        requests: blocks that want repair.
        complete: blocks that are whole although some of their layers are not acknowledged yet.
        echo: the packet heard last, None if there is nothing new to measure.
    """

    acknowledged: tuple[tuple[int, int], ...] = ()
    requests: tuple[Request, ...] = ()
    complete: tuple[int, ...] = ()
    echo: Echo | None = field(default=None)


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
    echo = [] if report.echo is None else [report.echo.block, report.echo.symbol, report.echo.held]
    message: list[list[int] | list[int | bytes]] = [acknowledged, echo, requests]
    message.append(list(report.complete))
    while message and not message[-1]:
        message.pop()
    packed: bytes = msgpack.packb(message)
    return packed


def parse_report(message: bytes) -> Report:
    """Read a report.

    Raises:
        CorruptDataError: if it is anything else.
    """
    try:
        parts = msgpack.unpackb(message, max_array_len=_MOST_ENTRIES, max_bin_len=64, max_str_len=0, max_map_len=0)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise CorruptDataError("a control message is not msgpack") from error
    if not isinstance(parts, list) or len(parts) > 4 or not all(isinstance(part, list) for part in parts):
        raise CorruptDataError("a control message is no report")
    parts += [[]] * (4 - len(parts))
    acknowledged, echo, requests, complete = parts
    return Report(_acknowledged(acknowledged), _requests(requests), _complete(complete), _echo(echo))


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
    if len(values) != 3:
        raise CorruptDataError("a report echoes something that is no symbol")
    return Echo(
        _number(values[0], BLOCK_NUMBERS - 1),
        _number(values[1], LONGEST_CODE_WORD - 1),
        _number(values[2], 0xFFFFFFFF),
    )


def _number(value: object, largest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        raise CorruptDataError("a report holds something that is not a number in range")
    return value
