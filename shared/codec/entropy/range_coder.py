"""Range coding of grouped symbols, on constriction, with an escape and no wasted bytes at the end.

constriction codes fast when many symbols share one model, so symbols are grouped by table. It knows no symbol outside
a table: a table's last entry, the escape, says "beyond", and an Exp-Golomb code over uniform bits says how far.
"""

from itertools import pairwise
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from shared.codec.entropy.tables import TOTAL, SymbolTable
from shared.errors import CorruptDataError

_queue = constriction.stream.queue
_model = constriction.stream.model
Symbols = NDArray[np.int32]
TableNumbers = NDArray[np.integer[Any]]
"""Numbers of tables, one a symbol, in any type of integer."""
LARGEST_EXCESS_BITS = 15
"""An escaped symbol lies less than 2^15 beyond its table."""


class CoderModels:
    """constriction's models of a list of tables, made once."""

    def __init__(self, tables: tuple[SymbolTable, ...]) -> None:
        self.tables = tables
        # Exact multiples of 2^-16 leave constriction's own conversion to fixed point nothing to decide.
        self.models = [_model.Categorical(table.counts / TOTAL, perfect=False) for table in tables]


class SymbolEncoder:
    """Encodes groups of symbols into one byte string."""

    def __init__(self) -> None:
        self._encoder = _queue.RangeEncoder()

    def encode(self, symbols: Symbols, index: TableNumbers, models: CoderModels) -> None:
        """Append symbols.

        Args:
            symbols: ``n`` integers, magnitude below 2^15.
            index: ``n`` table numbers into ``models``.
            models: the tables.
        """
        order, groups = _group(index)
        escapes: list[int] = []
        for number, part in groups:
            table = models.tables[number]
            positions = symbols[order[part]] - table.first
            outside = (positions < 0) | (positions >= table.symbols)
            if outside.any():
                escapes += [int(p) if p < 0 else int(p) - table.symbols + 1 for p in positions[outside]]
                positions = np.where(outside, table.symbols, positions)
            self._encoder.encode(positions.astype(np.int32), models.models[number])
        for excess in escapes:
            self._encode_excess(excess)

    def _encode_excess(self, excess: int) -> None:
        magnitude = abs(excess)
        bits = magnitude.bit_length() - 1
        self._uniform(bits, LARGEST_EXCESS_BITS + 1)
        self._uniform(int(excess < 0), 2)
        if bits:
            self._uniform(magnitude - (1 << bits), 1 << bits)

    def _uniform(self, value: int, size: int) -> None:
        self._encoder.encode(np.array([value], np.int32), _model.Uniform(size))

    def finish(self) -> bytes:
        """Return the shortest byte string that decodes to the symbols when followed by zeros.

        The coder's state is an interval; any number in it will do, and the one with the most trailing zero bytes is
        the shortest to write. constriction itself ends on whole 32-bit words.
        """
        words, (lower, width) = self._encoder.pos()
        sealed = self._encoder.get_compressed()
        prefix = int.from_bytes(sealed[:words].astype(">u4").tobytes(), "big")
        if lower + 0xFFFFFFFF >= 1 << 64:
            # Sealing rounded up past the end of the state and carried into the words already written.
            prefix -= 1
        for kept in range(9):
            step = 1 << 8 * (8 - kept)
            value = -(-lower // step) * step
            if value < lower + width:
                break
        whole = (prefix << 8 * kept) + value // step
        data: bytes = whole.to_bytes(words * 4 + kept, "big").rstrip(b"\0")
        return data


class SymbolDecoder:
    """Decodes what `SymbolEncoder` encoded, in the same groups.

    Args:
        data: the encoder's bytes.
        name: what errors call them.
    """

    def __init__(self, data: bytes, name: str = "layer") -> None:
        self._name = name
        padded = data + bytes(-len(data) % 4 + 8)
        self._decoder = _queue.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))

    def decode(self, index: TableNumbers, models: CoderModels) -> Symbols:
        """Decode ``len(index)`` symbols of the given tables.

        Raises:
            CorruptDataError: if the bytes cannot come from an encoder.
        """
        order, groups = _group(index)
        grouped = np.empty(len(index), np.int32)
        escaped: list[tuple[int, SymbolTable]] = []
        try:
            for number, part in groups:
                table = models.tables[number]
                positions = self._decoder.decode(models.models[number], part.stop - part.start)
                grouped[part] = positions + table.first
                escaped += [(part.start + int(i), table) for i in np.flatnonzero(positions == table.symbols)]
            for position, table in escaped:
                excess = self._decode_excess()
                grouped[position] = table.first + (excess if excess < 0 else excess + table.symbols - 1)
        except (AssertionError, ValueError) as error:
            raise CorruptDataError(f"{self._name} cannot be decoded: its bytes are damaged; send it again") from error
        symbols = np.empty_like(grouped)
        symbols[order] = grouped
        return symbols

    def _decode_excess(self) -> int:
        bits = self._uniform(LARGEST_EXCESS_BITS + 1)
        negative = self._uniform(2)
        magnitude = (1 << bits) + (self._uniform(1 << bits) if bits else 0)
        return -magnitude if negative else magnitude

    def _uniform(self, size: int) -> int:
        return int(self._decoder.decode(_model.Uniform(size), 1)[0])


def _group(index: TableNumbers) -> tuple[NDArray[np.intp], list[tuple[int, slice]]]:
    """Return the order that sorts symbols by table, and each table's run in it."""
    order = np.argsort(index, kind="stable")
    grouped = index[order]
    bounds = [0, *(np.flatnonzero(grouped[1:] != grouped[:-1]) + 1).tolist(), len(index)]
    return order, [(int(grouped[a]), slice(a, b)) for a, b in pairwise(bounds) if a < b]
