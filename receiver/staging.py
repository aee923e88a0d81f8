"""Decoding in three stages, so that one picture is read and another painted while a batch is being diffused."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from receiver.pictures import Painted, Stage
from shared.codec.interfaces import PictureDecoder


@dataclass(frozen=True)
class DecodeRequest:
    """All an engine needs to know, small and plain enough to travel to another machine.

    Attributes:
        layers: a prefix of a picture's layers, the base first.
        stage: preview or full decode.
        steps: steps of diffusion, None for the decoder's default.
        seed: seed of the diffusion.
    """

    layers: Sequence[bytes]
    stage: Stage
    steps: int | None
    seed: int


class StagedDecoder(Protocol):
    """A decoder whose stages run on threads of their own, each stage on one thread at a time.

    What passes from stage to stage is the decoder's own business.
    """

    @property
    def bundle_id(self) -> bytes:
        """First four bytes of the hash of the bundle it decodes with."""

    @property
    def batch(self) -> int:
        """Pictures that `diffuse` takes at once at most."""

    @property
    def overlaps(self) -> bool:
        """Whether `paint` should run while `diffuse` does."""

    def read(self, request: DecodeRequest) -> Any:
        """Turn layers into something to be diffused."""

    def key(self, task: Any) -> Hashable:
        """Return what pictures of one batch must have in common."""

    def diffuse(self, tasks: Sequence[Any]) -> Sequence[Any]:
        """Diffuse a batch of one key."""

    def paint(self, diffused: Any) -> Painted:
        """Turn what was diffused into pixels."""

    def warm_up(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Get ready for pictures of these widths and heights."""


class OneStage:
    """Any picture decoder as a staged one, whose last stage does it all.

    Args:
        decoder: the decoder.
    """

    batch = 1
    overlaps = False

    def __init__(self, decoder: PictureDecoder) -> None:
        self._decoder = decoder

    @property
    def bundle_id(self) -> bytes:
        """First four bytes of the hash of the decoder's bundle."""
        return self._decoder.bundle_id

    def read(self, request: DecodeRequest) -> DecodeRequest:
        """Return the request."""
        return request

    def key(self, task: DecodeRequest) -> Hashable:
        """Return the stage."""
        return task.stage

    def diffuse(self, tasks: Sequence[DecodeRequest]) -> Sequence[DecodeRequest]:
        """Return the requests."""
        return tasks

    def paint(self, diffused: DecodeRequest) -> Painted:
        """Decode."""
        if diffused.stage is Stage.PREVIEW:
            return Painted(self._decoder.preview(diffused.layers))
        return Painted(self._decoder.decode(diffused.layers, steps=diffused.steps, seed=diffused.seed))

    def warm_up(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Do nothing."""


def staged(decoder: "PictureDecoder | StagedDecoder") -> StagedDecoder:
    """Return a decoder as a staged one."""
    if isinstance(decoder, OneStage) or hasattr(decoder, "diffuse"):
        return cast(StagedDecoder, decoder)
    return OneStage(decoder)
