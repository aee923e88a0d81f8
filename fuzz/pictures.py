"""``.pin`` files, and the headers of pictures."""

import zlib

from fuzz.harness import Harness, demand
from shared.codec.header import PictureHeader
from shared.codec.pin import pack_pin, unpack_pin
from shared.errors import CorruptDataError


def run(data: bytes) -> None:
    """Read a file as it is, with its checksum put right, and salvaged; read the headers in front of layers."""
    summed = data + zlib.crc32(data).to_bytes(4, "little")
    for content in (data, summed):
        try:
            layers = unpack_pin(content)
        except CorruptDataError:
            pass
        else:
            demand(pack_pin(layers) == content, "a file can be written in two ways")
        _salvage(content)
    _read_header(data)


def _salvage(content: bytes) -> None:
    try:
        layers = unpack_pin(content, salvage=True)
    except CorruptDataError:
        return
    demand(all(layers) and sum(map(len, layers)) < len(content), "salvage makes bytes up")
    for layer in layers:
        _read_header(layer)


def _read_header(data: bytes) -> None:
    try:
        header, size = PictureHeader.unpack(data)
    except CorruptDataError:
        return
    demand(header.pack() == data[:size], "a header can be written in two ways")


def seeds() -> list[bytes]:
    """Files of one to fifteen layers, and headers."""
    headers = [
        PictureHeader(b"\1\2\3\4", 640, 480, 4.5, 4).pack(),
        PictureHeader(b"\0\0\0\0", 65535, 1, 1.0, 15, 1_700_000_000).pack(),
    ]
    files = [pack_pin([headers[0] + bytes(30), *[b"l" * (7 * i + 1) for i in range(count)]]) for count in (0, 1, 3, 14)]
    files.append(pack_pin([headers[1], b"m" * 300, b"n"]))
    return [b"", *headers, *files, *(file[:-4] for file in files), files[2][:60]]


HARNESS = Harness(".pin files and picture headers", run, seeds)
