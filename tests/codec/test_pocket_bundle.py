"""The shipped bundle, end to end: real pictures, every runtime, every prefix, every kind of damage."""

import dataclasses
import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.link_overhead import bytes_sent
from receiver.decoder import TorchDecoder
from sender.encoder import OnnxEncoder
from shared.codec.bundle import Bundle, find_bundle
from shared.codec.entropy.backend import EntropyBackend, NumpyBackend
from shared.codec.entropy.coding import CHECK_BYTES, LatentCoder
from shared.codec.entropy.torch_backend import TorchBackend
from shared.codec.header import PictureHeader
from shared.codec.interfaces import Pixels
from shared.codec.pin import frame_bytes
from shared.codec.quality import HIGHEST_QUALITY, QUALITY_STEPS
from shared.errors import CorruptDataError, PinholeError
from shared.link import LinkConfig
from shared.picture import load_picture
from tests.shared_folder import shared_folder

PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "sim" / "photographs"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return find_bundle("pocket")


@pytest.fixture(scope="module")
def encoder(bundle: Bundle) -> OnnxEncoder:
    return OnnxEncoder(bundle)


@pytest.fixture(scope="module")
def decoder(bundle: Bundle) -> TorchDecoder:
    return TorchDecoder(bundle, "cpu")


@pytest.fixture(scope="module")
def coffee() -> Pixels:
    return load_picture(PHOTOGRAPHS / "coffee.png")


@pytest.fixture(scope="module")
def layers(encoder: OnnxEncoder, coffee: Pixels) -> list[bytes]:
    return encoder.encode(coffee, 3)


def psnr(a: Pixels, b: Pixels) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def test_bundle_is_whole_and_small(bundle: Bundle) -> None:
    bundle.verify()
    assert sum(entry["bytes"] for entry in bundle.manifest["files"].values()) <= 24_000_000
    bundle.program().check_exact()


def test_at_least_two_operating_points_in_the_promised_range(bundle: Bundle) -> None:
    rates = [p.bits_per_pixel for p in bundle.operating_points]
    assert rates == sorted(rates)
    assert sum(0.03 <= rate <= 0.15 for rate in rates) >= 2


def test_every_prefix_is_a_better_picture(decoder: TorchDecoder, layers: list[bytes], coffee: Pixels) -> None:
    assert len(layers) >= 3
    values = [psnr(decoder.preview(layers[:n]), coffee) for n in range(1, len(layers) + 1)]
    assert values == sorted(values)
    assert values[-1] > 20
    assert values[-1] > values[0] + 1


def test_full_decode_is_repeatable_and_resembles_the_picture(
    decoder: TorchDecoder, layers: list[bytes], coffee: Pixels
) -> None:
    first = decoder.decode(layers, steps=8, seed=7)
    assert np.array_equal(first, decoder.decode(layers, steps=8, seed=7))
    assert not np.array_equal(first, decoder.decode(layers, steps=8, seed=8))
    assert np.array_equal(decoder.decode(layers, steps=0), decoder.preview(layers))
    assert psnr(first, coffee) > 17


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (63, 65), (64, 64), (129, 31)])
def test_odd_sizes_keep_their_size(
    encoder: OnnxEncoder, decoder: TorchDecoder, coffee: Pixels, size: tuple[int, int]
) -> None:
    picture = np.ascontiguousarray(coffee[: size[0], : size[1]])
    coded = encoder.encode(picture, encoder.operating_points[-1].quality, captured=1_700_000_000)
    assert PictureHeader.unpack(coded[0])[0].captured == 1_700_000_000
    assert decoder.preview(coded).shape == picture.shape
    assert decoder.decode(coded, steps=1).shape == picture.shape


def test_size_limits_are_kept(encoder: OnnxEncoder, coffee: Pixels) -> None:
    sizes = [sum(map(len, encoder.encode(coffee, p.quality))) for p in encoder.operating_points]
    assert sizes == sorted(sizes)
    lowest = encoder.encode(coffee, 1)
    for limit in (sizes[0], sizes[1], sizes[1] - 1, (sizes[0] + sizes[1]) // 2, (sizes[-2] + sizes[-1]) // 2):
        fitted = encoder.encode_within(coffee, limit)
        assert len(fitted) == len(lowest)
        assert 0.95 * limit < sum(map(len, fitted)) <= limit
    assert sum(map(len, encoder.encode_within(coffee, sizes[-1] * 2))) == sizes[-1]
    # Below the lowest quality layers go, as few as it takes there, and those that stay become finer.
    for limit in (sizes[0] - 1, (sum(map(len, lowest[:2])) + sum(map(len, lowest[:3]))) // 2):
        scant = encoder.encode_within(coffee, limit)
        assert len(scant) == max(n for n in range(1, len(lowest)) if sum(map(len, lowest[:n])) <= limit)
        assert sum(map(len, scant)) <= limit
        finest = PictureHeader.unpack(scant[0])[0].quality == encoder.operating_points[-1].quality
        assert finest or sum(map(len, scant)) > 0.95 * limit
    assert encoder.encode_within(coffee, 1) == lowest[:1]


def test_the_search_never_exceeds_its_budget_whatever_the_limit(encoder: OnnxEncoder, coffee: Pixels) -> None:
    small = np.ascontiguousarray(coffee[:128, :192])
    base = len(encoder.encode(small, 1)[0])
    for limit in range(base, 1200, 83):
        assert sum(map(len, encoder.encode_within(small, limit))) <= limit


def test_qualities_between_operating_points_lie_between_them(
    encoder: OnnxEncoder, decoder: TorchDecoder, coffee: Pixels, bundle: Bundle
) -> None:
    qualities = [1, 1.25, 1.5, 1.75, 2]
    coded = [encoder.encode(coffee, quality) for quality in qualities]
    sizes = [sum(map(len, layers)) for layers in coded]
    assert sizes == sorted(set(sizes))
    assert [PictureHeader.unpack(layers[0])[0].quality for layers in coded] == qualities
    values = [psnr(decoder.preview(layers), coffee) for layers in (coded[0], coded[2], coded[-1])]
    assert values == sorted(values)
    assert encoder.encode(coffee, 1.52) == coded[2], "rounded to 1/16"
    assert len({bundle.bits_per_pixel(quality) for quality in qualities}) == len(qualities)
    for wrong in (0.99, encoder.operating_points[-1].quality + 0.01, float("nan")):
        with pytest.raises(PinholeError, match="not in this bundle"):
            encoder.encode(coffee, wrong)


def test_gains_are_the_manifests_at_operating_points_and_geometric_means_half_way(bundle: Bundle) -> None:
    for kind, scale in (("gain", bundle.gain), ("inverse_gain", bundle.inverse_gain)):
        rows = [np.asarray(point[kind], np.float32) for point in bundle.manifest["operating_points"]]
        for quality, row in enumerate(rows, 1):
            assert np.array_equal(scale(quality)[0, :, 0, 0], row)
        for quality, (below, above) in enumerate(pairwise(rows), 1):
            assert np.allclose(scale(quality + 0.5)[0, :, 0, 0] ** 2, below * above, rtol=1e-6)
    first, second = bundle.operating_points[:2]
    assert bundle.bits_per_pixel(1.5) ** 2 == pytest.approx(first.bits_per_pixel * second.bits_per_pixel)


def test_actual_bytes_are_within_one_percent_of_the_estimate(encoder: OnnxEncoder, bundle: Bundle) -> None:
    """At operating points and between the lowest two, where a picture has a few hundred bytes."""
    coder = LatentCoder(bundle.layout, bundle.tables(), NumpyBackend(bundle.program()))
    pictures = [load_picture(path) for path in sorted(PHOTOGRAPHS.glob("*.[jp][pn]g"))]
    for quality in (1.5, *(point.quality for point in bundle.operating_points)):
        spent = ideal = 0.0
        for picture in pictures:
            coded = coder.encode(*encoder.latents(picture, quality), b"")
            for payload, bits in zip(coded.payloads, coded.ideal_bits, strict=True):
                # The checksums are framing; the range coder's own ending is not, and takes two bytes at most.
                written = 8 * (len(payload) - CHECK_BYTES)
                assert written <= 1.005 * bits + 16
                spent, ideal = spent + written, ideal + bits
        assert spent <= 1.01 * ideal


def test_framing_stays_under_three_percent_of_two_kilobytes(layers: list[bytes]) -> None:
    header = PictureHeader.unpack(layers[0])[1]
    checks = CHECK_BYTES * len(layers)
    assert header + checks + frame_bytes([600] * len(layers)) <= 0.03 * 2048
    on_the_link, _ = bytes_sent(LinkConfig(packet_bytes=1200, parity=0.0, base_parity=0.0), (300, 600, 700, 448), 1)
    assert header + checks + on_the_link <= 0.03 * 2048


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_damage_is_one_error_and_never_another_picture(
    data: st.DataObject, decoder: TorchDecoder, layers: list[bytes]
) -> None:
    number = data.draw(st.integers(0, len(layers) - 1))
    layer = bytearray(layers[number])
    position = data.draw(st.integers(0, len(layer) - 1))
    layer[position] ^= data.draw(st.integers(1, 255))
    changed = [*layers[:number], bytes(layer), *layers[number + 1 :]]
    try:
        header, content = decoder.content(changed)
    except (CorruptDataError, PinholeError):
        return
    # A flipped bit may leave every symbol as it was: in the unused end of a range coder's string.
    good_header, good = decoder.content(layers)
    assert header == good_header
    assert torch.equal(content, good)


def test_truncated_and_foreign_layers_are_refused(
    decoder: TorchDecoder, encoder: OnnxEncoder, layers: list[bytes], coffee: Pixels
) -> None:
    for n in range(len(layers)):
        with pytest.raises(CorruptDataError):
            decoder.preview([*layers[:n], layers[n][: len(layers[n]) // 2]])
    other = encoder.encode(np.ascontiguousarray(coffee[:, ::-1]), 3)
    with pytest.raises(CorruptDataError, match="layer 1"):
        decoder.preview([layers[0], other[1]])
    with pytest.raises(CorruptDataError, match="layer 1"):
        decoder.preview([layers[0], layers[2]])
    with pytest.raises(CorruptDataError, match="base layer"):
        decoder.preview([])
    header, length = PictureHeader.unpack(layers[0])
    foreign = dataclasses.replace(header, bundle_id=b"\0\1\2\3").pack() + layers[0][length:]
    with pytest.raises(CorruptDataError, match="bundle 00010203"):
        decoder.preview([foreign])
    highest = encoder.operating_points[-1].quality
    for beyond in (highest + 1 / QUALITY_STEPS, HIGHEST_QUALITY):
        unknown = dataclasses.replace(header, quality=beyond).pack() + layers[0][length:]
        with pytest.raises(CorruptDataError, match="quality or layer count"):
            decoder.preview([unknown])
    finer = dataclasses.replace(header, quality=header.quality - 1 / QUALITY_STEPS).pack() + layers[0][length:]
    with pytest.raises(CorruptDataError, match="layer 0"):
        decoder.preview([finer])
    vast = dataclasses.replace(header, width=65535, height=65535).pack() + layers[0][length:]
    with pytest.raises(CorruptDataError, match="claims 65535x65535"):
        decoder.preview([vast])


def test_damaged_bundle_names_its_file(bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "pocket"
    shutil.copytree(bundle.folder, copy)
    data = bytearray((copy / "sender" / "analysis.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "sender" / "analysis.onnx").write_bytes(data)
    with pytest.raises(PinholeError, match=r"sender/analysis\.onnx is damaged"):
        OnnxEncoder(find_bundle(copy))
    for change in ({"quality": 99}, {"gain": [0.0]}):
        manifest = json.loads((bundle.folder / "manifest.json").read_text())
        manifest["operating_points"][-1].update(change)
        (copy / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(PinholeError, match="not a bundle manifest"):
            find_bundle(copy)
    (copy / "manifest.json").write_text("{}")
    with pytest.raises(PinholeError, match="not a bundle manifest"):
        find_bundle(copy)
    with pytest.raises(PinholeError, match="not found"):
        find_bundle("no-such-bundle")


@pytest.mark.slow
def test_kodak_streams_decode_alike_under_every_runtime(encoder: OnnxEncoder, bundle: Bundle) -> None:
    """24 of 24: coded under ONNX Runtime, decoded to the same symbols under torch and NumPy."""
    pictures = sorted(shared_folder("data/kodak").glob("*.png"))
    assert len(pictures) == 24
    program, tables = bundle.program(), bundle.tables()
    threads = torch.get_num_threads()
    runtimes: list[tuple[str, EntropyBackend, int, bool]] = [
        ("torch, one thread", TorchBackend(program), 1, True),
        ("torch, two threads", TorchBackend(program), 2, True),
        ("torch, channels-last", TorchBackend(program, channels_last=True), 2, True),
        ("torch, no oneDNN", TorchBackend(program), 2, False),
        ("NumPy", NumpyBackend(program), 1, True),
    ]
    try:
        for i, path in enumerate(pictures):
            picture = load_picture(path)
            coded = encoder.encode(picture, 1 + i % len(bundle.operating_points))
            header, length = PictureHeader.unpack(coded[0])
            rows, columns = -(-header.height // 64) * 4, -(-header.width // 64) * 4
            payloads = [coded[0][length:], *coded[1:]]
            expected = encoder.coder.decode(payloads, rows, columns, coded[0][:length])
            for name, backend, count, onednn in runtimes:
                torch.set_num_threads(count)
                with torch.backends.mkldnn.flags(enabled=onednn):
                    coder = LatentCoder(bundle.layout, tables, backend)
                    got = coder.decode(payloads, rows, columns, coded[0][:length])
                assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True)), (path.name, name)
    finally:
        torch.set_num_threads(threads)
