"""Who computes the entropy program: one interface, and the NumPy reference.

All backends give the same integers; which one runs is a matter of speed alone.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.codec.entropy.integer import Integers, run_layer
from shared.codec.entropy.program import EntropyProgram, Layers

Maps = NDArray[np.signedinteger[Any]]
"""Integer feature maps ``1 x channels x height x width`` of any width of integer: what a backend keeps to itself."""


class EntropyBackend(Protocol):
    """Computes means and scales of the symbols of one picture; feature maps are ``1 x channels x height x width``."""

    def hyper(self, z: Integers) -> Maps:
        """Hyper parameters ``1 x 2M x h x w`` from z ``1 x N x h/4 x w/4`` in units of 2^-4."""

    def anchor(self, index: int, hyper: Maps, earlier: Integers) -> tuple[Integers, Integers, Maps]:
        """Parameters of slice ``index``, valid at its anchors.

        Args:
            index: slice number.
            hyper: what `hyper` gave.
            earlier: decoded earlier slices ``1 x (s_0 + ... + s_index-1) x h x w`` in units of 2^-4.

        Returns:
            ``(scales, means, channel context)``: scales in units of 2^-8 and means in units of 2^-4, each
            ``1 x s_index x h x w``; the channel context is for `nonanchor`.
        """

    def nonanchor(self, index: int, hyper: Maps, channel: Maps, anchors: Integers) -> tuple[Integers, Integers]:
        """Parameters of slice ``index``, valid at its non-anchors.

        Args:
            index: slice number.
            hyper: what `hyper` gave.
            channel: the channel context that `anchor` gave.
            anchors: decoded anchors ``1 x s_index x h x w`` in units of 2^-4, zero elsewhere.

        Returns:
            ``(scales, means)`` as in `anchor`.
        """


class NumpyBackend:
    """The reference: plain NumPy, no other library."""

    def __init__(self, program: EntropyProgram) -> None:
        self.program = program

    def hyper(self, z: Integers) -> Integers:
        """See `EntropyBackend.hyper`."""
        return self._run(self.program.hyper, self.program.z_input(z.astype(np.int64)))

    def anchor(self, index: int, hyper: Maps, earlier: Integers) -> tuple[Integers, Integers, Integers]:
        """See `EntropyBackend.anchor`."""
        part = self.program.parts[index]
        if part.channel:
            activations = self.program.y_input(earlier.astype(np.int64))
            channel = self._run(part.channel, activations)
        else:
            channel = np.zeros((1, 0, *hyper.shape[2:]), np.int32)
        scales, means = self._split(self._run(part.anchor, np.concatenate((channel, hyper), 1)))
        return scales, means, channel

    def nonanchor(self, index: int, hyper: Maps, channel: Maps, anchors: Integers) -> tuple[Integers, Integers]:
        """See `EntropyBackend.nonanchor`."""
        part = self.program.parts[index]
        local = self._run(part.local, self.program.y_input(anchors.astype(np.int64)))
        return self._split(self._run(part.nonanchor, np.concatenate((local, channel, hyper), 1)))

    @staticmethod
    def _run(layers: Layers, x: Integers | NDArray[np.int64]) -> Integers:
        values = x.astype(np.int64)
        for layer in layers:
            values = run_layer(layer, values)
        return values.astype(np.int32)

    @staticmethod
    def _split(parameters: Integers) -> tuple[Integers, Integers]:
        half = parameters.shape[1] // 2
        return parameters[:, :half], parameters[:, half:]
