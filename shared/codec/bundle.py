"""Model bundles: weights with a manifest, and an id over all that both ends must agree on.

A bundle is a folder. In format 1 one set of weights serves every operating point, with a gain for each::

    manifest.json            name, format, layout, operating points, SHA-256 and size of every file
    entropy/program.npz      integer entropy program          }
    entropy/tables.npz       integer coding tables            } the id covers these, the layout and the gains
    entropy/*.onnx           the program as ONNX graphs, for both ends
    sender/*.onnx            guidance, analysis, hyper_analysis
    receiver/*.safetensors   synthesis, decoder, prior, control; a sender needs none of them

In format 2 every operating point names its *weight set*, since the paper trains a model for each rate. A set's files
lie under ``weights/NAME/`` by the same names as above; what all sets share stays at the root::

    weights/NAME/entropy/*, weights/NAME/sender/{analysis,hyper_analysis}.onnx,
    weights/NAME/receiver/{synthesis,control}.safetensors
    sender/guidance.onnx     receiver/{unet,vae,context}.safetensors     receiver/prompts/NAME.safetensors

and the manifest has for each set the medians of the hyper-latent, rounded to units of 2^-4. ``NAME_fp16.onnx`` beside
a sender's graph is the same in half precision, for GPUs. The receiver's weights are not under the id: a better decoder
may decode old layers again.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.codec.entropy.coding import LatentLayout
from shared.codec.entropy.program import EntropyProgram
from shared.codec.entropy.tables import CodingTables
from shared.codec.interfaces import OperatingPoint
from shared.codec.quality import choose_quality, expected_rate, interpolate
from shared.codec.stored_files import StoredFiles
from shared.codec.weight_set import WeightSet, set_file
from shared.errors import PinholeError

FORMAT, SETS_FORMAT = 1, 2
"""One set of weights for all operating points; a set for each."""
MANIFEST = "manifest.json"
AGREED = ("entropy/program.npz", "entropy/tables.npz")
"""Files of every weight set under the bundle id."""


@dataclass(frozen=True)
class Bundle:
    """One bundle on disk.

    Attributes:
        folder: where it lies.
        manifest: content of ``manifest.json``.
    """

    folder: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return str(self.manifest["name"])

    @cached_property
    def bundle_id(self) -> bytes:
        """First four bytes of the hash over what both ends must agree on."""
        return agreement_hash(self.manifest)[:4]

    @cached_property
    def operating_points(self) -> tuple[OperatingPoint, ...]:
        """Named qualities 1, 2, 3, ..., fewest bytes first."""
        points = tuple(
            OperatingPoint(int(p["quality"]), str(p["name"]), float(p["bits_per_pixel"]), str(p.get("weights", "")))
            for p in self.manifest["operating_points"]
        )
        if not points or [p.quality for p in points] != list(range(1, len(points) + 1)):
            raise ValueError("operating points are not numbered 1, 2, 3, ...")
        return points

    @cached_property
    def layout(self) -> LatentLayout:
        """How the latents divide into slices and layers."""
        layout = self.manifest["layout"]
        return LatentLayout(int(layout["hyper_channels"]), tuple(layout["slices"]), tuple(layout["layer_slices"]))

    def gain(self, quality: float) -> NDArray[np.float32]:
        """Scale of every latent channel before rounding at a quality (rounded to 1/16), ``1 x M x 1 x 1``.

        Between operating points the logarithms of the manifest's gains are interpolated, as in training. That is float
        arithmetic, but no two machines need to agree on it to the last bit: here it scales latents that are floats
        anyway and are rounded after it, in `inverse_gain` integers that both ends have exactly.

        Raises:
            PinholeError: if the bundle has no such quality.
        """
        return self._scale("gain", quality)

    def inverse_gain(self, quality: float) -> NDArray[np.float32]:
        """Scale of every decoded latent channel at a quality, ``1 x M x 1 x 1``; see `gain`.

        Raises:
            PinholeError: if the bundle has no such quality.
        """
        return self._scale("inverse_gain", quality)

    def bits_per_pixel(self, quality: float) -> float:
        """Mean rate to expect at a quality: as measured at operating points, log-linear in between.

        Raises:
            PinholeError: if the bundle has no such quality.
        """
        return expected_rate(self.operating_points, choose_quality(self.operating_points, quality))

    def _scale(self, name: str, quality: float) -> NDArray[np.float32]:
        row = interpolate(self._scales[name], choose_quality(self.operating_points, quality))
        return row.astype(np.float32)[None, :, None, None]

    @cached_property
    def _scales(self) -> dict[str, NDArray[np.float64]]:
        """Both gains, ``operating points x M``."""
        scales = {
            name: np.array([point[name] for point in self.manifest["operating_points"]], np.float64)
            for name in ("gain", "inverse_gain")
        }
        for name, scale in scales.items():
            if scale.ndim != 2 or not np.all(np.isfinite(scale) & (scale > 0)):
                raise ValueError(f"{name} must be numbers above 0, as many at every operating point")
        return scales

    @cached_property
    def files(self) -> StoredFiles:
        """Checked access to the bundle's files, by their names in the manifest."""
        return StoredFiles(self.name, self.folder, self.manifest)

    def read(self, name: str) -> bytes:
        """Return a file's bytes, checked against the manifest.

        Raises:
            PinholeError: if it is missing or not what the manifest says.
        """
        return self.files.read(name)

    def path(self, name: str) -> Path:
        """Return where a file lies, checked against the manifest; for files too large to be read at once.

        Raises:
            PinholeError: if it is missing or not what the manifest says.
        """
        return self.files.path(name)

    def has(self, name: str) -> bool:
        """Whether the manifest lists a file."""
        return name in self.files

    def verify(self) -> None:
        """Check every file, those included that the bundle only refers to.

        Raises:
            PinholeError: naming the first file that is missing or damaged.
        """
        for name in self.files:
            self.files.path(name)

    @cached_property
    def weight_sets(self) -> tuple[WeightSet, ...]:
        """Every set of weights, that of the lowest quality first."""
        names = dict.fromkeys(point.weights for point in self.operating_points)
        return tuple(
            WeightSet(
                name, self.files, self._medians(name), tuple(p for p in self.operating_points if p.weights == name)
            )
            for name in names
        )

    def weights(self, quality: float) -> WeightSet:
        """Return the set that serves a quality.

        Raises:
            PinholeError: if the bundle has no such quality.
        """
        name = self.operating_points[int(choose_quality(self.operating_points, quality)) - 1].weights
        return next(weights for weights in self.weight_sets if weights.name == name)

    def _medians(self, name: str) -> NDArray[np.int32]:
        channels = self.layout.hyper_channels
        if not name:
            return np.zeros(channels, np.int32)
        medians = np.array(self.manifest["weights"][name]["hyper_medians"], np.int32)
        if medians.shape != (channels,):
            raise ValueError(f"weights {name}: hyper_medians must be {channels} whole numbers")
        return medians

    def program(self) -> EntropyProgram:
        """Return the integer entropy program of a bundle with one set of weights."""
        return self._only_set().program()

    def tables(self) -> CodingTables:
        """Return the coding tables of a bundle with one set of weights."""
        return self._only_set().tables()

    def entropy_graphs(self) -> dict[str, bytes]:
        """Return the ONNX graphs of the entropy program by name, of a bundle with one set of weights."""
        return self._only_set().entropy_graphs()

    def _only_set(self) -> WeightSet:
        if len(self.weight_sets) != 1:
            raise PinholeError(
                f"bundle {self.name} has {len(self.weight_sets)} sets of weights; choose one by its quality"
            )
        return self.weight_sets[0]


def agreement_hash(manifest: dict[str, Any]) -> bytes:
    """SHA-256 over what both ends must agree on: format, layout, gains, entropy program and tables."""
    agreed = {
        "format": manifest["format"],
        "layout": manifest["layout"],
        "gains": [[p["quality"], p["gain"]] for p in manifest["operating_points"]],
    }
    if manifest["format"] == FORMAT:
        agreed["files"] = {name: manifest["files"][name]["sha256"] for name in AGREED}
    else:
        agreed["points"] = [p["weights"] for p in manifest["operating_points"]]
        agreed["weights"] = {
            name: {
                "hyper_medians": [int(median) for median in weights["hyper_medians"]],
                "files": {file: manifest["files"][set_file(name, file)]["sha256"] for file in AGREED},
            }
            for name, weights in manifest["weights"].items()
        }
    return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).digest()


def find_bundle(name: str | os.PathLike[str] = "pocket") -> Bundle:
    """Open a bundle by name or folder.

    Names are looked up among the bundles installed with Pinhole; anything with a manifest inside is taken as a folder.

    Raises:
        PinholeError: if there is none, or its manifest cannot be read.
    """
    installed = Path(str(files("shared"))) / "bundles"
    candidates = (Path(name), installed / name) if os.sep in str(name) else (installed / name, Path(name))
    folder = next((c for c in candidates if (c / MANIFEST).is_file()), None)
    if folder is None:
        known = ", ".join(sorted(p.parent.name for p in installed.glob(f"*/{MANIFEST}"))) or "none"
        raise PinholeError(f"bundle {name}: not found; give a bundle folder or one of the installed ones ({known})")
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["format"] not in (FORMAT, SETS_FORMAT):
            raise PinholeError(
                f"bundle {name} has format {manifest['format']}, this Pinhole reads {FORMAT} and {SETS_FORMAT}; "
                "update it"
            )
        bundle = Bundle(folder, manifest)
        # Touching these now turns a broken manifest into one error here instead of a strange one later.
        _ = bundle.name, bundle.bundle_id, bundle.operating_points, bundle.layout, bundle._scales, bundle.weight_sets
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PinholeError(
            f"{folder / MANIFEST}: not a bundle manifest ({error!r}); install the bundle again"
        ) from None
    return bundle
