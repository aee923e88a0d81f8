"""The picture header: the first bytes of the base layer, all a decoder needs beside the bundle.

Little-endian, 10 bytes, 14 with a capture time::

    offset  bytes  content
    0       1      bits 0-1 format version (2), bit 2 capture time present, bit 3 reserved (fidelity tag),
                   bits 4-7 number of layers (1 to 15)
    1       4      bundle id (first four bytes of the bundle's hash)
    5       2      width in pixels, 1 to 65535
    7       2      height in pixels, 1 to 65535
    9       1      (quality - 1) * 16: 0 is quality 1, 255 is quality 16.9375
    10      4      capture time, seconds since 1970 (only if bit 2 of byte 0 is set)

Version 1 had its number in four bits and the layers beside a quality of four bits in byte 9. Either version's reader
refuses the other's headers: the lowest two bits differ. Version 0 is left for a header with its version elsewhere.
"""

import struct
from dataclasses import dataclass

from shared.codec.quality import HIGHEST_QUALITY, QUALITY_STEPS
from shared.errors import CorruptDataError, PinholeError

VERSION = 2
_FIXED = struct.Struct("<B4sHHB")
_TIME = struct.Struct("<I")
_VERSION_BITS = 0x03
_TIME_PRESENT = 0x04
_RESERVED = 0x08


@dataclass(frozen=True)
class PictureHeader:
    """Header of one picture.

    Attributes:
        bundle_id: 4 bytes.
        width: pixels, 1 to 65535.
        height: pixels, 1 to 65535.
        quality: 1 to 16.9375, a multiple of 1/16; the bundle says how far it really goes.
        layers: number of layers the sender made, 1 to 15.
        captured: seconds since 1970, or None.
    """

    bundle_id: bytes
    width: int
    height: int
    quality: float
    layers: int
    captured: int | None = None

    def pack(self) -> bytes:
        """Return the header's bytes.

        Raises:
            PinholeError: if a value is out of range.
        """
        if not (1 <= self.width <= 65535 and 1 <= self.height <= 65535):
            raise PinholeError(f"picture of {self.width}x{self.height} pixels: sides must be 1 to 65535; resize it")
        if not (1 <= self.layers <= 15 and len(self.bundle_id) == 4):
            raise PinholeError("picture header: the layer count must be 1 to 15, the bundle id 4 bytes")
        if not 1 <= self.quality <= HIGHEST_QUALITY or self.quality * QUALITY_STEPS % 1:
            # Rounding here would name another quality than the latents were coded at.
            raise PinholeError(
                f"picture header: quality {self.quality:g} must be 1 to {HIGHEST_QUALITY:g} in steps of 1/16"
            )
        flags = VERSION | (_TIME_PRESENT if self.captured is not None else 0) | self.layers << 4
        step = int((self.quality - 1) * QUALITY_STEPS)
        packed = _FIXED.pack(flags, self.bundle_id, self.width, self.height, step)
        return packed if self.captured is None else packed + _TIME.pack(self.captured & 0xFFFFFFFF)

    @classmethod
    def unpack(cls, data: bytes) -> tuple["PictureHeader", int]:
        """Read a header from the start of a base layer; return it and its length in bytes.

        Raises:
            CorruptDataError: if the bytes are not a header that this version can read.
        """
        if len(data) < _FIXED.size:
            raise CorruptDataError(f"base layer of {len(data)} bytes is too short for a picture header; send it again")
        flags, bundle_id, width, height, step = _FIXED.unpack_from(data)
        if (version := flags & _VERSION_BITS) != VERSION:
            raise CorruptDataError(f"picture header has version {version}; this Pinhole reads version {VERSION}")
        quality, layers = 1 + step / QUALITY_STEPS, flags >> 4
        if flags & _RESERVED or not (width and height and layers):
            raise CorruptDataError("picture header is damaged (a reserved bit set or a zero size); send it again")
        if not flags & _TIME_PRESENT:
            return cls(bundle_id, width, height, quality, layers), _FIXED.size
        if len(data) < _FIXED.size + _TIME.size:
            raise CorruptDataError("base layer ends inside its picture header; send it again")
        (captured,) = _TIME.unpack_from(data, _FIXED.size)
        return cls(bundle_id, width, height, quality, layers, captured), _FIXED.size + _TIME.size
