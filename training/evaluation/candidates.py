"""What can be measured: anything that codes a picture and decodes it again, at one or more points of a curve.

A bundle, a peer codec and a bundle under training are all candidates; the runner knows nothing else of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.codec.interfaces import Pixels


@dataclass(frozen=True)
class Target:
    """One operating point and how it is to be decoded.

    Attributes:
        name: as in `Result.target`.
        variants: as in `Result.variant`; the first is a decode of the whole file.
    """

    name: str
    variants: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Decoded:
    """One decode.

    Attributes:
        pixels: RGB bytes of the original's shape.
        size: bytes of the file that was decoded.
        seconds: wall-clock time; None where not measured.
    """

    pixels: Pixels
    size: int
    seconds: float | None


@dataclass(frozen=True)
class CodedBytes:
    """Where a file's bytes go; see `RateResult`.

    Attributes:
        estimate: bytes that the coding tables promise.
        payload: bytes of the range coder's strings.
        size: bytes of the whole file.
    """

    estimate: float
    payload: int
    size: int


class Encoded(Protocol):
    """One coded picture."""

    @property
    def size(self) -> int:
        """Bytes of the whole file."""

    @property
    def setting(self) -> str:
        """What the encoder was told, for people."""

    @property
    def note(self) -> str:
        """What a reader of the figures must know; mostly empty."""

    @property
    def seconds(self) -> float | None:
        """Wall-clock seconds of encoding; None where not measured."""

    def decode(self, variant: str) -> Decoded:
        """Decode; two variants that come to the same may return the same object."""

    def coded_bytes(self) -> CodedBytes | None:
        """Compare the file with its entropy model's estimate; None where there is none."""


class Candidate(Protocol):
    """A codec under test."""

    @property
    def name(self) -> str:
        """Name of its curves, unique in a run."""

    @property
    def version(self) -> str:
        """Changes whenever figures may change."""

    @property
    def matches(self) -> bool:
        """Whether it is searched to the bytes of another candidate instead of being told a quality."""

    @property
    def estimates(self) -> bool:
        """Whether `Encoded.coded_bytes` gives something."""

    @property
    def shown(self) -> Sequence[str]:
        """Variants worth a picture on the page."""

    @property
    def targets(self) -> Sequence[Target]:
        """Everything to be measured, fewest bytes first."""

    def encode(self, pixels: Pixels, target: str, size: int | None) -> Encoded:
        """Code a picture; whatever is drawn at random, now or in a decode, follows from its pixels alone.

        Args:
            pixels: RGB bytes ``height x width x 3``.
            target: name of one of `targets`.
            size: bytes to match; None unless `matches`.
        """
