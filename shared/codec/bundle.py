"""Model bundles: one set of weights with a manifest, and an id over all that both ends must agree on.

A bundle is a folder::

    manifest.json            name, format, layout, operating points, SHA-256 and size of every file
    entropy/program.npz      integer entropy program          }
    entropy/tables.npz       integer coding tables            } the id covers these, the layout and the gains
    entropy/*.onnx           the program as ONNX graphs, for both ends
    sender/*.onnx            guidance, analysis, hyper_analysis
    receiver/*.safetensors   synthesis, decoder, prior, control; a sender needs none of them

The receiver's weights are not under the id: a better decoder may decode old layers again.
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
from shared.errors import PinholeError

FORMAT = 1
MANIFEST = "manifest.json"
AGREED = ("entropy/program.npz", "entropy/tables.npz")
"""Files under the bundle id."""


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
            OperatingPoint(int(p["quality"]), str(p["name"]), float(p["bits_per_pixel"]))
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

    def read(self, name: str) -> bytes:
        """Return a file's bytes, checked against the manifest.

        Raises:
            PinholeError: if it is missing or not what the manifest says.
        """
        entry = self.manifest["files"].get(name)
        if entry is None:
            raise PinholeError(f"bundle {self.name} lists no file {name}; install a bundle that has it")
        try:
            data = (self.folder / name).read_bytes()
        except OSError as error:
            raise PinholeError(
                f"bundle {self.name}: {name} cannot be read ({error.strerror}); install it again"
            ) from None
        if len(data) != entry["bytes"] or hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise PinholeError(f"bundle {self.name}: {name} is damaged (wrong SHA-256); install the bundle again")
        return data

    def verify(self) -> None:
        """Check every file.

        Raises:
            PinholeError: naming the first file that is missing or damaged.
        """
        for name in self.manifest["files"]:
            self.read(name)

    def program(self) -> EntropyProgram:
        """Return the integer entropy program."""
        return EntropyProgram.from_bytes(self.read("entropy/program.npz"))

    def tables(self) -> CodingTables:
        """Return the coding tables."""
        return CodingTables.from_bytes(self.read("entropy/tables.npz"))

    def entropy_graphs(self) -> dict[str, bytes]:
        """Return the ONNX graphs of the entropy program by name."""
        names = [n for n in self.manifest["files"] if n.startswith("entropy/") and n.endswith(".onnx")]
        return {Path(n).stem: self.read(n) for n in names}


def agreement_hash(manifest: dict[str, Any]) -> bytes:
    """SHA-256 over what both ends must agree on: format, layout, gains, entropy program and tables."""
    agreed = {
        "format": manifest["format"],
        "layout": manifest["layout"],
        "gains": [[p["quality"], p["gain"]] for p in manifest["operating_points"]],
        "files": {name: manifest["files"][name]["sha256"] for name in AGREED},
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
        if manifest["format"] != FORMAT:
            raise PinholeError(f"bundle {name} has format {manifest['format']}, this Pinhole reads {FORMAT}; update it")
        bundle = Bundle(folder, manifest)
        # Touching these now turns a broken manifest into one error here instead of a strange one later.
        _ = bundle.name, bundle.bundle_id, bundle.operating_points, bundle.layout, bundle._scales
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PinholeError(
            f"{folder / MANIFEST}: not a bundle manifest ({error!r}); install the bundle again"
        ) from None
    return bundle
