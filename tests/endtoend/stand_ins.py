"""Encoder and decoder without networks that belong together, so that processes start in a second."""

import zlib

from shared.codec.interfaces import Pixels
from tests.sender.fake_encoder import FakeEncoder


class CheckedEncoder(FakeEncoder):
    """The sender tests' encoder, whose layers end with the checksum that the receiver tests' decoder wants."""

    def encode(self, pixels: Pixels, quality: float, *, captured: int | None = None) -> list[bytes]:
        layers = super().encode(pixels, quality, captured=captured)
        return [layer + zlib.crc32(layer).to_bytes(4, "little") for layer in layers]
