"""Large pictures are converted in strips; they look as if they had been converted at once."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from shared import picture
from shared.picture import decode_picture


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def samples(*shape: int, high: int = 256) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.random.default_rng(sum(shape)).integers(0, high, shape)


def files() -> dict[str, bytes]:
    rgb = Image.fromarray(samples(23, 17, 3).astype(np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    transparent = Image.fromarray(samples(23, 17, high=4).astype(np.uint8), "P")
    transparent.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    grey16 = Image.fromarray(samples(23, 17, high=65_536).astype(np.uint16))
    return {
        "rgb": encoded(rgb, "PNG"),
        "another colour space": encoded(rgb, "PNG", icc_profile=profile),
        "alpha": encoded(Image.fromarray(samples(23, 17, 4).astype(np.uint8)), "PNG"),
        "transparent palette": encoded(transparent, "PNG", transparency=2),
        "16-bit grey": encoded(grey16, "PNG"),
        "16-bit grey PGM": b"P5 17 23 65535\n" + samples(23, 17, high=65_536).astype(">u2").tobytes(),
        "grey": encoded(rgb.convert("L"), "JPEG"),
        "CMYK": encoded(rgb.convert("CMYK"), "TIFF"),
        "turned": encoded(rgb, "TIFF", exif=orientation(6)),
    }


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("name", files())
@pytest.mark.parametrize("strip", [1, 40, 17 * 22])
def test_strips_do_not_show(monkeypatch: pytest.MonkeyPatch, name: str, strip: int) -> None:
    data = files()[name]
    whole = decode_picture(data, name)
    monkeypatch.setattr(picture, "_STRIP", strip)
    pixels = decode_picture(data, name)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels, whole)
