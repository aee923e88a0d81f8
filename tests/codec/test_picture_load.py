import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from shared import picture
from shared.codec.interfaces import Pixels
from shared.errors import PinholeError
from shared.picture import decode_picture, load_picture


def photograph(height: int = 24, width: int = 36) -> Pixels:
    """Smooth, asymmetric, all three channels different."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (x * 255 / max(width - 1, 1), y * 255 / max(height - 1, 1), (x + 2 * y) % 256)
    pixels: Pixels = np.stack(channels, axis=2).astype(np.uint8)
    return pixels


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Write a PNG by hand: Pillow cannot write every kind that it reads."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    middle = b"".join(chunk(*each) for each in chunks)
    data = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + data


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_lossless_formats_come_back_exactly(tmp_path: Path, kind: str) -> None:
    pixels = photograph()
    file = tmp_path / "picture.any"
    file.write_bytes(encoded(Image.fromarray(pixels), kind))
    loaded = load_picture(file)
    assert loaded.dtype == np.uint8
    assert loaded.flags.writeable
    assert loaded.flags.c_contiguous
    np.testing.assert_array_equal(loaded, pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "JPEG2000"])
def test_lossy_formats_come_back_nearly(kind: str) -> None:
    pixels = np.repeat(photograph()[:, :, :1], 3, axis=2)
    difference = decode_picture(encoded(Image.fromarray(pixels), kind), "p").astype(int) - pixels
    assert np.abs(difference).mean() < 6


@pytest.mark.parametrize(
    ("orientation", "steps"),
    [(1, ""), (2, "h"), (3, "rr"), (4, "v"), (5, "t"), (6, "rrr"), (7, "trr"), (8, "r")],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, steps: str, kind: str) -> None:
    stored = photograph()
    upright = stored
    for step in steps:
        match step:
            case "h":
                upright = upright[:, ::-1]
            case "v":
                upright = upright[::-1]
            case "t":
                upright = upright.transpose(1, 0, 2)
            case _:
                upright = np.rot90(upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(stored), kind, exif=exif.tobytes(), **options)
    np.testing.assert_array_equal(decode_picture(data, "p"), upright)


def test_damaged_exif_does_not_cost_the_picture() -> None:
    pixels = photograph()
    data = encoded(Image.fromarray(pixels), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode_picture(data, "p"), pixels)


def test_grey_and_bilevel_become_three_equal_channels() -> None:
    grey = photograph()[:, :, 0]
    loaded = decode_picture(encoded(Image.fromarray(grey), "PNG"), "p")
    np.testing.assert_array_equal(loaded, np.repeat(grey[:, :, None], 3, axis=2))
    bilevel = decode_picture(encoded(Image.fromarray(grey > 100), "PNG"), "p")
    assert set(np.unique(bilevel)) == {0, 255}


def test_alpha_is_composited_on_white() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = (0, 128, 255)
    rgba[0, :, 0] = 200
    loaded = decode_picture(encoded(Image.fromarray(rgba), "PNG"), "p")
    np.testing.assert_allclose(loaded[0].astype(int), [[255, 255, 255], [227, 127, 127], [200, 0, 0]], atol=1)


def test_grey_alpha_and_transparent_palette_are_composited_on_white() -> None:
    grey_alpha = np.array([[[10, 0], [10, 255]]], np.uint8)
    loaded = decode_picture(encoded(Image.fromarray(grey_alpha, "LA"), "PNG"), "p")
    assert loaded.tolist() == [[[255] * 3, [10] * 3]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([1, 2, 3, 40, 50, 60])
    palette.putdata([0, 1])
    assert decode_picture(encoded(palette, "PNG", transparency=0), "p").tolist() == [[[255] * 3, [40, 50, 60]]]
    assert decode_picture(encoded(palette, "PNG"), "p").tolist() == [[[1, 2, 3], [40, 50, 60]]]


def test_16_bit_grey_is_scaled_and_rounded() -> None:
    values = np.array([0, 128, 129, 257, 0x8080, 0xFF7E, 0xFF7F, 0xFFFF], ">u2")
    loaded = decode_picture(png(8, 1, 16, 0, b"\0" + values.tobytes()), "p")
    expected = np.round(values.astype(float) * 255 / 65535).astype(int)
    np.testing.assert_array_equal(loaded[0], np.repeat(expected[:, None], 3, axis=1))


def test_16_bit_grey_with_a_transparent_value() -> None:
    values = np.array([5, 700, 65535, 701], ">u2")
    loaded = decode_picture(png(4, 1, 16, 0, b"\0" + values.tobytes(), (b"tRNS", struct.pack(">H", 700))), "p")
    assert loaded[0, :, 0].tolist() == [0, 255, 255, 3]


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_16_bit_colour_is_at_most_one_level_off(colour: int, channels: int) -> None:
    values = np.random.default_rng(colour).integers(0, 65536, (16, channels)).astype(">u2")
    if channels in (2, 4):
        values[:, -1] = 65535
    loaded = decode_picture(png(16, 1, 16, colour, b"\0" + values.tobytes()), "p")
    colours = values[:, : channels if channels == 3 else channels - 1].astype(float) * 255 / 65535
    assert np.abs(loaded[0].astype(float) - colours).max() <= 1


def test_16_bit_pgm_and_tiff_are_scaled() -> None:
    values = np.array([[0, 0x8000, 0xFFFF]], np.uint16)
    pgm = b"P5 3 1 65535\n" + values.astype(">u2").tobytes()
    assert decode_picture(pgm, "p")[0, :, 0].tolist() == [0, 128, 255]
    assert decode_picture(encoded(Image.fromarray(values), "TIFF"), "p")[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_samples_without_a_white_are_refused(mode: str) -> None:
    with pytest.raises(PinholeError, match="white is not defined"):
        decode_picture(encoded(Image.new(mode, (4, 4)), "TIFF"), "p")


def test_cmyk_becomes_rgb() -> None:
    data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF")
    assert decode_picture(data, "p")[0, 0].tolist() == [255, 0, 0]


def test_a_colour_profile_is_converted_to_srgb() -> None:
    pixels = photograph()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = decode_picture(encoded(Image.fromarray(pixels), "PNG", icc_profile=srgb), "p")
    np.testing.assert_array_equal(plain, pixels)
    # A profile that does not fit the pixels, and one that is none, are passed over.
    for profile in (lab, b"no profile"):
        np.testing.assert_array_equal(
            decode_picture(encoded(Image.fromarray(pixels), "PNG", icc_profile=profile), "p"), pixels
        )


def test_wide_gamut_red_is_brought_into_srgb() -> None:
    # Identity in all but its primaries: red and green exchanged makes a conversion visible without a real profile.
    srgb = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(srgb[128:132], "big")
    entries = {bytes(srgb[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, green = entries[b"rXYZ"], entries[b"gXYZ"]
    srgb[red : red + 4], srgb[green : green + 4] = b"gXYZ", b"rXYZ"
    position = srgb.find("sRGB".encode("utf-16-be"))
    assert position > 0
    srgb[position : position + 8] = "swap".encode("utf-16-be")
    data = encoded(Image.new("RGB", (4, 4), (255, 0, 0)), "PNG", icc_profile=bytes(srgb))
    np.testing.assert_allclose(decode_picture(data, "p")[0, 0].astype(int), [0, 255, 0], atol=2)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_several_frames_is_read(kind: str) -> None:
    first, second = Image.new("RGB", (6, 4), (255, 0, 0)), Image.new("RGB", (6, 4), (0, 0, 255))
    data = encoded(first, kind, save_all=True, append_images=[second])
    np.testing.assert_allclose(decode_picture(data, "p")[0, 0].astype(int), [255, 0, 0], atol=4)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (3, 7)])
def test_smallest_sizes(height: int, width: int) -> None:
    pixels = photograph(height, width)
    np.testing.assert_array_equal(decode_picture(encoded(Image.fromarray(pixels), "PNG"), "p"), pixels)


def test_decompression_bombs_are_refused_before_they_are_unpacked() -> None:
    for width, height in [(100_000, 10), (20_000, 20_000), (16_384, 8_193)]:
        with pytest.raises(PinholeError, match="scale it down"):
            decode_picture(png(width, height, 8, 2, b""), "bomb.png")


def test_what_pillow_warns_of_adds_no_line(tmp_path: Path, repository: Path) -> None:
    # In a process of its own, because pytest takes over the warnings of this one.
    file = tmp_path / "odd.png"
    file.write_bytes(encoded(Image.fromarray(photograph()), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"))
    program = (
        "import sys; from PIL import Image; Image.MAX_IMAGE_PIXELS = 700; from shared.picture import load_picture;"
        "print(load_picture(sys.argv[1]).shape)"
    )
    done = subprocess.run([sys.executable, "-c", program, file], cwd=repository, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("(24, 36, 3)\n", "")


def test_pillows_own_limit_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(PinholeError, match="scale it down"):
        decode_picture(encoded(Image.fromarray(photograph(48, 36)), "PNG"), "p")


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 100, b"%PDF-1.4\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_foreign_files_are_refused(data: bytes) -> None:
    with pytest.raises(PinholeError, match=r"file\.png is no picture"):
        decode_picture(data, "file.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "PPM", "TIFF", "JPEG2000"])
def test_truncated_files_are_refused(kind: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    for part in (0.1, 0.5, 0.9):
        with pytest.raises(PinholeError):
            decode_picture(data[: int(len(data) * part)], "p")


@given(
    st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "TIFF"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_a_damaged_file_is_one_error_or_a_picture(kind: str, damage: list[tuple[float, int]]) -> None:
    data = bytearray(encoded(Image.fromarray(photograph()), kind))
    for place, value in damage:
        data[int(place * len(data))] = value
    try:
        pixels = decode_picture(bytes(data), "p")
    except PinholeError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 - a picture is as good an answer as an error
    else:
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(PinholeError, match=r"absent\.png: No such file"):
        load_picture(tmp_path / "absent.png")
    with pytest.raises(PinholeError, match="directory"):
        load_picture(tmp_path)


def test_the_limits_are_those_of_the_header() -> None:
    assert picture.MAX_SIDE == 65_535
