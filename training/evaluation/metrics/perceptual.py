"""Distances in the features of image networks: ST-LPIPS, LPIPS and DISTS.

Features of VGG take about 2.5 KB a pixel while two pictures are compared. The LPIPS family is a mean over places, so
large pictures are measured in overlapping tiles; DISTS compares statistics of the whole picture and is left out there.
"""

from typing import Any

import torch
from torch import Tensor, nn

from shared.codec.interfaces import Pixels
from training.evaluation.metrics import weights
from training.evaluation.metrics.determinism import as_batch, measuring
from training.evaluation.metrics.interfaces import check_same_shape
from training.perceptual import StLpips

SMALLEST_SIDE = 64
"""AlexNet's last layer has nothing left of a shorter side."""
LARGEST_WHOLE = 1 << 20
"""Pixels of the largest picture that is measured in one piece (2.5 GB with VGG)."""
HALO = 128
"""Pixels around a tile: what the deepest features see. A multiple of 16, their raster."""
CORE = 768
"""Pixels of a tile's side without its surroundings; ``(CORE + 2 * HALO) ** 2`` is `LARGEST_WHOLE`."""
LARGEST_DISTS = 1 << 21
"""Pixels of the largest picture of which DISTS is measured (an estimated 5 GB)."""


class _Remembering(nn.Module):
    """A trunk that keeps the features of the last picture it was asked to keep: many decodes share one original."""

    def __init__(self, trunk: nn.Module, half: bool = False) -> None:
        super().__init__()
        self.trunk = trunk
        self.reduced = half
        self.keep_next = False
        self._picture: Tensor | None = None
        self._features: Any = None

    def forward(self, picture: Tensor) -> Any:
        keep, self.keep_next = self.keep_next, False
        if not keep:
            return self._run(picture)
        if self._picture is None or not torch.equal(picture, self._picture):
            self._picture = self._features = None  # make room first
            self._picture, self._features = picture, self._run(picture)
        return self._features

    def _run(self, picture: Tensor) -> Any:
        """Features of a picture, float32 whatever the convolutions ran in."""
        if not self.reduced:
            return self.trunk(picture)
        # Only the convolutions: squared differences and means of features need float32.
        with torch.autocast(picture.device.type, dtype=torch.bfloat16):
            return [features.float() for features in self.trunk(picture.to(memory_format=torch.channels_last))]


class FeatureDistance:
    """LPIPS and its kin as a metric of pictures, 0 (same) upwards.

    Args:
        name: as in tables.
        note: see `PictureMetric`.
        network: an LPIPS module as ``stlpips-pytorch`` and ``torchmetrics`` have it: called with two batches in
            [-1, 1], with the trunk in ``net`` and a switch ``spatial`` for a map in place of the mean.
        device: where to run.
        half: whether the trunk's convolutions run in bfloat16.
    """

    def __init__(self, name: str, note: str, network: nn.Module, device: torch.device, half: bool = False) -> None:
        self.name = name
        self.note = f"{note}, convolutions in bfloat16" if half else note
        self._device = device
        if half:
            network = network.to(memory_format=torch.channels_last)
        self._trunk = _Remembering(network.net, half)  # type: ignore[arg-type]
        network.net = self._trunk
        self._network: Any = network.eval().requires_grad_(False).to(device)

    def measure(self, original: Pixels, decoded: Pixels) -> float | None:
        """See `PictureMetric.measure`; None below 64 pixels a side.

        Pictures of more than `LARGEST_WHOLE` pixels are measured in tiles, each seen with its surroundings; that comes
        within a thousandth of measuring them in one piece.
        """
        check_same_shape(original, decoded)
        height, width = original.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            return None
        with measuring():
            if height * width <= LARGEST_WHOLE:
                self._trunk.keep_next = True  # the original is the first that the network looks at
                self._network.spatial = False
                return float(self._network(as_batch(original, self._device), as_batch(decoded, self._device)))
            return self._tiled(original, decoded)

    def _tiled(self, original: Pixels, decoded: Pixels) -> float:
        self._network.spatial = True
        height, width = original.shape[:2]
        total = 0.0
        for top in range(0, height, CORE):
            for left in range(0, width, CORE):
                up, back = max(0, top - HALO), max(0, left - HALO)
                tile = slice(up, top + CORE + HALO), slice(back, left + CORE + HALO)
                places: Tensor = self._network(
                    as_batch(original[tile], self._device), as_batch(decoded[tile], self._device)
                )
                core = places[..., top - up : top - up + CORE, left - back : left - back + CORE]
                total += float(core.sum(dtype=torch.float64))
        return total / (height * width)


class Dists:
    """Deep image structure and texture similarity (Ding et al., TPAMI 2022) at the picture's own size, 0 to 1.

    Args:
        device: where to run.

    Raises:
        WeightsUnavailableError: if VGG16 cannot be had.
        ImportError: if torchmetrics or torchvision is missing.
    """

    name = "DISTS"
    note = "measured up to 2 megapixels"

    def __init__(self, device: torch.device) -> None:
        from torchmetrics.functional.image.dists import DISTSNetwork
        from torchvision.models import VGG16_Weights

        with weights.loading(weights.Trunk("VGG16", VGG16_Weights.DEFAULT.url)):
            network = DISTSNetwork()
        self._device = device
        self._network = network.eval().requires_grad_(False).to(device)

    def measure(self, original: Pixels, decoded: Pixels) -> float | None:
        """See `PictureMetric.measure`; None below 64 pixels a side and above 2 megapixels."""
        check_same_shape(original, decoded)
        height, width = original.shape[:2]
        if min(height, width) < SMALLEST_SIDE or height * width > LARGEST_DISTS:
            return None
        with measuring():
            first, second = (as_batch(p, self._device).add_(1.0).div_(2.0) for p in (original, decoded))
            return float(self._network(first, second))


def st_lpips(device: torch.device, half: bool = False) -> FeatureDistance:
    """Shift-tolerant LPIPS (Ghildyal and Liu, ECCV 2022) with the VGG trunk."""
    return FeatureDistance("ST-LPIPS", "VGG trunk", StLpips("vgg").metric, device, half)


def st_lpips_alex(device: torch.device) -> FeatureDistance:
    """Shift-tolerant LPIPS with the Alex trunk."""
    return FeatureDistance("ST-LPIPS (Alex)", "what the training optimised", StLpips("alex").metric, device)


def lpips(device: torch.device) -> FeatureDistance:
    """LPIPS (Zhang et al., CVPR 2018), version 0.1 with the Alex trunk.

    Raises:
        WeightsUnavailableError: if AlexNet cannot be had.
        ImportError: if torchmetrics or torchvision is missing.
    """
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity
    from torchvision.models import AlexNet_Weights

    with weights.loading(weights.Trunk("AlexNet", AlexNet_Weights.DEFAULT.url)):
        network = LearnedPerceptualImagePatchSimilarity("alex").net
    return FeatureDistance("LPIPS", "Alex trunk", network, device)
