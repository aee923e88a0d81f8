"""What the parts of the ground station tell each other about a picture."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from shared.codec.interfaces import Pixels


class PictureKey(NamedTuple):
    """Identity of a picture for life: who took it and the how-manieth it was."""

    sender: int
    sequence: int

    def __str__(self) -> str:
        """Return the wording of every report line."""
        return f"sender {self.sender:08x} picture {self.sequence}"

    @property
    def seed(self) -> int:
        """Seed of the diffusion, 0 to 2^63 - 1: the same picture is painted the same way on every ground station."""
        return (self.sender << 32 ^ self.sequence) & 0x7FFF_FFFF_FFFF_FFFF


class Stage(StrEnum):
    """How far a decode goes: without diffusion, or with it."""

    PREVIEW = "preview"
    FULL = "picture"


@dataclass(frozen=True)
class Painted:
    """A decoded picture.

    Attributes:
        pixels: RGB bytes ``height x width x 3``.
        flags: what had to be done otherwise than asked, in words.
    """

    pixels: Pixels
    flags: tuple[str, ...] = ()


class State(StrEnum):
    """Where a picture stands in the archive."""

    INCOMPLETE = "incomplete"
    """The base layer is missing, nothing can be shown yet."""
    RECEIVED = "received"
    PREVIEWED = "previewed"
    DECODED = "decoded"
    CORRUPT = "corrupt"
    """Not even the base layer decodes."""
    UNKNOWN_BUNDLE = "bundle unknown"
    """Made with a bundle that this station does not have; the layers are kept."""


@dataclass(frozen=True)
class PictureRecord:
    """One picture as the index knows it.

    Attributes:
        key: who and which.
        layers_total: layers the sender made of it, as far as announced.
        layers_have: length of the gapless run of stored layers that starts at the base.
        layers_bad: fewest layers known not to decode, or None; only shorter prefixes are tried.
        preview_layers: layers in the archived preview, 0 = no preview.
        picture_layers: layers in the archived full decode, 0 = none.
        received: arrival of its first layer, seconds since 1970.
        layer_bytes: bytes of the stored layers, all together.
        state: where it stands.
        bundle: bundle id, 4 bytes, or None while the base is missing or unreadable.
        width: pixels, 0 while unknown.
        height: pixels, 0 while unknown.
        quality: 1 upwards in steps of 1/16, 0 while unknown.
        captured: capture time in seconds since 1970, or None.
        error: what went wrong last, one line, or None.
    """

    key: PictureKey
    layers_total: int
    layers_have: int
    layers_bad: int | None = None
    preview_layers: int = 0
    picture_layers: int = 0
    received: float = 0.0
    layer_bytes: int = 0
    state: State = State.INCOMPLETE
    bundle: bytes | None = None
    width: int = 0
    height: int = 0
    quality: float = 0.0
    captured: int | None = None
    error: str | None = None

    @property
    def usable(self) -> int:
        """Number of leading layers worth decoding."""
        return self.layers_have if self.layers_bad is None else min(self.layers_have, self.layers_bad - 1)

    @property
    def complete(self) -> bool:
        """Whether every announced layer is stored."""
        return self.layers_have >= self.layers_total

    def decoded_layers(self, stage: Stage) -> int:
        """Return how many layers the archived result of ``stage`` was made of, 0 = there is none."""
        return self.preview_layers if stage is Stage.PREVIEW else self.picture_layers


def complete_prefix(layers: Iterable[int]) -> int:
    """Return the length of the gapless run 0, 1, 2... in ``layers``, given in any order and with repeats."""
    present = set(layers)
    length = 0
    while length in present:
        length += 1
    return length
