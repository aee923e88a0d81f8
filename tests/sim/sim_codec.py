"""A small stand-in for the bundle: JPEG thumbnails, so that the simulator's tests need no trained weights."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from shared.codec.header import PictureHeader
from shared.codec.interfaces import OperatingPoint, Pixels
from shared.errors import CorruptDataError, PinholeError

BUNDLE_ID = b"thmb"
_FACTORS = (16, 8, 4)


class ThumbnailEncoder:
    """Layer i is a JPEG scaled down by 16, 8 and 4; later layers replace earlier ones."""

    bundle_id = BUNDLE_ID
    operating_points: Sequence[OperatingPoint] = (
        OperatingPoint(1, "small", 0.03),
        OperatingPoint(2, "large", 0.06),
    )

    def encode(self, pixels: Pixels, quality: float, *, captured: int | None = None) -> list[bytes]:
        if quality not in (1, 2):
            raise PinholeError(f"quality {quality} is not one of 1 and 2")
        height, width = pixels.shape[:2]
        layers = []
        for factor in _FACTORS:
            small = Image.fromarray(pixels).resize((max(1, width // factor), max(1, height // factor)))
            target = io.BytesIO()
            small.save(target, "JPEG", quality=int(20 * quality))
            layers.append(target.getvalue())
        header = PictureHeader(BUNDLE_ID, width, height, quality, len(layers), captured)
        return [header.pack() + layers[0], *layers[1:]]

    def encode_within(self, pixels: Pixels, largest: int, *, captured: int | None = None) -> list[bytes]:
        layers = self.encode(pixels, 1, captured=captured)
        while len(layers) > 1 and sum(map(len, layers)) > largest:
            layers.pop()
        return layers


class ThumbnailDecoder:
    """Scales the last layer up: bilinear for the preview, Lanczos for the full picture."""

    bundle_id = BUNDLE_ID

    def preview(self, layers: Sequence[bytes]) -> Pixels:
        return self._decode(layers, Image.Resampling.BILINEAR)

    def decode(self, layers: Sequence[bytes], *, steps: int | None = None, seed: int = 0) -> Pixels:
        return self._decode(layers, Image.Resampling.LANCZOS)

    def _decode(self, layers: Sequence[bytes], filter_: Image.Resampling) -> Pixels:
        header, length = PictureHeader.unpack(layers[0])
        data = layers[-1] if len(layers) > 1 else layers[0][length:]
        try:
            with Image.open(io.BytesIO(data)) as image:
                return np.asarray(image.convert("RGB").resize((header.width, header.height), filter_))
        except OSError as error:
            raise CorruptDataError(f"layer {len(layers) - 1} is damaged ({error})") from error
