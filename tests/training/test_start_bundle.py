"""Training that goes on from a finished bundle: its codec, the relay on it, and the bundle that comes out."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from receiver.decoder import TorchDecoder
from receiver.networks import ReceiverNetworks
from sender.encoder import OnnxEncoder
from shared.codec.bundle import MANIFEST, Bundle, find_bundle
from shared.errors import PinholeError, UsageError
from tests.training.test_quantise_stage import MODELS, config, run
from training import export
from training.checkpoints import read_average
from training.data import PhotographFolder, to_tensor
from training.manifest import CARD
from training.models import PocketModels
from training.run_stage import CONFIGS, read_config
from training.stage import Context
from training.stages.relay import RelayLoss, RelaySettings, RelayStage
from training.start_bundle import BundleCodec, open_start_bundle
from training.trainer import Trainer

__all__ = ["run"]

RECEIVER = {f"receiver/{name}.safetensors" for name in ("prior", "control", "decoder")}
EXPORT = export.Settings(MODELS, points=("a", "b", "c"), crops=8, calibration=4, measured=1)


@pytest.fixture(scope="module")
def bundle(run: Path) -> Bundle:
    """A tiny bundle of random weights."""
    start = {"unet": "relay", "control": "relay", "decoder": "relay"}
    export.run(config(run, "export", EXPORT, start))
    return find_bundle(run / "pocket")


@pytest.fixture(scope="module")
def relay(run: Path, bundle: Bundle) -> Path:
    """The folder of a run in which a relay took three steps from the bundle."""
    photographs = PhotographFolder(run / "pictures", 64)
    Trainer(relay_config(run, bundle), RelayStage, photographs).train()
    return run


def relay_config(run: Path, bundle: Bundle) -> Any:
    loss = RelayLoss(independent=0.0, adversarial_from=0.5, truncated=0.5, window=64)
    # As in the configurations that extend the plan's, the stages before it are named too, and are not there.
    start = {"bundle": str(bundle.folder), "codec": "nowhere", "prior": "nowhere", "control": "nowhere"}
    return config(run, "further", RelaySettings(MODELS, loss), start, steps=3)


def pictures(count: int, side: int = 128) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (count, side, side, 3), np.uint8)


def test_the_codec_is_what_sender_and_receiver_have(bundle: Bundle) -> None:
    codec = BundleCodec(bundle, ReceiverNetworks(bundle, torch.device("cpu")))
    encoder, decoder = OnnxEncoder(bundle), TorchDecoder(bundle, "cpu")
    pixels, points = pictures(2), torch.tensor([0.0, 1.53])
    guidance, content = codec(to_tensor(pixels), points)
    assert guidance.shape == content.shape == (2, 4, 16, 16)
    layers = [encoder.encode(picture, 1 + float(point)) for picture, point in zip(pixels, points, strict=True)]
    for i, coded in enumerate(layers):
        torch.testing.assert_close(content[i : i + 1], decoder.content(coded)[1], rtol=0, atol=1e-5)
    for seed in range(8):
        torch.manual_seed(seed)
        kept = int(torch.randint(2, ()))
        torch.manual_seed(seed)
        _, cut = codec(to_tensor(pixels), points, True)
        for i, coded in enumerate(layers):
            torch.testing.assert_close(cut[i : i + 1], decoder.content(coded[: 1 + kept])[1], rtol=0, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec(to_tensor(pixels), points)[1], content)


def test_the_relay_trains_from_a_bundle_alone(relay: Path, bundle: Bundle) -> None:
    record = json.loads((relay / "further" / "log.jsonl").read_text().splitlines()[-1])
    assert record["step"] == 3
    assert all(math.isfinite(value) for value in record.values())
    made, old = read_average(relay, "further"), ReceiverNetworks(bundle, torch.device("cpu"))
    assert {name.partition(".")[0] for name in made} == {"unet", "control", "decoder", "judge"}
    near = {f"decoder.{name}": value for name, value in old.decoder.state_dict().items()}
    assert any(not torch.equal(made[name], value) for name, value in near.items())
    for name, value in near.items():
        torch.testing.assert_close(made[name], value, rtol=0, atol=0.2)


def test_a_bundle_is_renewed_and_decodes_the_old_ones_pictures(relay: Path, bundle: Bundle, tmp_path: Path) -> None:
    own = {"unet": "further", "control": "further", "decoder": "further", "compression": "nowhere"}
    settings = export.Settings(MODELS, points=("a", "b", "c"), output=str(tmp_path / "new"))
    export.run(config(relay, "export", settings, {"bundle": str(bundle.folder), **own}))
    new = find_bundle(tmp_path / "new")
    new.verify()
    assert {name for name in bundle.files if new.read(name) != bundle.read(name)} == RECEIVER
    assert set(new.files) == set(bundle.files)
    assert new.bundle_id == bundle.bundle_id
    picture = pictures(1)[0]
    layers = OnnxEncoder(bundle).encode(picture, 2)
    assert OnnxEncoder(new).encode(picture, 2) == layers
    before, after = (TorchDecoder(b, "cpu") for b in (bundle, new))
    assert torch.equal(before.content(layers)[1], after.content(layers)[1])
    assert not np.array_equal(before.decode(layers), after.decode(layers))
    card = (new.folder / CARD).read_text()
    assert card.startswith((bundle.folder / CARD).read_text())

    # Once more, on itself, and the decoder alone.
    export.run(config(relay, "export", settings, {"bundle": str(new.folder), "decoder": "relay"}))
    again = find_bundle(tmp_path / "new")
    assert {name for name in bundle.files if again.read(name) != bundle.read(name)} == RECEIVER - {
        "receiver/decoder.safetensors"
    }
    assert (again.folder / CARD).read_text() == card
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_what_does_not_fit_is_named(relay: Path, bundle: Bundle, tmp_path: Path) -> None:
    def renew(settings: export.Settings = EXPORT, **start: str) -> None:
        export.run(config(relay, "export", settings, {"bundle": str(bundle.folder), **start}))

    with pytest.raises(PinholeError, match=r"another architecture than \[model.autoencoder\]"):
        open_start_bundle(str(bundle.folder), PocketModels())
    with pytest.raises(PinholeError, match="bundle pouch: not found"):
        open_start_bundle("pouch", MODELS)
    with pytest.raises(UsageError, match="nothing new; set unet, control, decoder"):
        renew()
    with pytest.raises(UsageError, match=r"\[start\] relay is no part of a bundle"):
        renew(relay="further")
    with pytest.raises(PinholeError, match=r"no checkpoint .*nowhere"):
        renew(decoder="nowhere")
    with pytest.raises(PinholeError, match="decodes by 2 steps from 199, not by 4 from 199; set steps = 2"):
        renew(export.Settings(MODELS, steps=4), decoder="further")
    with pytest.raises(PinholeError, match="are allowed"):
        renew(export.Settings(MODELS, largest=0.01), decoder="further")

    other = tmp_path / "other"
    shutil.copytree(bundle.folder, other)
    manifest = json.loads((other / MANIFEST).read_text())
    (other / MANIFEST).write_text(json.dumps({**manifest, "networks": {"family": "diffeic"}}))
    with pytest.raises(PinholeError, match="of family 'diffeic'; only pocket bundles"):
        open_start_bundle(str(other), MODELS)
    (other / MANIFEST).write_text(json.dumps({**manifest, "networks": {"autoencoder": {"widths": [1]}}}))
    with pytest.raises(PinholeError, match="networks' configuration is wrong"):
        open_start_bundle(str(other), MODELS)
    (other / MANIFEST).write_text(json.dumps(manifest))
    (other / CARD).unlink()
    with pytest.raises(PinholeError, match=f"cannot read its {CARD}"):
        renew(bundle=str(other), decoder="further")


def test_the_shipped_bundle_can_be_trained_on(tmp_path: Path, run: Path) -> None:
    """One step of the configuration that comes with Pinhole, on two small crops."""
    read = read_config(CONFIGS / "pocket" / "finetune.toml", ["loss.window=64", "loss.adversarial=0"])
    assert read.start["bundle"] == "pocket"
    photographs = PhotographFolder(run / "pictures", 64)
    stage = RelayStage(read.settings, Context(torch.device("cpu"), tmp_path, read.start, photographs, 1, 64))
    torch.manual_seed(1)
    losses = stage.loss(to_tensor(pictures(2, 64)), 0.1)
    losses["total"].backward()  # type: ignore[no-untyped-call]
    assert all(math.isfinite(float(value.detach())) for value in losses.values())
    gradients = [p.grad for p in stage.trained.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
    exported = read_config(CONFIGS / "pocket" / "finetune_export.toml")
    assert {exported.start[name] for name in ("unet", "control", "decoder")} == {read.name}
