"""Reading any common picture file into RGB bytes, and writing RGB bytes out again.

What a file holds beyond eight-bit RGB is settled here, once, for every way a picture can enter Pinhole:

==================  ===================================================================================================
in the file         becomes
==================  ===================================================================================================
EXIF orientation    applied (Exif 2.32, tag 0x0112), so rows run from top to bottom as the picture is meant to be seen
colour profile      converted to sRGB where an RGB or CMYK picture carries an ICC profile that can be read
grey, bilevel       three equal channels
palette             its colours
transparency        composited on white, as paper and most viewers show it; there is no fourth channel to send
16-bit grey         ``round(value * 255 / 65535)``
16-bit colour       the high byte of each sample, which is all that Pillow hands out (at most one level lower)
CMYK, YCbCr, HSV    RGB
several frames      the first one
float, 32-bit, Lab  refused: nothing in the file says which value is white, or the conversion is not defined
==================  ===================================================================================================
"""

import io
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from shared.codec.interfaces import Pixels
from shared.errors import PinholeError
from shared.files import write_atomically

MAX_SIDE = 65_535
"""Largest width and height in pixels that a picture header can name."""

MAX_PIXELS = 2**27
"""Largest width times height that is read, in pixels (400 MB as RGB): more is taken for a decompression bomb."""

# Formats whose decoders are meant for untrusted files; Pillow would else start Ghostscript for a stray EPS.
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_WHITE = (255, 255, 255, 255)
_STRIP = 2**21  # pixels that are converted at a time

# Pillow warns of odd metadata and of sizes that are within our own limit; either would be a line about a picture that
# was read well.
warnings.filterwarnings("ignore", module=r"PIL\.")


def load_picture(path: Path | str) -> Pixels:
    """Read a picture file.

    Args:
        path: a PNG, JPEG, WebP, AVIF, TIFF, BMP, GIF, PNM or JPEG 2000 file; what it is is read from its content.

    Returns:
        RGB bytes ``height x width x 3``, each 0 to 255, writable and contiguous.

    Raises:
        PinholeError: one line naming the file, if it is missing, no picture, cut short, damaged, larger than
            ``MAX_PIXELS`` or of a kind that has no defined look (see the module's table).
    """
    try:
        # Reading as it is decoded keeps a large file out of memory.
        with Path(path).open("rb") as file:
            return _decode(file, str(path))
    except OSError as error:
        raise PinholeError(f"cannot read picture {path}: {error.strerror or error}") from error


def decode_picture(data: bytes, name: str) -> Pixels:
    """Decode the content of a picture file; ``name`` says in errors which one. Otherwise like `load_picture`."""
    return _decode(io.BytesIO(data), name)


def _decode(file: IO[bytes], name: str) -> Pixels:
    try:
        with Image.open(file, formats=_readable_formats()) as image:
            width, height = image.size
            if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
                raise PinholeError(
                    f"picture {name} has {width}x{height} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS} in all "
                    "are read, so scale it down"
                )
            image.load()
            _apply_orientation(image)
            return _to_rgb(image, name)
    except PinholeError:
        raise
    except UnidentifiedImageError as error:
        raise PinholeError(f"{name} is no picture that Pinhole reads; give a PNG, JPEG, WebP or TIFF file") from error
    except Image.DecompressionBombError as error:
        raise PinholeError(f"picture {name} has more than {MAX_PIXELS} pixels; scale it down") from error
    except MemoryError as error:
        raise PinholeError(f"not enough memory to decode picture {name}; scale it down") from error
    except Exception as error:
        # Pillow's decoders answer a damaged file with OSError, SyntaxError, ValueError, struct.error, IndexError ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PinholeError(f"picture {name} is damaged or cut short ({reason}); copy it again") from error


def save_picture(pixels: Pixels, path: Path | str) -> None:
    """Write a picture file, whole or not at all.

    Args:
        pixels: RGB bytes ``height x width x 3``.
        path: where to; the suffix picks the format: ``.png`` and ``.webp`` without loss, ``.jpg`` and ``.jpeg`` at
            quality 95 without chroma subsampling.

    Raises:
        PinholeError: if the suffix is another one, the format cannot hold the size, or the disk refuses.
    """
    path = Path(path)
    write_atomically(path, encode_picture(pixels, path))


def encode_picture(pixels: Pixels, path: Path) -> bytes:
    """Return what `save_picture` would write at ``path``.

    Raises:
        PinholeError: if the suffix is unknown or the format cannot hold the size.
    """
    check_writable_format(path)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    buffer = io.BytesIO()
    try:
        match path.suffix.lower():
            case ".png":
                image.save(buffer, "PNG")
            case ".webp":
                image.save(buffer, "WEBP", lossless=True)
            case _:
                image.save(buffer, "JPEG", quality=95, subsampling=0)
    except (OSError, ValueError) as error:
        raise PinholeError(
            f"cannot write {image.width}x{image.height} pixels as {path.name} ({error}); use a .png file"
        ) from error
    return buffer.getvalue()


def check_writable_format(path: Path) -> None:
    """Raise early if `save_picture` would not know the suffix.

    Raises:
        PinholeError: if the suffix is not .png, .jpg, .jpeg or .webp.
    """
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise PinholeError(f"cannot tell the picture format of {path}; end the name in .png, .jpg or .webp")


@cache
def _readable_formats() -> tuple[str, ...]:
    """Those of our formats that this build of Pillow has; it raises KeyError for others."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _apply_orientation(image: Image.Image) -> None:
    # Damaged metadata is no reason to refuse whole pixels: without a readable orientation they stay as stored.
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _to_rgb(image: Image.Image, name: str) -> Pixels:
    sixteen_bits = image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format == "PPM")
    if not sixteen_bits and image.mode in ("I", "F", "LAB"):
        raise PinholeError(
            f"picture {name} has samples of type {image.mode}, whose white is not defined; convert it to 8 or 16 bits"
        )
    convert = _grey_from_16_bits if sixteen_bits else _colour
    rows = max(1, _STRIP // image.width)
    if image.height <= rows:
        return convert(image)
    # Nothing here looks beyond a pixel, so strips give the same, and no second copy of a large picture is made.
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        pixels[top:bottom] = convert(image.crop((0, top, image.width, bottom)))
    return pixels


def _colour(image: Image.Image) -> Pixels:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba).convert("RGB")
        flat.info = image.info
        image = flat
    return np.array(_in_srgb(image))


def _grey_from_16_bits(image: Image.Image) -> Pixels:
    values = np.asarray(image).astype(np.uint32)
    grey: NDArray[np.uint8] = ((values + 128) // 257).astype(np.uint8)
    # A PNG may name one grey value as transparent (PNG, section 11.3.2.1).
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return np.repeat(grey[:, :, None], 3, axis=2)


def _in_srgb(image: Image.Image) -> Image.Image:
    """Convert to RGB, through the picture's own colour profile where it has a readable one."""
    profile = image.info.get("icc_profile")
    if image.mode == "P":
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            # Most profiles in the wild are sRGB itself; converting those would cost time and a rounding.
            if "sRGB" not in ImageCms.getProfileDescription(source):
                converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
                if converted is not None:
                    return converted
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            # A broken profile says nothing about the pixels: read them as the nearly universal sRGB.
            pass
    return image.convert("RGB")
