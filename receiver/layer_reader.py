"""Layers to latents: the part of decoding that runs in integers on the CPU, the same on every machine."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.codec.bundle import Bundle
from shared.codec.entropy.coding import LatentCoder
from shared.codec.entropy.onnx_backend import OnnxBackend
from shared.codec.entropy.program import LATENT_BITS
from shared.codec.entropy.tiled_backend import TiledBackend
from shared.codec.header import PictureHeader
from shared.codec.weight_set import WeightSet
from shared.errors import CorruptDataError
from shared.picture import MAX_PIXELS


@dataclass(frozen=True)
class ReadPicture:
    """One picture whose layers were entropy-decoded.

    Attributes:
        header: its header.
        weights: the weight set that it was made with.
        y: decoded latent, its gain undone, float32 ``1 x M x h x w``.
        z: decoded hyper-latent without its medians, float32 ``1 x N x h/4 x w/4``.
    """

    header: PictureHeader
    weights: WeightSet
    y: NDArray[np.float32]
    z: NDArray[np.float32]


class LayerReader:
    """Entropy-decodes pictures of one bundle.

    Args:
        bundle: the bundle.
        threads: threads within one operator; 0 takes every core.
    """

    def __init__(self, bundle: Bundle, threads: int = 0) -> None:
        self._bundle, self._threads = bundle, threads
        layout = bundle.manifest["layout"]
        self._block, self._hyper_block = int(layout["latent_block"]), int(layout["block"])
        self._coders: dict[str, LatentCoder] = {}

    def read(self, layers: Sequence[bytes]) -> ReadPicture:
        """Decode a prefix of a picture's layers; what is missing takes its predicted means.

        Raises:
            CorruptDataError: if a layer is damaged or belongs to another bundle.
        """
        header, length = self._header(layers)
        weights = self._bundle.weights(header.quality)
        rows, columns = (-(-side // self._hyper_block) for side in (header.height, header.width))
        per_block = self._hyper_block // self._block
        payloads = [layers[0][length:], *layers[1:]]
        coder = self._coder(weights)
        y_hat, z = coder.decode(payloads, rows * per_block, columns * per_block, layers[0][:length])
        y = y_hat.astype(np.float32)
        del y_hat
        y *= self._bundle.inverse_gain(header.quality) / np.float32(1 << LATENT_BITS)
        return ReadPicture(header, weights, y, z.astype(np.float32))

    def _coder(self, weights: WeightSet) -> LatentCoder:
        if weights.name not in self._coders:
            backend = TiledBackend(OnnxBackend(weights.entropy_graphs(), self._threads), weights.program)
            self._coders[weights.name] = LatentCoder(
                self._bundle.layout, weights.tables(), backend, weights.hyper_medians
            )
        return self._coders[weights.name]

    def _header(self, layers: Sequence[bytes]) -> tuple[PictureHeader, int]:
        if not layers:
            raise CorruptDataError("a picture without its base layer cannot be decoded; wait for layer 0")
        header, length = PictureHeader.unpack(layers[0])
        if header.bundle_id != self._bundle.bundle_id:
            raise CorruptDataError(
                f"picture was made with bundle {header.bundle_id.hex()}, this is {self._bundle.bundle_id.hex()}"
                f" ({self._bundle.name}); give --bundle the one it was made with"
            )
        if header.width * header.height > MAX_PIXELS:
            # Ten bytes can ask for any amount of memory; a picture this large was never made here.
            raise CorruptDataError(
                f"picture header claims {header.width}x{header.height} pixels, more than any picture Pinhole takes"
            )
        highest = self._bundle.operating_points[-1].quality
        if header.quality > highest or header.layers != self._bundle.layout.layers:
            raise CorruptDataError(
                "picture header names a quality or layer count its bundle does not have; send it again"
            )
        if len(layers) > header.layers:
            raise CorruptDataError(
                f"picture has {len(layers)} layers, its header says {header.layers}; drop the others"
            )
        return header, length
