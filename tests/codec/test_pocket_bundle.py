"""The shipped bundle, end to end: real pictures, every runtime, every prefix, every kind of damage."""

import dataclasses
import shutil
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
    coded = encoder.encode(picture, 5, captured=1_700_000_000)
    assert PictureHeader.unpack(coded[0])[0].captured == 1_700_000_000
    assert decoder.preview(coded).shape == picture.shape
    assert decoder.decode(coded, steps=1).shape == picture.shape


def test_size_limits_are_kept(encoder: OnnxEncoder, coffee: Pixels) -> None:
    sizes = [sum(map(len, encoder.encode(coffee, p.quality))) for p in encoder.operating_points]
    assert sizes == sorted(sizes)
    for limit in (sizes[1], sizes[1] - 1, sizes[-1] * 2):
        got = sum(map(len, encoder.encode_within(coffee, limit)))
        assert got == max(s for s in sizes if s <= limit)
    scant = encoder.encode_within(coffee, sizes[0] - 1)
    assert scant == encoder.encode(coffee, encoder.operating_points[0].quality)[: len(scant)]
    assert 1 <= len(scant) < len(encoder.encode(coffee, 1))
    assert len(encoder.encode_within(coffee, 1)) == 1


def test_actual_bytes_are_within_one_percent_of_the_estimate(encoder: OnnxEncoder, bundle: Bundle) -> None:
    coder = LatentCoder(bundle.layout, bundle.tables(), NumpyBackend(bundle.program()))
    for point in bundle.operating_points:
        spent = ideal = 0.0
        for path in sorted(PHOTOGRAPHS.glob("*.[jp][pn]g")):
            coded = coder.encode(*encoder.latents(load_picture(path), point.quality), b"")
            # The checksums are framing; the range coder's own ending is not.
            spent += sum(8 * (len(payload) - 2) for payload in coded.payloads)
            ideal += sum(coded.ideal_bits)
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
