"""What every metric of the evaluation offers, whether it looks at one picture or at all of them."""

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from shared.codec.interfaces import Pixels
from shared.errors import PinholeError


class PictureMetric(Protocol):
    """A figure of one decoded picture."""

    @property
    def name(self) -> str:
        """As in tables and figures."""

    @property
    def note(self) -> str:
        """What a reader of the figure must know; empty if nothing."""

    def measure(self, original: Pixels, decoded: Pixels) -> float | None:
        """Return the figure, the same for the same pictures on the same device.

        Args:
            original: RGB bytes ``height x width x 3``.
            decoded: of the same shape.

        Returns:
            None where the metric is not defined for pictures of this size.

        Raises:
            PinholeError: if the shapes differ.
        """


class SetMetric(Protocol):
    """Figures of all decoded pictures of one curve point together."""

    @property
    def name(self) -> str:
        """The figures it gives, joined."""

    @property
    def note(self) -> str:
        """What a reader of the figures must know, of the pictures taken so far."""

    def fresh(self) -> "SetMetric":
        """Return one that has seen nothing and shares the networks: one for each curve point."""

    def update(self, original: Pixels, decoded: Pixels) -> None:
        """Take one pair of pictures ``height x width x 3``.

        Raises:
            PinholeError: if the shapes differ.
        """

    def compute(self) -> dict[str, float]:
        """Return the figures by name; those that need more pictures are missing."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what was taken so far, to be stored."""

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `state` gave, in place of what was taken.

        Raises:
            CorruptDataError: if it is not such a state.
        """


def check_same_shape(original: Pixels, decoded: Pixels) -> None:
    """Refuse to compare pictures of different shapes.

    Raises:
        PinholeError: if they differ.
    """
    if original.shape != decoded.shape:
        raise PinholeError(
            f"pictures of {original.shape} and {decoded.shape} cannot be compared; decode with the bundle that encoded"
        )
