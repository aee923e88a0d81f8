"""One set of weights of a bundle: the files that serve some of its operating points."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.codec.entropy.program import EntropyProgram
from shared.codec.entropy.tables import CodingTables
from shared.codec.interfaces import OperatingPoint
from shared.codec.stored_files import StoredFiles


def set_file(weights: str, name: str) -> str:
    """Return a set's file by its name in the manifest; the nameless set of a format 1 bundle lies at the root."""
    return f"weights/{weights}/{name}" if weights else name


@dataclass(frozen=True, eq=False)
class WeightSet:
    """Files of one set, by the names that they would have in a bundle of its own (``sender/analysis.onnx``, ...).

    Attributes:
        name: of the set; empty where the bundle has only one.
        files: of the whole bundle.
        hyper_medians: medians of the hyper-latent in units of 2^-4, int32, ``N``.
        points: operating points that the set serves.
    """

    name: str
    files: StoredFiles
    hyper_medians: NDArray[np.int32]
    points: tuple[OperatingPoint, ...]

    def read(self, name: str) -> bytes:
        """Return the bytes of one of the set's files.

        Raises:
            PinholeError: if it is missing or not what the manifest says.
        """
        return self.files.read(set_file(self.name, name))

    def path(self, name: str) -> Path:
        """Return where one of the set's files lies; errors as `read`."""
        return self.files.path(set_file(self.name, name))

    def has(self, name: str) -> bool:
        """Whether the set has a file."""
        return set_file(self.name, name) in self.files

    def program(self) -> EntropyProgram:
        """Return the integer entropy program."""
        return EntropyProgram.from_bytes(self.read("entropy/program.npz"))

    def tables(self) -> CodingTables:
        """Return the coding tables."""
        return CodingTables.from_bytes(self.read("entropy/tables.npz"))

    def entropy_graphs(self) -> dict[str, bytes]:
        """Return the ONNX graphs of the entropy program by name."""
        folder = set_file(self.name, "entropy/")
        names = [n for n in self.files if n.startswith(folder) and n.endswith(".onnx")]
        return {Path(n).stem: self.files.read(n) for n in names}
