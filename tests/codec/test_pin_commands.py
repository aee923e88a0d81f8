"""Compress and decompress around a small codec of the tests' own; the real bundle has its own tests."""

import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from receiver.decompress_command import Settings, decompress_files, decompress_layers
from sender.compress_command import Target, compress_files, compress_picture
from shared.codec.header import PictureHeader
from shared.codec.interfaces import OperatingPoint, PictureDecoder, PictureEncoder, Pixels
from shared.codec.pin import pack_pin, read_pin, write_pin
from shared.errors import CorruptDataError, PinholeError
from shared.picture import load_picture, save_picture

BUNDLE_ID = b"test"


def checked(payload: bytes) -> bytes:
    return payload + zlib.crc32(payload).to_bytes(4, "little")[:2]


def unchecked(layer: bytes) -> bytes:
    if checked(layer[:-2]) != layer:
        raise CorruptDataError("layer is damaged; send it again")
    return layer[:-2]


class MeanColour:
    """Sends the mean colour in the base layer, then one row of pixels per layer; quality is the number of rows."""

    bundle_id = BUNDLE_ID
    operating_points: Sequence[OperatingPoint] = tuple(OperatingPoint(q, f"q{q}", 0.1 * q) for q in (1, 2, 3))

    def encode(self, pixels: Pixels, quality: float, *, captured: int | None = None) -> list[bytes]:
        height, width = pixels.shape[:2]
        rows = int(quality)
        header = PictureHeader(self.bundle_id, width, height, quality, rows + 1, captured).pack()
        mean = pixels.reshape(-1, 3).mean(axis=0).astype(np.uint8)
        return [checked(header + mean.tobytes()), *(checked(pixels[row].tobytes()) for row in range(rows))]

    def encode_within(self, pixels: Pixels, largest: int, *, captured: int | None = None) -> list[bytes]:
        for quality in (3, 2, 1):
            layers = self.encode(pixels, quality, captured=captured)
            if sum(map(len, layers)) <= largest:
                return layers
        while len(layers) > 1 and sum(map(len, layers)) > largest:
            layers.pop()
        return layers

    def preview(self, layers: Sequence[bytes]) -> Pixels:
        return self.decode(layers, steps=0)

    def decode(self, layers: Sequence[bytes], *, steps: int | None = None, seed: int = 0) -> Pixels:
        header, start = PictureHeader.unpack(layers[0])
        mean = np.frombuffer(unchecked(layers[0])[start:], np.uint8)
        pixels = np.tile(mean, (header.height, header.width, 1))
        for row, layer in enumerate(layers[1:]):
            pixels[row] = np.frombuffer(unchecked(layer), np.uint8).reshape(-1, 3)
        return pixels


ENCODER: PictureEncoder = MeanColour()
DECODER: PictureDecoder = MeanColour()


def photograph() -> Pixels:
    return np.random.default_rng(5).integers(0, 256, (12, 40, 3), dtype=np.uint8)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_there_and_back_over_files(tmp_path: Path) -> None:
    pictures = [tmp_path / "a.png", tmp_path / "b.webp"]
    for path in pictures:
        save_picture(photograph(), path)
    pins = [tmp_path / "a.pin", tmp_path / "b.pin"]
    backs = [tmp_path / "a.back.png", tmp_path / "b.back.png"]
    table = quiet()
    assert compress_files(ENCODER, pictures, pins, Target(quality=2), table) == 0
    size = pins[0].stat().st_size
    assert str(size) in text_of(table)
    assert f"{8 * size / 480:.4f}" in text_of(table)
    assert "15 + 122 + 122" in text_of(table)
    report: list[str] = []
    assert decompress_files(DECODER, pins, backs, Settings(), quiet(), report.append) == 0
    assert report == []
    for path in backs:
        np.testing.assert_array_equal(load_picture(path)[:2], photograph()[:2])


@pytest.mark.parametrize("largest", [*range(150, 160), 267, 268, 269, 300, 393, 394, 395, 5000])
def test_max_bytes_is_kept_to_the_byte(tmp_path: Path, largest: int) -> None:
    done = compress_picture(ENCODER, photograph(), tmp_path / "p.pin", Target(largest=largest))
    assert done.size == (tmp_path / "p.pin").stat().st_size <= largest
    # What fits is used: one layer more (124 bytes with its length) would not have fitted.
    assert len(done.layers) == 4 or done.size + 124 > largest


def test_bits_per_pixel_are_those_of_the_whole_file(tmp_path: Path) -> None:
    for bits in (0.5, 2.6, 4.6, 7.0):
        done = compress_picture(ENCODER, photograph(), tmp_path / "p.pin", Target(bits_per_pixel=bits))
        assert done.bits_per_pixel == 8 * (tmp_path / "p.pin").stat().st_size / 480 <= bits


def test_a_size_below_the_base_layer_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(PinholeError, match=r"--max-bytes leaves 20 bytes .* takes 22: raise it"):
        compress_picture(ENCODER, photograph(), tmp_path / "p.pin", Target(largest=20))
    with pytest.raises(PinholeError, match=r"--bpp leaves 0 bytes"):
        compress_picture(ENCODER, photograph(), tmp_path / "p.pin", Target(bits_per_pixel=0.001))
    assert list(tmp_path.iterdir()) == []
    assert compress_picture(ENCODER, photograph(), tmp_path / "p.pin", Target(largest=22)).size == 22


def test_targets_are_checked(tmp_path: Path) -> None:
    with pytest.raises(PinholeError, match="not several"):
        Target(quality=1, largest=9)
    with pytest.raises(PinholeError, match="above zero"):
        Target(bits_per_pixel=0)
    for wrong in (0.5, 3.0625, 99):
        with pytest.raises(PinholeError, match=f"quality {wrong:g} is not in this bundle; give 1 to 3,"):
            compress_picture(ENCODER, photograph(), tmp_path / "p.pin", Target(quality=wrong))
    for senseless in (float("nan"), float("inf"), -1.0):
        with pytest.raises(PinholeError, match="numbers above zero"):
            Target(quality=senseless)
        with pytest.raises(PinholeError, match="numbers above zero"):
            Target(bits_per_pixel=senseless)
    assert compress_picture(ENCODER, photograph(), tmp_path / "p.pin", Target(quality=2)).quality == 2
    with pytest.raises(PinholeError, match="--steps"):
        Settings(steps=-1)
    with pytest.raises(PinholeError, match="--layers"):
        Settings(layers=0)


def test_a_quality_between_two_points_is_rounded_and_shown(tmp_path: Path) -> None:
    save_picture(photograph(), tmp_path / "a.png")
    table = quiet()
    assert compress_files(ENCODER, [tmp_path / "a.png"], [tmp_path / "a.pin"], Target(quality=2.53), table) == 0
    header, _ = PictureHeader.unpack(read_pin(tmp_path / "a.pin")[0])
    assert header.quality == 2.5
    assert " 2.5 " in text_of(table)


def test_without_a_target_the_rate_of_the_middle_point_is_kept(tmp_path: Path) -> None:
    wide = np.tile(photograph(), (40, 10, 1))  # 480x400; the middle point promises 0.2 bit per pixel
    done = compress_picture(ENCODER, wide, tmp_path / "p.pin", Target())
    assert done.bits_per_pixel <= 0.2
    assert done.quality == 3
    # A thumbnail may take the few hundred bytes that headers cost.
    assert compress_picture(ENCODER, photograph(), tmp_path / "p.pin", Target()).size <= 600


def test_one_bad_picture_does_not_stop_the_others(tmp_path: Path) -> None:
    save_picture(photograph(), tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    report: list[str] = []
    failed = compress_files(
        ENCODER,
        [tmp_path / "bad.png", tmp_path / "good.png", tmp_path / "absent.png"],
        [tmp_path / "bad.pin", tmp_path / "good.pin", tmp_path / "absent.pin"],
        Target(),
        quiet(),
        report.append,
    )
    assert failed == 2
    assert len(report) == 2
    assert report[0].startswith(f"pinhole compress: {tmp_path / 'bad.png'} is no picture")
    assert (tmp_path / "good.pin").exists()
    assert not (tmp_path / "bad.pin").exists()
    report.clear()
    (tmp_path / "bad.pin").write_bytes(b"no .pin")
    pins = [tmp_path / "bad.pin", tmp_path / "good.pin"]
    pictures = [tmp_path / "bad.back.png", tmp_path / "good.back.png"]
    assert decompress_files(DECODER, pins, pictures, Settings(), quiet(), report.append) == 1
    assert len(report) == 1
    assert "bad.pin" in report[0]
    assert (tmp_path / "good.back.png").exists()


def test_fewer_layers_on_request(tmp_path: Path) -> None:
    layers = ENCODER.encode(photograph(), 3)
    done = decompress_layers(DECODER, layers, Settings(layers=2))
    assert (done.layers, done.made) == (2, 4)
    np.testing.assert_array_equal(done.pixels[0], photograph()[0])
    assert not np.array_equal(done.pixels[1], photograph()[1])


def test_another_bundles_picture_is_refused() -> None:
    header = PictureHeader(b"else", 40, 12, 1, 1).pack()
    with pytest.raises(PinholeError, match="made with bundle 656c7365, but the one in use is 74657374"):
        decompress_layers(DECODER, [checked(header)], Settings())


def test_a_hostile_size_is_refused_before_it_is_decoded() -> None:
    header = PictureHeader(BUNDLE_ID, 65_535, 65_535, 1, 1).pack()
    with pytest.raises(CorruptDataError, match="65535x65535"):
        decompress_layers(DECODER, [checked(header + b"rgb")], Settings())


def test_a_truncated_file_is_refused_or_salvaged(tmp_path: Path) -> None:
    whole, cut, back = tmp_path / "whole.pin", tmp_path / "cut.pin", tmp_path / "cut.png"
    write_pin(whole, ENCODER.encode(photograph(), 3))
    cut.write_bytes(whole.read_bytes()[:200])
    report: list[str] = []
    assert decompress_files(DECODER, [cut], [back], Settings(), quiet(), report.append) == 1
    assert "2 of 4 layers look whole" in report[0]
    assert not back.exists()
    table = quiet()
    assert decompress_files(DECODER, [cut], [back], Settings(salvage=True), table, report.append) == 0
    assert "2 of 4" in text_of(table)
    np.testing.assert_array_equal(load_picture(back)[0], photograph()[0])


def test_salvage_stops_before_the_damaged_layer(tmp_path: Path) -> None:
    layers = ENCODER.encode(photograph(), 3)
    data = bytearray(pack_pin(layers))
    data[data.index(layers[2]) + 30] ^= 4
    path = tmp_path / "flipped.pin"
    path.write_bytes(bytes(data))
    done = decompress_layers(DECODER, read_pin(path, salvage=True), Settings(salvage=True))
    assert done.layers == 2
    with pytest.raises(CorruptDataError):
        decompress_layers(DECODER, read_pin(path, salvage=True), Settings())


def test_salvage_without_a_base_is_an_error(tmp_path: Path) -> None:
    layers = ENCODER.encode(photograph(), 3)
    data = bytearray(pack_pin(layers))
    data[data.index(layers[0]) + 12] ^= 4
    path = tmp_path / "flipped.pin"
    path.write_bytes(bytes(data))
    report: list[str] = []
    assert decompress_files(DECODER, [path], [tmp_path / "x.png"], Settings(salvage=True), quiet(), report.append) == 1
    assert not (tmp_path / "x.png").exists()
