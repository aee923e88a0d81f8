"""Stand-in checkpoints in the official layouts through the real commands: import, compress, decompress, prompts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pinhole.cli import run
from receiver.decoder import TorchDecoder
from receiver.networks import ReceiverNetworks
from sender.encoder import OnnxEncoder
from shared.codec.bundle import Bundle, find_bundle
from shared.codec.entropy.coding import LatentCoder
from shared.codec.entropy.torch_backend import TorchBackend
from shared.codec.nets.control import control_keys
from shared.codec.pin import read_pin
from shared.picture import load_picture
from tests.training.import_sources import RATES, Sources, arguments, save_sources, with_medians
from tests.training.official_stand_ins import (
    LFGCM_CONFIG,
    OVERRIDES,
    lc_state,
    save_diffusers_folder,
)
from tests.training.paper_stand_ins import save_text_encoder
from training.importing.photographs import cut_crops
from training.importing.stable_diffusion import read_base
from training.official import load_lfgcm


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return save_sources(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="module")
def imported(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    output = tmp_path_factory.mktemp("imported") / "tiny"
    assert run(arguments(sources, output, sources.folder)) == 0
    return find_bundle(output)


def test_the_bundle_is_whole_and_names_what_it_is_made_of(imported: Bundle) -> None:
    assert run(["bundle", "verify", str(imported.folder)]) == 0
    manifest = imported.manifest
    assert (manifest["format"], manifest["name"], manifest["networks"]["family"]) == (2, "tiny", "diffeic")
    assert manifest["diffusion"] == {"steps": 50, "start": 999, "sampler": "ddpm"}
    assert manifest["external"] == {}
    assert manifest["layout"]["layer_slices"] == [1, 1]
    assert [point.name for point in imported.operating_points] == ["1_2_16", "1_2_1"]
    assert [point.weights for point in imported.operating_points] == ["1_2_16", "1_2_1"]
    rates = [point.bits_per_pixel for point in imported.operating_points]
    assert 0 < rates[0] < rates[1]
    for weights in imported.weight_sets:
        assert weights.hyper_medians.tolist() == np.rint(16 * np.linspace(-2.3, 2.1, 8)).astype(int).tolist()
    card = (imported.folder / "MODEL_CARD.md").read_text()
    assert "| 1 | 1_2_16 |" in card
    # Random weights estimate no noise.
    assert "It may estimate v" in card
    listed = {path.relative_to(imported.folder).as_posix() for path in imported.folder.rglob("*") if path.is_file()}
    assert listed == {*manifest["files"], "manifest.json", "MODEL_CARD.md"}
    assert {"sender/guidance_fp16.onnx", "weights/1_2_1/sender/hyper_analysis_fp16.onnx"} <= listed
    assert list(imported.folder.parent.iterdir()) == [imported.folder]


def test_measured_rates_are_what_the_sender_needs(imported: Bundle, sources: Sources) -> None:
    crops = cut_crops(sources.photographs, 4).measured
    encoder = OnnxEncoder(imported)
    for point in imported.operating_points:
        files = [sum(map(len, encoder.encode(crop, point.quality))) * 8 / crop[..., 0].size for crop in crops]
        # The frame of a .pin file is 17 bytes at most.
        assert np.mean(files) == pytest.approx(point.bits_per_pixel, abs=0.003)


@pytest.mark.parametrize("quality", [1, 2])
def test_pictures_go_there_and_back_through_the_command_line(
    imported: Bundle, sources: Sources, tmp_path: Path, quality: int
) -> None:
    picture, pin, back = next(iter(sources.photographs.iterdir())), tmp_path / "a.pin", tmp_path / "a.png"
    bundle = ["--bundle", str(imported.folder)]
    assert run(["compress", str(picture), "-o", str(pin), "--quality", str(quality), *bundle]) == 0
    assert run(["decompress", str(pin), "-o", str(back), "--steps", "2", *bundle]) == 0
    original, decoded = load_picture(picture), load_picture(back)
    assert decoded.shape == original.shape
    preview = tmp_path / "preview.png"
    assert run(["decompress", str(pin), "-o", str(preview), "--steps", "0", *bundle]) == 0
    assert not np.array_equal(load_picture(preview), decoded)
    wrong = tmp_path / "wrong.png"
    assert run(["decompress", str(pin), "-o", str(wrong), "--steps", "1", "--bundle", "pocket"]) == 1
    assert not wrong.exists()


@pytest.mark.parametrize("rate", RATES)
def test_the_ground_gets_the_content_variable_of_the_official_model(
    imported: Bundle, sources: Sources, rate: str
) -> None:
    picture = load_picture(next(iter(sources.photographs.iterdir())))[:192, :256]
    quality = next(point.quality for point in imported.operating_points if point.name == rate)
    _, content = TorchDecoder(imported, "cpu").content(OnnxEncoder(imported).encode(picture, quality))

    # The same by the float model, the integer path's means taken from another backend.
    lfgcm = load_lfgcm(with_medians(RATES.index(rate), (30.0, 3.0)[RATES.index(rate)]), LFGCM_CONFIG)
    lfgcm.requires_grad_(False)
    weights = imported.weights(quality)
    coder = LatentCoder(imported.layout, weights.tables(), TorchBackend(weights.program()), weights.hyper_medians)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    guidance = read_base(str(sources.folder), {}, None).vae().encode(tensor).latent_dist.mode() * 0.5
    y = lfgcm.analysis((tensor + 1) / 2, guidance)
    z = lfgcm.hyper_analysis(y, guidance)
    y_hat = torch.from_numpy(coder.encode(y.numpy(), (z - lfgcm.prior.medians).numpy(), b"").y_hat / 16).float()
    expected = lfgcm.decode(y_hat, lfgcm.prior.quantise(z))
    assert expected.std() > 0.05
    torch.testing.assert_close(content, expected, atol=2e-3, rtol=0)


def test_the_grounds_weights_are_the_official_ones(imported: Bundle, sources: Sources) -> None:
    networks = ReceiverNetworks(imported, torch.device("cpu"))
    base = read_base(str(sources.folder), OVERRIDES, None)
    for name, value in networks.unet.state_dict().items():
        assert torch.equal(value, base.parts.unet[name].bfloat16().float())
    for name, value in networks.decoder.state_dict().items():
        assert torch.equal(value, base.parts.vae[name])
    assert torch.equal(networks.context, base.context)
    for seed, rate in enumerate(RATES):
        steering = networks.steering(next(weights for weights in imported.weight_sets if weights.name == rate))
        official = lc_state(seed)
        own = steering.control.state_dict()
        for theirs, ours in control_keys(steering.control).items():
            assert torch.equal(own[ours], official[f"control_model.{theirs}"].bfloat16().float())


@pytest.mark.slow
def test_the_single_file_gives_the_same_bundle(imported: Bundle, sources: Sources, tmp_path: Path) -> None:
    assert run(arguments(sources, tmp_path / "single", sources.checkpoint, "--no-fp16")) == 0
    single = find_bundle(tmp_path / "single")
    assert single.bundle_id == imported.bundle_id
    files, others = single.manifest["files"], imported.manifest["files"]
    assert {name for name in others if "fp16" not in name} == files.keys()
    assert [name for name in files if files[name] != others[name]] == []


def test_weights_can_stay_where_they_are(imported: Bundle, sources: Sources, tmp_path: Path) -> None:
    base = read_base(str(sources.folder), OVERRIDES, None)
    said: list[str] = []
    external = base.references(said.append)
    # The decoder's attention has the names of old files, as the published one's.
    assert external.keys() == {"receiver/unet.safetensors", "receiver/vae.safetensors"}
    assert "not copied" in said[0]

    folder = tmp_path / "referring"
    shutil.copytree(imported.folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in external:
        del manifest["files"][name]
        (folder / name).unlink()
    (folder / "manifest.json").write_text(json.dumps({**manifest, "external": external}))
    referring = find_bundle(folder)
    assert referring.bundle_id == imported.bundle_id
    referring.verify()
    networks = ReceiverNetworks(referring, torch.device("cpu"))
    for name, value in networks.unet.state_dict().items():
        assert torch.equal(value, base.parts.unet[name])
    for name, value in networks.decoder.state_dict().items():
        assert torch.equal(value, base.parts.vae[name])
    external["receiver/unet.safetensors"]["sha256"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps({**manifest, "external": external}))
    assert run(["bundle", "verify", str(folder)]) == 1


@pytest.mark.slow
def test_a_bundle_that_refers_decodes_in_float32_exactly(sources: Sources, tmp_path: Path) -> None:
    folder = save_diffusers_folder(tmp_path / "sd")
    one = sources._replace(rates={"1_2_1": sources.rates["1_2_1"]})
    output = tmp_path / "referring"
    assert run(arguments(one, output, folder, "--refer", "--dtype", "fp32", "--no-fp16", "--name", "far")) == 0
    bundle = find_bundle(output)
    assert bundle.name == "far"
    assert bundle.manifest["external"].keys() == {"receiver/unet.safetensors", "receiver/vae.safetensors"}
    assert not [name for name in bundle.manifest["files"] if "unet" in name or "vae" in name or "fp16" in name]
    networks = ReceiverNetworks(bundle, torch.device("cpu"))
    control, official = networks.steering(bundle.weight_sets[0]).control, lc_state(0)
    for theirs, ours in control_keys(control).items():
        assert torch.equal(control.state_dict()[ours], official[f"control_model.{theirs}"])
    pin, back = tmp_path / "a.pin", tmp_path / "a.png"
    picture = next(iter(sources.photographs.iterdir()))
    assert run(["compress", str(picture), "-o", str(pin), "--bundle", str(output)]) == 0
    assert run(["decompress", str(pin), "-o", str(back), "--bundle", str(output), "--steps", "1"]) == 0
    assert load_picture(back).shape == load_picture(picture).shape


def test_only_bundles_are_replaced_and_only_by_whole_ones(
    imported: Bundle, sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert run(arguments(sources, tmp_path / "mine", sources.folder)) == 1
    assert "is there and no bundle" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    old = tmp_path / "old"
    shutil.copytree(imported.folder, old)
    bad = sources._replace(rates={"bad": sources.overrides})
    assert run(arguments(bad, old, sources.folder)) == 1
    assert find_bundle(old).bundle_id == imported.bundle_id
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "old"]


@pytest.fixture
def own_copy(imported: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(imported.folder, tmp_path / "copy")
    return find_bundle(tmp_path / "copy")


def test_a_mission_prompt_is_stored_and_changes_the_picture_but_not_the_id(
    own_copy: Bundle, sources: Sources, tmp_path: Path
) -> None:
    embed = ["bundle", "embed-prompt", str(own_copy.folder), "--text-encoder", str(sources.folder)]
    assert run([*embed, "--name", "ships", "--text", "a a"]) == 0
    bundle = find_bundle(own_copy.folder)
    assert bundle.bundle_id == own_copy.bundle_id
    assert bundle.manifest["prompts"] == ["ships"]
    bundle.verify()
    context = load_file(bundle.path("receiver/prompts/ships.safetensors"))["context"]
    assert context.shape == (1, 5, 12)
    assert not torch.equal(context, load_file(bundle.path("receiver/context.safetensors"))["context"])

    picture, pin = next(iter(sources.photographs.iterdir())), tmp_path / "a.pin"
    assert run(["compress", str(picture), "-o", str(pin), "--quality", "1", "--bundle", str(own_copy.folder)]) == 0
    assert len(read_pin(pin)) == 3
    pictures = []
    for name, prompt in (("plain", []), ("prompted", ["--prompt", "ships"])):
        back = tmp_path / f"{name}.png"
        command = ["decompress", str(pin), "-o", str(back), "--steps", "1", "--bundle", str(own_copy.folder)]
        assert run([*command, *prompt]) == 0
        pictures.append(load_picture(back))
    assert not np.array_equal(pictures[0], pictures[1])


def test_prompts_that_cannot_be_stored_leave_the_bundle_as_it_was(
    own_copy: Bundle, sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (own_copy.folder / "manifest.json").read_text()

    def refused(bundle: str, name: str, text: str, encoder: Path) -> str:
        command = ["bundle", "embed-prompt", bundle, "--name", name, "--text", text, "--text-encoder", str(encoder)]
        assert run(command) in (1, 2)
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert (own_copy.folder / "manifest.json").read_text() == before
        return error

    folder = str(own_copy.folder)
    assert "bundle pocket is not steered by text" in refused("pocket", "ships", "a", sources.folder)
    assert "is no name for a prompt" in refused(folder, "../ships", "a", sources.folder)
    assert "shorten it" in refused(folder, "ships", "a a a a a a a a", sources.folder)
    assert "does not exist" in refused(folder, "ships", "a", tmp_path / "none.ckpt")
    wide = tmp_path / "wide"
    save_text_encoder(wide)
    from transformers import CLIPTextModel

    config = CLIPTextModel.from_pretrained(wide / "text_encoder").config
    config.hidden_size = 16
    CLIPTextModel(config).save_pretrained(wide / "text_encoder")
    assert "wants (1, tokens, 12)" in refused(folder, "ships", "a", wide)
    assert not (own_copy.folder / "receiver" / "prompts").exists()
    embed = ["bundle", "embed-prompt", folder, "--text-encoder", str(sources.folder), "--text", "a", "--name", "sea"]
    assert run(embed) == 0
    assert run(embed) == 2
    assert "has a prompt sea already" in capsys.readouterr().err
