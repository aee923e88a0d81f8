"""HEVC and VVC as still-picture codecs: one intra picture, the raw bitstream counted, through ffmpeg's encoders.

What both streams carry is what a decoder needs: parameter sets and one picture. Supplemental messages (x265 writes its
name and every option into one) and delimiters are taken out, colour is agreed beforehand (`colour`) rather than
signalled, and the sides are padded to a multiple of eight by repeating the edge, with the true size known to both ends
for free: every doubt is resolved in the peer's favour.
"""

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from shared.codec.interfaces import Pixels
from shared.errors import CorruptDataError
from training.evaluation.peers import colour, ffmpeg
from training.evaluation.peers.peer import Peer

_GRID = 8  # smallest coding block of HEVC and VVC here: the encoders would pad to it themselves
_LEAST = 64  # pixels a side: one coding tree unit


class _VideoPeer(Peer):
    """Carries padding, planes and ffmpeg's plumbing; a codec adds its names and options."""

    encoder: str
    decoder: str
    container: str  # ffmpeg's name of the raw bitstream format
    sample_format: str
    bits: int
    halved: bool  # whether chroma has half the resolution
    dropped_units: str  # types of the NAL units that are not counted
    options: tuple[str, ...]

    def _version(self) -> str:
        return " ".join((self.encoder, "of ffmpeg", ffmpeg.version(), self.sample_format, *self.options))

    def missing(self) -> str | None:
        return ffmpeg.missing(self.encoder, self.decoder)

    def describe(self, setting: int) -> str:
        return f"qp {setting}"

    @abstractmethod
    def _qp_options(self, qp: int) -> list[str]: ...

    def encode(self, pixels: Pixels, setting: int) -> bytes:
        height, width = pixels.shape[:2]
        rows, columns = _padded(height), _padded(width)
        padded = np.pad(pixels, ((0, rows - height), (0, columns - width), (0, 0)), mode="edge")
        arguments = ["-f", "rawvideo", "-pix_fmt", self.sample_format, "-s", f"{columns}x{rows}", "-r", "1"]
        arguments += ["-i", "pipe:0", "-frames:v", "1", "-c:v", self.encoder, "-threads", "1"]
        arguments += [*self.options, *self._qp_options(setting)]
        arguments += ["-bsf:v", f"filter_units=remove_types={self.dropped_units}", "-f", self.container]
        return ffmpeg.run(arguments, self._samples(padded))

    def decode(self, data: bytes, width: int, height: int) -> Pixels:
        rows, columns = _padded(height), _padded(width)
        arguments = ["-f", self.container, "-threads", "1", "-i", "pipe:0", "-frames:v", "1"]
        arguments += ["-f", "rawvideo", "-pix_fmt", self.sample_format]
        try:
            raw = ffmpeg.run(arguments, data)
        except ffmpeg.FfmpegError as error:
            raise CorruptDataError(f"{self.name} bitstream cannot be decoded: {error}") from error
        luma, chroma = rows * columns, rows * columns // (4 if self.halved else 1)
        expected = (luma + 2 * chroma) * (2 if self.bits > 8 else 1)
        if len(raw) != expected:
            raise CorruptDataError(
                f"{self.name} bitstream holds {len(raw)} bytes of samples; {width}x{height} pixels have {expected}"
            )
        samples = np.frombuffer(raw, np.dtype("<u2") if self.bits > 8 else np.uint8).astype(np.uint16)
        shape = (rows // 2, columns // 2) if self.halved else (rows, columns)
        y = colour.expand_luma(samples[:luma].reshape(rows, columns), self.bits)
        cb, cr = (colour.expand_chroma(part.reshape(shape), self.bits) for part in np.split(samples[luma:], 2))
        if self.halved:
            cb, cr = colour.double(cb), colour.double(cr)
        return np.ascontiguousarray(colour.to_pixels(y, cb, cr)[:height, :width])

    def _samples(self, pixels: Pixels) -> bytes:
        y, cb, cr = colour.to_planes(pixels)
        if self.halved:
            cb, cr = colour.halve(cb), colour.halve(cr)
        planes: list[NDArray[np.uint16]] = [colour.quantise_luma(y, self.bits)]
        planes += [colour.quantise_chroma(plane, self.bits) for plane in (cb, cr)]
        return b"".join(plane.astype("<u2" if self.bits > 8 else np.uint8).tobytes() for plane in planes)


class Hevc(_VideoPeer):
    """HEVC intra 4:4:4 with 8 bits, by x265: stands in for BPG, which is this coding with a header of its own.

    BPG's header is some 60 bytes shorter than the parameter sets of a raw stream, which are counted here. Tuned for
    PSNR: that saves 14 % of the bytes at equal PSNR and costs 1 % at equal ST-LPIPS (three Kodak pictures, qp 40-51).
    """

    name = "HEVC"
    settings = tuple(range(51, 5, -1))
    encoder = "libx265"
    decoder = "hevc"
    container = "hevc"
    sample_format = "yuv444p"
    bits = 8
    halved = False
    dropped_units = "35|39|40"  # access unit delimiter, prefix and suffix SEI (H.265, table 7-1)
    options = ("-preset", "placebo", "-tune", "psnr")

    def _qp_options(self, qp: int) -> list[str]:
        # No wavefronts, so no restarts of the entropy coder; an intra picture is coded at the very qp that is named.
        return ["-x265-params", f"qp={qp}:ipratio=1:keyint=1:info=0:wpp=0:pools=none:frame-threads=1:log-level=error"]


class Vvc(_VideoPeer):
    """VVC intra by VVenC, in the one format that it has: 4:2:0 with 10 bits (profile Main 10).

    At the rates of interest full chroma resolution would cost more than it brings; ten bits code eight-bit pictures
    better than eight do. Perceptual quantisation is off, as in the reference encoder. The preset is the slowest that
    encodes 768x512 pixels at up to 0.15 bit per pixel in about three seconds on one core.
    """

    name = "VVC"
    settings = tuple(range(63, 5, -1))
    encoder = "libvvenc"
    decoder = "vvc"
    container = "vvc"
    sample_format = "yuv420p10le"
    bits = 10
    halved = True
    dropped_units = "20|23|24"  # access unit delimiter, prefix and suffix SEI (H.266, table 5)
    options = ("-preset", "medium", "-qpa", "0")

    def _qp_options(self, qp: int) -> list[str]:
        return ["-qp", str(qp)]


def _padded(side: int) -> int:
    return max(_LEAST, -(-side // _GRID) * _GRID)
