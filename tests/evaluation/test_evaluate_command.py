"""`pinhole evaluate` as it is typed, with the shipped bundle and real codecs on a small photograph."""

import csv
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from pinhole.cli import run
from receiver.decoder import TorchDecoder
from receiver.settings import DecoderSettings
from sender.encoder import OnnxEncoder
from shared.codec.bundle import find_bundle
from shared.codec.pin import pack_pin
from shared.errors import UsageError
from shared.picture import load_picture, save_picture
from sim.metrics import psnr
from training.evaluation.bundle_candidate import BundleCandidate, Recipe, Sweep

PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "sim" / "photographs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("evaluate") / "coffee"
    made.mkdir()
    photograph = load_picture(PHOTOGRAPHS / "coffee.png")
    save_picture(np.ascontiguousarray(photograph[100:200, 150:310]), made / "cup.png")
    save_picture(np.ascontiguousarray(photograph[200:264, 200:264]), made / "table.png")
    return made


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_whole_command_and_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "out"
    options = [
        "--protocol",
        "as-is",
        "--peers",
        "JPEG",
        "--metrics",
        "PSNR",
        "--quality",
        "1,2.5,3",
        "--steps",
        "0,1,2",
    ]
    command = ["evaluate", str(folder), *options, "--show", "1", "--device", "cpu", "-o", str(out)]
    assert run(command) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "above estimate" in printed
    assert f"page: {out / 'index.html'}" in printed

    bundle = find_bundle("pocket")
    layers = bundle.layout.layers
    prefixes = [f"layers {n}/{layers}{full}" for n in range(1, layers + 1) for full in ("", ", full")]
    rows = rows_of(out / "results.csv")
    found = {(row["picture"], row["target"], row["variant"]): row for row in rows if row["method"] == "pocket"}
    at_all = {(p, t, v) for p in ("cup", "table") for t in ("1", "2.5", "3") for v in ("preview", "full")}
    at_the_middle = {(p, "2.5", v) for p in ("cup", "table") for v in ("1 step", "2 steps", *prefixes)}
    assert set(found) == at_all | at_the_middle
    assert len(rows) == len(found) + 6

    # Every figure is that of the real file.
    picture = load_picture(folder / "cup.png")
    encoder, decoder = OnnxEncoder(bundle), TorchDecoder(bundle, "cpu")
    coded = encoder.encode(picture, 2.5)
    preview = found["cup", "2.5", "preview"]
    assert int(preview["bytes"]) == len(pack_pin(coded))
    assert float(preview["bits_per_pixel"]) == pytest.approx(8 * len(pack_pin(coded)) / 16_000, abs=1e-6)
    assert float(preview["PSNR"]) == pytest.approx(psnr(picture, decoder.preview(coded)), abs=1e-4)
    base = found["cup", "2.5", f"layers 1/{layers}"]
    assert int(base["bytes"]) == len(pack_pin(coded[:1]))
    assert float(base["PSNR"]) == pytest.approx(psnr(picture, decoder.preview(coded[:1])), abs=1e-4)
    default = bundle.manifest["diffusion"]["steps"]
    if default in (1, 2):
        steps = found["cup", "2.5", f"{default} step{'s'[: default - 1]}"]
        assert steps["PSNR"] == found["cup", "2.5", "full"]["PSNR"]

    # The peer is never given less than we use.
    for row in rows:
        if row["method"] == "JPEG":
            assert int(row["bytes"]) >= int(found[row["picture"], row["target"], "preview"]["bytes"])
    rates = rows_of(out / "rates.csv")
    assert len(rates) == 6
    for rate in rates:
        assert 0 < float(rate["estimate_bytes"]) < int(rate["bytes"])
        assert float(rate["estimate_bytes"]) <= int(rate["payload_bytes"]) + layers < int(rate["bytes"])
    assert {row["variant"] for row in rows_of(out / "summary.csv")} >= {"preview", "full", ""}
    assert len(list((out / "pictures").glob("cup-*.png"))) == 4

    kinds = [json.loads(line)["kind"] for line in (out / "results.jsonl").read_text().splitlines()]
    assert (kinds.count("result"), kinds.count("rate")) == (len(rows), 6)

    # Again: nothing is measured, and the tables are the same.
    before = {name: (out / name).read_bytes() for name in ("results.jsonl", "results.csv", "rates.csv", "summary.csv")}
    assert run(command) == 0
    assert {name: (out / name).read_bytes() for name in before} == before


def test_a_damaged_picture_is_told_and_the_status_is_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = folder.parent / "damaged"
    damaged.mkdir()
    (damaged / "bad.png").write_bytes(b"no picture")
    (damaged / "good.png").write_bytes((folder / "table.png").read_bytes())
    options = ["--peers", "none", "--metrics", "PSNR", "--steps", "none", "--no-prefixes", "--quality", "1"]
    out = folder.parent / "damaged-out"
    command = [
        "evaluate",
        str(damaged),
        *options,
        "--protocol",
        "as-is",
        "--show",
        "0",
        "--device",
        "cpu",
        "-o",
        str(out),
    ]
    assert run(command) == 1
    errors = capsys.readouterr().err
    assert "bad: " in errors
    assert "1 failed" in errors
    assert {row["picture"] for row in rows_of(out / "results.csv")} == {"good"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quality", "high"], "--quality high: give numbers"),
        (["--quality", "99"], "quality 99 is not in this bundle"),
        (["--steps", "2,5000", "--quality", "1"], "--steps 5000: bundle pocket starts at timestep"),
        (["--start", "1000"], "--start 1000: give 0 to 999"),
        (["--starts", "199,1000"], "--starts 1000: give 0 to 999"),
        (["--starts", "soon"], "--starts soon: give numbers"),
        (["--starts", "9", "--steps", "11"], "--steps 11: one of --starts is at timestep 9; give 0 to 10"),
        (["--samplers", "ddpm,pddm"], "there is no sampler pddm; give one of ddpm, ddim"),
        (["--sampler", "pddm"], "there is no sampler pddm"),
        (["--sweep-quality", "2", "--quality", "1"], "sweep at quality 2, which is not measured"),
        (["--show-quality", "2", "--quality", "1"], "--show-quality 2 is not measured"),
        (["--peers", "MP3"], "there is no peer MP3"),
        (["--metrics", "beauty", "--peers", "none"], "beauty"),
        (["--bundle", "pocket", "--bundle", "pocket", "--peers", "none", "--metrics", "PSNR"], "called pocket"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert run(["evaluate", str(folder), *options, "--device", "cpu", "-o", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err.strip()
    assert message in " ".join(errors.split())
    assert len(errors.splitlines()) == 1


def test_samplers_and_starts_are_swept_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--peers", "none", "--metrics", "PSNR", "--quality", "3", "--protocol", "as-is", "--limit", "1"]
    swept = ["--samplers", "ddpm,unipc", "--starts", "99,999", "--steps", "3", "--no-prefixes", "--show", "0"]
    out = folder.parent / "samplers"
    assert run(["evaluate", str(folder), *options, *swept, "--device", "cpu", "-o", str(out)]) == 0
    found = {row["variant"]: row["PSNR"] for row in rows_of(out / "results.csv")}
    variants = [f"3 steps, {name}{start}" for name in ("ddpm", "unipc") for start in ("", ", from 99", ", from 999")]
    assert set(found) == {"preview", "full", "3 steps", *variants}
    # The bundle's own sampler is the paper's; all else paints another picture.
    assert found["3 steps, ddpm"] == found["3 steps"]
    assert len(set(found.values()) - {found["full"], found["preview"]}) == 6

    # Every figure is that of the settings it names.
    picture, bundle = load_picture(folder / "cup.png"), find_bundle("pocket")
    decoder = TorchDecoder(bundle, "cpu", DecoderSettings(sampler="unipc", start=99))
    decoded = decoder.decode(OnnxEncoder(bundle).encode(picture, 3), steps=3, seed=zlib.crc32(picture.tobytes()))
    assert float(found["3 steps, unipc, from 99"]) == pytest.approx(psnr(picture, decoded), abs=1e-4)


def test_an_absent_folder_or_bundle_is_one_line_and_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([str(tmp_path / "absent")], [str(tmp_path), "--bundle", "new=nowhere"]):
        assert run(["evaluate", *arguments, "--peers", "none", "--metrics", "PSNR", "-o", str(tmp_path / "out")]) == 1
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_bundles_variants_follow_the_sweep() -> None:
    bundle = find_bundle("pocket")
    last = float(bundle.operating_points[-1].quality)
    plain = BundleCandidate(bundle, "new")
    assert plain.name == "new"
    assert [target.name for target in plain.targets] == [f"{p.quality}" for p in bundle.operating_points]
    assert all(target.variants == ("preview", "full") for target in plain.targets)
    sweep = Sweep(steps=(0, 1, 8), from_noise=True, qualities=(last,))
    swept = BundleCandidate(bundle, qualities=(1, last), sweep=sweep)
    assert [target.variants for target in swept.targets] == [
        ("preview", "full"),
        ("preview", "full", "1 step", "1 step from noise", "8 steps", "8 steps from noise"),
    ]
    # A quality goes to the grid of 1/16 that a header can name.
    assert [target.name for target in BundleCandidate(bundle, qualities=(1.51,)).targets] == ["1.5"]
    assert plain.version == BundleCandidate(bundle).version
    assert plain.version != BundleCandidate(bundle, start=999).version
    assert plain.version != BundleCandidate(bundle, sampler="ddim").version
    wide = BundleCandidate(bundle, qualities=(1,), sweep=Sweep(steps=(4,), samplers=("ddim",), starts=(50,)))
    assert wide.targets[0].variants == ("preview", "full", "4 steps", "4 steps, ddim", "4 steps, ddim, from 50")
    assert wide.recipe("4 steps, ddim, from 50") == Recipe(None, 4, "ddim", 50)
    assert wide.recipe("4 steps") == Recipe(None, 4, "ddpm", bundle.manifest["diffusion"]["start"])
    changed = {**bundle.manifest, "files": {**bundle.manifest["files"], "receiver/decoder.safetensors": {}}}
    assert plain.version != BundleCandidate(type(bundle)(bundle.folder, changed)).version
    with pytest.raises(UsageError, match="not measured"):
        BundleCandidate(bundle, qualities=(1,), sweep=Sweep(qualities=(2,)))
