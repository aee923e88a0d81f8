"""The picture header: the first bytes of the base layer, all a decoder needs beside the bundle.

Little-endian, 10 bytes, 14 with a capture time::

    offset  bytes  content
    0       1      bits 0-3 format version (1), bit 4 capture time present, bit 5 reserved (fidelity tag), 6-7 zero
    1       4      bundle id (first four bytes of the bundle's hash)
    5       2      width in pixels, 1 to 65535
    7       2      height in pixels, 1 to 65535
    9       1      bits 0-3 quality (1 to 15), bits 4-7 number of layers (1 to 15)
    10      4      capture time, seconds since 1970 (only if bit 4 of byte 0 is set)
"""

import struct
from dataclasses import dataclass

from shared.errors import CorruptDataError, PinholeError

VERSION = 1
_FIXED = struct.Struct("<B4sHHB")
_TIME = struct.Struct("<I")
_TIME_PRESENT = 0x10
_RESERVED = 0xE0


@dataclass(frozen=True)
class PictureHeader:
    """Header of one picture.

    Attributes:
        bundle_id: 4 bytes.
        width: pixels, 1 to 65535.
        height: pixels, 1 to 65535.
        quality: operating point, 1 to 15.
        layers: number of layers the sender made, 1 to 15.
        captured: seconds since 1970, or None.
    """

    bundle_id: bytes
    width: int
    height: int
    quality: int
    layers: int
    captured: int | None = None

    def pack(self) -> bytes:
        """Return the header's bytes.

        Raises:
            PinholeError: if a value is out of range.
        """
        if not (1 <= self.width <= 65535 and 1 <= self.height <= 65535):
            raise PinholeError(f"picture of {self.width}x{self.height} pixels: sides must be 1 to 65535; resize it")
        if not (1 <= self.quality <= 15 and 1 <= self.layers <= 15 and len(self.bundle_id) == 4):
            raise PinholeError("picture header: quality and layer count must be 1 to 15, the bundle id 4 bytes")
        flags = VERSION | (_TIME_PRESENT if self.captured is not None else 0)
        packed = _FIXED.pack(flags, self.bundle_id, self.width, self.height, self.quality | self.layers << 4)
        return packed if self.captured is None else packed + _TIME.pack(self.captured & 0xFFFFFFFF)

    @classmethod
    def unpack(cls, data: bytes) -> tuple["PictureHeader", int]:
        """Read a header from the start of a base layer; return it and its length in bytes.

        Raises:
            CorruptDataError: if the bytes are not a header that this version can read.
        """
        if len(data) < _FIXED.size:
            raise CorruptDataError(f"base layer of {len(data)} bytes is too short for a picture header; send it again")
        flags, bundle_id, width, height, counts = _FIXED.unpack_from(data)
        if flags & 0x0F != VERSION:
            raise CorruptDataError(f"picture header has version {flags & 0x0F}; this Pinhole reads version {VERSION}")
        quality, layers = counts & 0x0F, counts >> 4
        if flags & _RESERVED or not (width and height and quality and layers):
            raise CorruptDataError("picture header is damaged (reserved bits set or a zero size); send it again")
        if not flags & _TIME_PRESENT:
            return cls(bundle_id, width, height, quality, layers), _FIXED.size
        if len(data) < _FIXED.size + _TIME.size:
            raise CorruptDataError("base layer ends inside its picture header; send it again")
        (captured,) = _TIME.unpack_from(data, _FIXED.size)
        return cls(bundle_id, width, height, quality, layers, captured), _FIXED.size + _TIME.size
