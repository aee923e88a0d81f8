"""Bundles of format 2, whose operating points have weights of their own; made of the pocket bundle's files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from receiver.decoder import TorchDecoder
from sender.encoder import OnnxEncoder
from shared.codec.bundle import Bundle, agreement_hash, find_bundle
from shared.codec.header import PictureHeader
from shared.codec.quality import choose_quality, quality_grid
from shared.errors import PinholeError

SET_FILES = ("entropy/", "sender/analysis", "sender/hyper_analysis", "receiver/synthesis", "receiver/control")
POINTS = {"coarse": 2, "fine": 4}
"""Name of each weight set, and the quality of the pocket bundle whose gains it has."""


def write_bundle(folder: Path, change: Callable[[dict[str, Any]], None] = lambda manifest: None) -> Path:
    pocket = find_bundle()
    manifest: dict[str, Any] = json.loads(json.dumps(pocket.manifest))
    manifest |= {"format": 2, "name": "sets", "weights": {}, "files": {}, "external": {}}
    for file, entry in pocket.manifest["files"].items():
        names = [f"weights/{name}/{file}" for name in POINTS] if file.startswith(SET_FILES) else [file]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(pocket.folder / file, folder / name)
            manifest["files"][name] = entry
    channels = pocket.layout.hyper_channels
    points = []
    for number, (name, quality) in enumerate(POINTS.items()):
        manifest["weights"][name] = {"hyper_medians": [0] * channels}
        points.append(pocket.manifest["operating_points"][quality - 1] | {"quality": number + 1, "weights": name})
    manifest["operating_points"] = points
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return find_bundle(write_bundle(tmp_path_factory.mktemp("sets")))


def test_qualities_are_whole_where_weights_differ(bundle: Bundle) -> None:
    points = bundle.operating_points
    assert quality_grid(points) == [1, 2]
    assert [choose_quality(points, q) for q in (1, 1.3, 1.6, 2)] == [1, 1, 2, 2]
    assert [weights.name for weights in bundle.weight_sets] == ["coarse", "fine"]
    assert bundle.weights(1.9).name == "fine"
    assert bundle.weights(1) is bundle.weights(1)
    assert bundle.weights(2).read("entropy/tables.npz") == find_bundle().read("entropy/tables.npz")
    with pytest.raises(PinholeError, match="2 sets of weights; choose one by its quality"):
        bundle.program()


def test_pictures_of_every_set_cross_with_the_bytes_of_the_bundle_that_they_came_from(bundle: Bundle) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (2, 3, 3), np.uint8).repeat(40, 0).repeat(40, 1)
    encoder, decoder, pocket = OnnxEncoder(bundle), TorchDecoder(bundle, "cpu"), OnnxEncoder(find_bundle())
    for quality, original in enumerate(POINTS.values(), 1):
        layers = encoder.encode(pixels, quality)
        # Headers, and with them the checksums, differ; what was coded does not.
        assert list(map(len, layers)) == list(map(len, pocket.encode(pixels, original)))
        assert [layer[:-2] for layer in layers[1:]] == [layer[:-2] for layer in pocket.encode(pixels, original)[1:]]
        expected = TorchDecoder(find_bundle(), "cpu").decode(pocket.encode(pixels, original), seed=1)
        assert np.array_equal(decoder.decode(layers, seed=1), expected)
    smaller = encoder.encode_within(pixels, sum(map(len, encoder.encode(pixels, 2))) - 1)
    assert PictureHeader.unpack(smaller[0])[0].quality == 1


def test_the_id_covers_medians_and_which_set_serves_which_point(bundle: Bundle, tmp_path: Path) -> None:
    def medians(manifest: dict[str, Any]) -> None:
        manifest["weights"]["fine"]["hyper_medians"][5] = 3

    def swapped(manifest: dict[str, Any]) -> None:
        first, second = manifest["operating_points"]
        first["weights"], second["weights"] = second["weights"], first["weights"]

    def renamed(manifest: dict[str, Any]) -> None:
        manifest["name"] = "another"

    ids = {agreement_hash(bundle.manifest)}
    for change in (medians, swapped):
        manifest = json.loads(json.dumps(bundle.manifest))
        change(manifest)
        ids.add(agreement_hash(manifest))
    assert len(ids) == 3
    manifest = json.loads(json.dumps(bundle.manifest))
    renamed(manifest)
    assert agreement_hash(manifest) in ids


def test_medians_shift_what_the_hyper_decoder_sees(bundle: Bundle, tmp_path: Path) -> None:
    def shifted(manifest: dict[str, Any]) -> None:
        manifest["weights"]["coarse"]["hyper_medians"] = [8] * len(manifest["weights"]["coarse"]["hyper_medians"])

    other = find_bundle(write_bundle(tmp_path, shifted))
    assert (other.weights(1).hyper_medians == 8).all()
    pixels = np.full((64, 64, 3), 90, np.uint8)
    encoder = OnnxEncoder(other)
    layers = encoder.encode(pixels, 1)
    assert layers[1] != OnnxEncoder(bundle).encode(pixels, 1)[1]
    # Both ends shift alike, or the checksums over the symbols would tell.
    assert TorchDecoder(other, "cpu").preview(layers).shape == pixels.shape


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["weights"].pop("fine"),
        lambda m: m["weights"]["fine"].pop("hyper_medians"),
        lambda m: m["weights"]["fine"]["hyper_medians"].append(0),
        lambda m: m["weights"]["fine"].update(hyper_medians="many"),
        lambda m: m["operating_points"][0].update(weights="none"),
        lambda m: m["files"].pop("weights/fine/entropy/program.npz"),
    ],
)
def test_a_manifest_with_a_broken_set_is_one_error(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    with pytest.raises(PinholeError, match="not a bundle manifest"):
        find_bundle(write_bundle(tmp_path, change))


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PinholeError, match="has format 3, this Pinhole reads 1 and 2; update it"):
        find_bundle(write_bundle(tmp_path, lambda manifest: manifest.update(format=3)))


def refer(source: Path | str) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        entry = manifest["files"].pop("receiver/prior.safetensors")
        manifest["external"]["receiver/prior.safetensors"] = {
            "source": str(source),
            "file": "unet/w.safetensors",
        } | entry

    return change


def test_a_file_may_be_referred_to_by_folder_and_hash(bundle: Bundle, tmp_path: Path) -> None:
    source, folder = tmp_path / "sd", tmp_path / "bundle"
    (source / "unet").mkdir(parents=True)
    folder.mkdir()
    shutil.copy(bundle.folder / "receiver/prior.safetensors", source / "unet/w.safetensors")
    write_bundle(folder, refer(source))
    (folder / "receiver/prior.safetensors").unlink()
    other = find_bundle(folder)
    assert other.bundle_id == bundle.bundle_id
    other.verify()
    layers = OnnxEncoder(bundle).encode(np.full((64, 64, 3), 90, np.uint8), 1)
    assert np.array_equal(TorchDecoder(other, "cpu").decode(layers), TorchDecoder(bundle, "cpu").decode(layers))

    data = bytearray((source / "unet/w.safetensors").read_bytes())
    data[-1] ^= 1
    (source / "unet/w.safetensors").write_bytes(data)
    with pytest.raises(PinholeError, match=r"unet/w\.safetensors of .* is another file than the bundle was made with"):
        TorchDecoder(find_bundle(folder), "cpu")
    (source / "unet/w.safetensors").unlink()
    with pytest.raises(PinholeError, match=r"receiver/prior\.safetensors cannot be read \(No such file"):
        find_bundle(folder).verify()


def test_a_hub_that_cannot_be_reached_is_named_with_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    bundle = find_bundle(write_bundle(tmp_path, refer("nobody/no-such-model")))
    with pytest.raises(PinholeError, match=r"refers to unet/w\.safetensors of nobody/no-such-model .*--copy") as caught:
        bundle.verify()
    assert "\n" not in str(caught.value)
