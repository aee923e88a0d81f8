"""The values that pass between the parts of an evaluation: a piece of work, the outcome."""

from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import PinholeError
from training.evaluation.candidates import Candidate, Target
from training.evaluation.datasets import Source
from training.evaluation.results import RateResult, Result, SetResult
from training.evaluation.store import Key


@dataclass(frozen=True)
class Work:
    """One picture at one target of one candidate.

    Attributes:
        source: the picture.
        marks: its fingerprint.
        candidate: what codes it.
        target: at which point.
        matched: bytes to match; None unless the candidate matches.
    """

    source: Source
    marks: str
    candidate: Candidate
    target: Target
    matched: int | None

    def key(self, variant: str) -> Key:
        """Return what the figures of a variant depend on."""
        version = self.candidate.version
        return Key(self.marks, self.candidate.name, version, variant, self.target.name, self.matched)

    def place(self, variant: str = "") -> str:
        """Say where we are, for people."""
        return " ".join(filter(None, (self.source.name, self.candidate.name, variant, f"at {self.target.name}")))


@dataclass(frozen=True)
class Kept:
    """A decoded picture that was written for the page.

    Attributes:
        result: its figures.
        path: the PNG file.
    """

    result: Result
    path: Path


@dataclass
class Outcome:
    """What a run found, in the order of pictures, candidates, targets and variants.

    Attributes:
        results: one for each decode.
        set_results: one for each point of a curve.
        rates: actual bytes against estimates.
        originals: files of the originals that are shown, by the picture's name.
        kept: decoded pictures that are shown.
        failures: one line for each thing that went wrong.
    """

    results: list[Result] = field(default_factory=list)
    set_results: list[SetResult] = field(default_factory=list)
    rates: list[RateResult] = field(default_factory=list)
    originals: dict[str, Path] = field(default_factory=dict)
    kept: list[Kept] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def reason(error: Exception) -> str:
    """Return an error as one line; the kind of one that is not our own says more than its text."""
    text = str(error) if isinstance(error, PinholeError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())
