"""A decoder without networks that keeps the contract of `PictureDecoder`, and the layers it understands."""

import hashlib
import time
import zlib
from collections.abc import Sequence

import numpy as np

from receiver.archive import ReceivedLayer
from receiver.pictures import PictureKey
from shared.codec.header import PictureHeader
from shared.codec.interfaces import Pixels
from shared.errors import CorruptDataError

BUNDLE = b"fake"
_CHECKSUM = 4


def make_layers(
    number: int, count: int = 3, *, bundle: bytes = BUNDLE, size: int = 200, width: int = 12, height: int = 8
) -> list[bytes]:
    """Return the layers of the picture with this number; different numbers give different layers."""
    layers = []
    for layer in range(count):
        header = PictureHeader(bundle, width, height, 2, count, captured=1_700_000_000 + number).pack()
        body = (header if layer == 0 else b"") + hashlib.shake_256(f"{number}/{layer}".encode()).digest(size)
        layers.append(body + zlib.crc32(body).to_bytes(_CHECKSUM, "little"))
    return layers


def received(sender: int, sequence: int, layer: int, count: int = 3) -> ReceivedLayer:
    return ReceivedLayer(PictureKey(sender, sequence), layer, count, make_layers(sequence, count)[layer])


class FakeDecoder:
    """Paints a plain colour that depends on every bit of every layer, on the stage and on the seed."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.bundle_id = BUNDLE
        self.calls: list[tuple[str, int]] = []
        self._seconds = seconds

    def preview(self, layers: Sequence[bytes]) -> Pixels:
        self.calls.append(("preview", len(layers)))
        return _paint(layers, b"preview")

    def decode(self, layers: Sequence[bytes], *, steps: int | None = None, seed: int = 0) -> Pixels:
        self.calls.append(("decode", len(layers)))
        time.sleep(self._seconds)
        return _paint(layers, f"decode/{steps}/{seed}".encode())


def _paint(layers: Sequence[bytes], what: bytes) -> Pixels:
    header, _ = PictureHeader.unpack(layers[0])
    digest = hashlib.sha256(what)
    for number, layer in enumerate(layers):
        body, checksum = layer[:-_CHECKSUM], layer[-_CHECKSUM:]
        if zlib.crc32(body).to_bytes(_CHECKSUM, "little") != checksum:
            raise CorruptDataError(f"layer {number} does not match its checksum; send it again")
        digest.update(layer)
    colour = np.frombuffer(digest.digest()[:3], np.uint8)
    return np.ascontiguousarray(np.broadcast_to(colour, (header.height, header.width, 3)))
