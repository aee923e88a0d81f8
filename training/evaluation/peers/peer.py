"""What every other codec must offer to be compared with ours."""

from abc import ABC, abstractmethod
from functools import cached_property

from shared.codec.interfaces import Pixels


class Peer(ABC):
    """A codec with one integer setting.

    Attributes:
        name: as in tables and figures ("VVC").
        settings: every value that is tried, ordered from (about) the smallest file to the largest.
    """

    name: str
    settings: tuple[int, ...]

    @cached_property
    def version(self) -> str:
        """Encoder, its version and its fixed options: two encodes with the same version and setting are the same."""
        return self._version()

    @abstractmethod
    def _version(self) -> str: ...

    @abstractmethod
    def missing(self) -> str | None:
        """Return one line saying why the codec cannot be used here and the mend, or None if it can."""

    @abstractmethod
    def encode(self, pixels: Pixels, setting: int) -> bytes:
        """Encode a picture.

        Args:
            pixels: RGB bytes ``height x width x 3`` of any size.
            setting: one of ``settings``.

        Returns:
            The whole file or raw bitstream, every byte of which counts.

        Raises:
            PinholeError: if the encoder fails.
        """

    @abstractmethod
    def decode(self, data: bytes, width: int, height: int) -> Pixels:
        """Decode what `encode` returned for a picture of this size.

        Returns:
            RGB bytes ``height x width x 3``.

        Raises:
            CorruptDataError: if the data is damaged or of another size.
        """

    @abstractmethod
    def describe(self, setting: int) -> str:
        """Say in words what a setting tells the encoder, such as ``"qp 41"``."""
