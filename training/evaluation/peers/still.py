"""JPEG, JPEG 2000, WebP and AVIF through Pillow, JPEG XL through ffmpeg's libjxl.

All at their slow, dense settings, and without metadata: what is counted is what the format cannot do without.
"""

import io
import struct
from typing import Any

import numpy as np
import PIL
from PIL import Image, features

from shared.codec.interfaces import Pixels
from shared.errors import CorruptDataError, PinholeError
from training.evaluation.peers import ffmpeg
from training.evaluation.peers.peer import Peer

LONGEST_DECODE = 30.0
"""Seconds that ffmpeg may take for a JPEG XL file of one megapixel: with a truncated one it never ends."""
_START_OF_TILE, _COMMENT = 0xFF90, 0xFF64  # markers of a JPEG 2000 codestream (T.800, table A.2)


class _PillowPeer(Peer):
    """One of Pillow's own codecs."""

    form: str  # Pillow's name of the format
    feature: str  # Pillow's name of the library behind it
    options: dict[str, Any]

    def _version(self) -> str:
        library = f"{self.feature} {features.version(self.feature)} of Pillow {PIL.__version__}"
        return " ".join([library, *(f"{name}={value}" for name, value in self.options.items())])

    def missing(self) -> str | None:
        if features.check(self.feature):
            return None
        return f"Pillow {PIL.__version__} was built without {self.feature}; install the wheel from its authors"

    def describe(self, setting: int) -> str:
        return f"quality {setting}"

    def _setting_options(self, setting: int, pixels: Pixels) -> dict[str, Any]:
        del pixels
        return {"quality": setting}

    def encode(self, pixels: Pixels, setting: int) -> bytes:
        target = io.BytesIO()
        image = Image.fromarray(np.ascontiguousarray(pixels))
        try:
            image.save(target, self.form, **self.options, **self._setting_options(setting, pixels))
        except (OSError, ValueError) as error:
            height, width = pixels.shape[:2]
            raise PinholeError(f"{self.name} cannot hold {width}x{height} pixels ({error}); leave it out") from error
        return target.getvalue()

    def decode(self, data: bytes, width: int, height: int) -> Pixels:
        try:
            with Image.open(io.BytesIO(data), formats=[self.form]) as image:
                pixels = np.array(image.convert("RGB"))
        except Exception as error:
            # Pillow answers damage with OSError, SyntaxError, ValueError and more.
            raise CorruptDataError(f"{self.name} file cannot be decoded ({error})") from error
        return _checked(self.name, pixels, width, height)


class Jpeg(_PillowPeer):
    """Progressive, optimised Huffman tables, 4:2:0."""

    name = "JPEG"
    settings = tuple(range(1, 96))
    form, feature = "JPEG", "jpg"
    options = {"optimize": True, "progressive": True, "subsampling": "4:2:0"}  # noqa: RUF012


class Jpeg2000(_PillowPeer):
    """9/7 wavelet on YCbCr, one quality layer cut to a compression ratio, the bare codestream without comment.

    A setting of n asks for 1/6000 of the raw size times 1.02**n.
    """

    name = "JPEG 2000"
    settings = tuple(range(0, 381))
    form, feature = "JPEG2000", "jpg_2000"
    options = {"irreversible": True, "mct": 1, "no_jp2": True, "quality_mode": "rates"}  # noqa: RUF012

    def describe(self, setting: int) -> str:
        """Say it as in `Peer.describe`."""
        return f"ratio {self._ratio(setting):.4g}"

    def encode(self, pixels: Pixels, setting: int) -> bytes:
        """Encode as `Peer.encode` says."""
        return _without_comments(super().encode(pixels, setting))

    def _setting_options(self, setting: int, pixels: Pixels) -> dict[str, Any]:
        # Every resolution halves the sides; the coarsest must keep a sample.
        resolutions = max(1, min(6, int(np.log2(min(pixels.shape[:2]))) + 1))
        return {"quality_layers": [self._ratio(setting)], "num_resolutions": resolutions}

    def _ratio(self, setting: int) -> float:
        return 6000.0 * 1.02**-setting


class WebP(_PillowPeer):
    """Lossy WebP with its slowest search."""

    name = "WebP"
    settings = tuple(range(0, 101))
    form, feature = "WEBP", "webp"
    options = {"method": 6}  # noqa: RUF012


class Avif(_PillowPeer):
    """AV1 still picture by libaom in libavif's container, 4:2:0.

    Tuned for PSNR: Pillow's own tuning, made for higher rates, makes smallest files of twice the bytes.
    """

    name = "AVIF"
    settings = tuple(range(0, 101))
    form, feature = "AVIF", "avif"
    options = {  # noqa: RUF012
        "codec": "aom",
        "speed": 4,
        "subsampling": "4:2:0",
        "max_threads": 1,
        "advanced": {"tune": "psnr"},
    }

    def missing(self) -> str | None:
        """Say what is missing as `Peer.missing` does."""
        reason = super().missing()
        if reason is not None:
            return reason
        from PIL import _avif

        if _avif.encoder_codec_available("aom"):
            return None
        return f"Pillow {PIL.__version__} was built without the AV1 encoder aom; install the wheel from its authors"


class JpegXl(Peer):
    """Lossy JPEG XL in XYB as a bare codestream; a setting is the Butteraugli distance in tenths.

    15 is the largest distance that ffmpeg hands on. The modular mode makes smaller files there than VarDCT, so a few
    settings below zero, the distance negated, stand for it.
    """

    name = "JPEG XL"
    settings = (*range(-150, -120, 10), *range(150, 1, -1))
    options = ("-effort", "9")

    def _version(self) -> str:
        return " ".join(("libjxl of ffmpeg", ffmpeg.version(), *self.options))

    def missing(self) -> str | None:
        """Say what is missing as `Peer.missing` does."""
        return ffmpeg.missing("libjxl", "libjxl")

    def describe(self, setting: int) -> str:
        """Say it as in `Peer.describe`."""
        return f"distance {abs(setting) / 10:g}{', modular' if setting < 0 else ''}"

    def encode(self, pixels: Pixels, setting: int) -> bytes:
        """Encode as `Peer.encode` says."""
        height, width = pixels.shape[:2]
        arguments = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-i", "pipe:0"]
        arguments += ["-c:v", "libjxl", "-threads", "1", *self.options]
        arguments += ["-distance", f"{abs(setting) / 10:.1f}", "-modular", str(int(setting < 0))]
        return ffmpeg.run([*arguments, "-f", "image2pipe"], np.ascontiguousarray(pixels).tobytes())

    def decode(self, data: bytes, width: int, height: int) -> Pixels:
        """Decode as `Peer.decode` says."""
        # One frame only: from a truncated file ffmpeg would give the same frame without end.
        arguments = [
            "-f",
            "jpegxl_pipe",
            "-c:v",
            "libjxl",
            "-threads",
            "1",
            "-i",
            "pipe:0",
            "-frames:v",
            "1",
            "-f",
            "rawvideo",
        ]
        try:
            raw = ffmpeg.run([*arguments, "-pix_fmt", "rgb24"], data, LONGEST_DECODE * max(1.0, width * height / 1e6))
        except ffmpeg.FfmpegError as error:
            raise CorruptDataError(f"{self.name} file cannot be decoded: {error}") from error
        if len(raw) != 3 * width * height:
            raise CorruptDataError(f"{self.name} file holds {len(raw)} samples, not those of {width}x{height} pixels")
        return np.frombuffer(raw, np.uint8).reshape(height, width, 3).copy()


def _checked(name: str, pixels: Pixels, width: int, height: int) -> Pixels:
    if pixels.shape != (height, width, 3):
        raise CorruptDataError(f"{name} file has {pixels.shape[1]}x{pixels.shape[0]} pixels, not {width}x{height}")
    return pixels


def _without_comments(stream: bytes) -> bytes:
    """Take the comment segments out of a codestream's main header: OpenJPEG signs every file with 37 bytes."""
    kept, position = [stream[:2]], 2
    while position + 4 <= len(stream):
        marker, length = struct.unpack_from(">HH", stream, position)
        if marker == _START_OF_TILE:
            break
        if marker != _COMMENT:
            kept.append(stream[position : position + 2 + length])
        position += 2 + length
    return b"".join([*kept, stream[position:]])
