"""What the rooms on both sides of the codec may expect of it; the link, the nodes and the tests need nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""A picture as RGB bytes, shape ``height x width x 3``."""


@dataclass(frozen=True)
class OperatingPoint:
    """One named quality of a bundle; every quality between two operating points of one weight set can be used as well.

    Attributes:
        quality: its number on the command line, 1 (fewest bytes) upwards.
        name: how people call it.
        bits_per_pixel: mean rate over the validation photographs, every header byte of a ``.pin`` file counted.
        weights: name of the weight set that serves it; empty where one set serves all.
    """

    quality: int
    name: str
    bits_per_pixel: float
    weights: str = ""


class PictureEncoder(Protocol):
    """The sending side of a bundle."""

    @property
    def bundle_id(self) -> bytes:
        """First four bytes of the bundle's hash, as in every picture header."""

    @property
    def operating_points(self) -> Sequence[OperatingPoint]:
        """Named qualities 1, 2, 3, ..., fewest bytes first."""

    def encode(self, pixels: Pixels, quality: float, *, captured: int | None = None) -> list[bytes]:
        """Encode a picture into layers, the base first.

        Args:
            pixels: RGB bytes ``height x width x 3``, sides 1 to 65535.
            quality: 1 to the number of operating points, in between as well; rounded to the nearest 1/16.
            captured: capture time in whole seconds since 1970, or None to leave it out.

        Returns:
            The layers; every prefix of at least one layer can be decoded.

        Raises:
            PinholeError: if the picture or the quality cannot be encoded.
        """

    def encode_within(self, pixels: Pixels, largest: int, *, captured: int | None = None) -> list[bytes]:
        """Encode at the best quality found whose layers take at most ``largest`` bytes together.

        Where even quality 1 takes more, the last layers are left out: as few as it takes at quality 1, then the others
        at the best quality that fits. The base layer always stays.
        """


class PictureDecoder(Protocol):
    """The receiving side of a bundle."""

    @property
    def bundle_id(self) -> bytes:
        """First four bytes of the bundle's hash, as in every picture header."""

    def preview(self, layers: Sequence[bytes]) -> Pixels:
        """Decode a prefix of the layers without diffusion.

        Raises:
            CorruptDataError: if a layer is not what was encoded; never returns a wrong picture.
        """

    def decode(self, layers: Sequence[bytes], *, steps: int | None = None, seed: int = 0) -> Pixels:
        """Decode a prefix of the layers with ``steps`` steps of diffusion (None: the bundle's default; 0: preview).

        The same layers, steps and seed give the same picture.

        Raises:
            CorruptDataError: if a layer is not what was encoded; never returns a wrong picture.
        """
