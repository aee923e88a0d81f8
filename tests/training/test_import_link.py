"""A bundle of official stand-ins over a real link: receiver and sender as processes, a TCP socket between them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from pinhole.cli import run
from receiver.decoder import TorchDecoder
from receiver.pictures import PictureKey
from shared.codec.bundle import find_bundle
from shared.picture import load_picture
from tests.receiver.sending import free_port
from tests.training.official_stand_ins import OVERRIDES, save_diffusers_folder, save_lc_checkpoints
from tests.training.paper_stand_ins import save_photographs

PINHOLE = (sys.executable, "-m", "pinhole")


def test_pictures_of_an_imported_bundle_cross_a_real_link(tmp_path: Path) -> None:
    sd, rates = save_diffusers_folder(tmp_path / "sd"), save_lc_checkpoints(tmp_path / "lc")
    photographs = save_photographs(tmp_path / "photographs", 2, 256)
    overrides = tmp_path / "overrides.json"
    overrides.write_text(json.dumps(OVERRIDES))
    bundle, archive = tmp_path / "bundle", tmp_path / "archive"
    common = [
        "--calibrate",
        str(photographs),
        "--crops",
        "2",
        "--config",
        str(overrides),
        "--no-fp16",
        "-o",
        str(bundle),
    ]
    lc = [argument for name, path in rates.items() for argument in ("--lc", f"{name}={path}")]
    assert run(["bundle", "import-official", "--sd", str(sd), *lc, *common]) == 0

    url, used = f"tcp://127.0.0.1:{free_port()}", ["--bundle", str(bundle), "--insecure"]
    sending = ["--budget", "400kbps", "--once", "--state", str(tmp_path / "state")]
    decoding = ["--steps", "2", "--precision", "fp32", "--until-idle", "1"]
    # Standard error goes to a file: a pipe that nobody reads while the sender runs could fill up.
    with (tmp_path / "station.log").open("w") as log:
        station = subprocess.Popen(
            [*PINHOLE, "receive", "--listen", url, "--archive", str(archive), *decoding, *used],
            stdout=log,
            stderr=log,
        )
        try:
            sent = subprocess.run(
                [*PINHOLE, "send", "--source", str(photographs), "--to", url, *sending, *used],
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert sent.returncode == 0, sent.stderr
            assert station.wait(120) == 0, (tmp_path / "station.log").read_text()
        finally:
            station.kill()
    pictures = sorted(archive.glob("*/*/picture.png"))
    assert len(pictures) == 2
    # What was archived is what the layers decode to with the picture's own seed.
    decoder = TorchDecoder(find_bundle(bundle), "cpu")
    for path in pictures:
        shown = load_picture(path)
        layers = [file.read_bytes() for file in sorted(path.parent.glob("layer-*.bin"))]
        key = PictureKey(int(path.parent.parent.name, 16), int(path.parent.name))
        # The station diffused both at once, which may turn a value by a level.
        apart = np.abs(decoder.decode(layers, steps=2, seed=key.seed).astype(int) - shown.astype(int))
        assert apart.max() <= 1
