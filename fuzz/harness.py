"""What a harness is, and how it takes its input apart."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

_T = TypeVar("_T")


class Harness(NamedTuple):
    """One parser, or a few that belong together.

    Attributes:
        about: what is fuzzed, one line.
        run: takes any bytes; whatever it raises is a finding.
        seeds: inputs to begin with, made by the project's own encoders.
        longest: bytes of an input.
    """

    about: str
    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    longest: int = 4096


class Reader:
    """Takes numbers and pieces from the front of an input; what is missing at its end is zero or empty.

    Seeds are written by hand, so the layout is plain: a number takes one or two bytes, a piece its length and then
    its bytes. (Atheris's own provider reads numbers from the end, and would tie the kept inputs to atheris.)
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether something is left."""
        return self._at < len(self._data)

    def byte(self) -> int:
        """The next byte."""
        return (self.take(1) or b"\0")[0]

    def number(self) -> int:
        """The next two bytes, big-endian."""
        return self.byte() << 8 | self.byte()

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes, or those that are left."""
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def piece(self) -> bytes:
        """The next piece, behind its length in one byte."""
        return self.take(self.byte())

    def choose(self, choices: Sequence[_T]) -> _T:
        """One of several, by the next byte."""
        return choices[self.byte() % len(choices)]

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))


def piece(data: bytes) -> bytes:
    """What `Reader.piece` reads, for seeds; at most 255 bytes."""
    return bytes([len(data)]) + data


def demand(holds: bool, complaint: str) -> None:
    """State what must hold.

    Raises:
        AssertionError: if it does not; that is a finding.
    """
    if not holds:
        raise AssertionError(complaint)
