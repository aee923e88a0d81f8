"""FID and KID between originals and decoded pictures, on patches as in HiFiC.

Features and formulas are those of torch-fidelity: the original TensorFlow Inception with its bilinear resize, the
Frechet distance (Heusel et al., NeurIPS 2017) and the unbiased cubic-kernel MMD (Binkowski et al., ICLR 2018).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shared.codec.interfaces import Pixels
from shared.errors import CorruptDataError
from training.evaluation.metrics import weights
from training.evaluation.metrics.determinism import measuring
from training.evaluation.metrics.interfaces import check_same_shape
from training.evaluation.metrics.patches import patches

Floats = NDArray[np.float32]
Describe = Callable[[Pixels], Floats]
"""Features of a picture's patches, ``patches x features``."""

NAMES = ("FID", "KID")
FEATURES = 2048
_BATCH = 16
_KID_SUBSETS, _KID_SUBSET_SIZE = 100, 1000


class Inception:
    """The 2048 pooled features of every patch of a picture.

    Args:
        device: where to run.

    Raises:
        WeightsUnavailableError: if Inception cannot be had.
        ImportError: if torch-fidelity is missing.
    """

    def __init__(self, device: torch.device) -> None:
        from torch_fidelity import feature_extractor_inceptionv3 as inception

        with weights.loading(weights.Trunk("Inception", inception.URL_INCEPTION_V3)) as path:
            network = inception.FeatureExtractorInceptionV3(
                "inception-v3-compat", [str(FEATURES)], feature_extractor_weights_path=str(path)
            )
        self._device = device
        self._network = network.to(device)

    def __call__(self, pixels: Pixels) -> Floats:
        """Return ``patches x 2048``, computed 16 patches at a time."""
        pieces = list(patches(pixels))
        found = [np.empty((0, FEATURES), np.float32)]
        with measuring():
            for start in range(0, len(pieces), _BATCH):
                batch = torch.from_numpy(np.stack(pieces[start : start + _BATCH])).permute(0, 3, 1, 2)
                found.append(self._network(batch.to(self._device))[0].cpu().numpy())
        return np.concatenate(found)


class LastRemembered:
    """Describes a picture again without work if it is the one described last: many decodes share one original.

    Args:
        describe: what is remembered.
    """

    def __init__(self, describe: Describe) -> None:
        self._describe = describe
        self._last: tuple[Pixels, Floats] | None = None

    def __call__(self, pixels: Pixels) -> Floats:
        """Return the features of the picture's patches."""
        if self._last is None or not np.array_equal(self._last[0], pixels):
            self._last = pixels.copy(), self._describe(pixels)
        return self._last[1]


class InceptionDistances:
    """FID and KID of all patches taken so far; 16 KB are kept for each pair of patches.

    Args:
        names: which of `NAMES` to give.
        original: describes originals.
        decoded: describes decoded pictures.
    """

    def __init__(self, names: Sequence[str], original: Describe, decoded: Describe) -> None:
        self._names = tuple(names)
        self._describe = original, decoded
        self._features: tuple[list[Floats], list[Floats]] = [], []

    @property
    def name(self) -> str:
        """The figures it gives, joined."""
        return " and ".join(self._names)

    @property
    def note(self) -> str:
        """How many patches were taken, and what that means for FID."""
        count = sum(len(part) for part in self._features[0])
        few = "FID" in self._names and count <= FEATURES
        return f"{count} patches of 256 pixels" + (
            f"; FID over no more than {FEATURES} is biased upwards: compare it only at equal counts" if few else ""
        )

    def fresh(self) -> "InceptionDistances":
        """Return one that has seen nothing and shares the network."""
        return InceptionDistances(self._names, *self._describe)

    def update(self, original: Pixels, decoded: Pixels) -> None:
        """Take the patches of a pair; a picture with a side under 256 pixels has none.

        Raises:
            PinholeError: if the shapes differ.
        """
        check_same_shape(original, decoded)
        for taken, describe, pixels in zip(self._features, self._describe, (original, decoded), strict=True):
            taken.append(describe(pixels))

    def compute(self) -> dict[str, float]:
        """Return FID and KID, both 0 for equal sets (KID may fall a little below); nothing from fewer than 2 patches.

        KID is the mean over 100 subsets of 1000 patches, or of all patches at once where there are no more; the
        subsets are the same every time.
        """
        from torch_fidelity import metric_fid, metric_kid

        if sum(len(part) for part in self._features[0]) < 2:
            return {}
        # Single precision would leave noise of the size of small distances.
        first, second = (torch.from_numpy(np.concatenate(part)).double() for part in self._features)
        figures: dict[str, float] = {}
        if "FID" in self._names:
            statistics = [metric_fid.fid_features_to_statistics(part) for part in (first, second)]
            fid = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
            figures["FID"] = float(fid[metric_fid.KEY_METRIC_FID])
        if "KID" in self._names:
            everything = len(first) <= _KID_SUBSET_SIZE
            kid = metric_kid.kid_features_to_metric(
                first,
                second,
                kid_subsets=1 if everything else _KID_SUBSETS,
                kid_subset_size=len(first) if everything else _KID_SUBSET_SIZE,
                verbose=False,
            )
            figures["KID"] = float(kid[metric_kid.KEY_METRIC_KID_MEAN])
        return figures

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the features taken so far, ``patches x features`` of each side."""
        return {
            side: np.concatenate(part) if part else np.empty((0, FEATURES), np.float32)
            for side, part in zip(("original", "decoded"), self._features, strict=True)
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `state` gave.

        Raises:
            CorruptDataError: if it is not such a state.
        """
        parts = [state.get(side) for side in ("original", "decoded")]
        if parts[0] is None or parts[1] is None or parts[0].ndim != 2 or parts[0].shape != parts[1].shape:
            raise CorruptDataError(f"stored state of {self.name} is damaged; measure the pictures again")
        self._features = [parts[0].astype(np.float32)], [parts[1].astype(np.float32)]
