"""Wrong, partial and hostile checkpoints: one line says what is wrong, and no bundle is left behind."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pinhole.cli import run
from tests.training.import_sources import Sources, arguments, save_sources
from tests.training.official_stand_ins import (
    lc_state,
    save_diffusers_folder,
    save_lightning,
)
from tests.training.paper_stand_ins import save_photographs
from training.importing import run as importing
from training.importing.sender_graphs import SenderGraph


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return save_sources(tmp_path_factory.mktemp("official"))


def failed(capsys: pytest.CaptureFixture[str], output: Path, command: list[str]) -> str:
    capsys.readouterr()
    assert run(command) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith("pinhole bundle")
    assert error.count("\n") == 1
    assert not output.exists()
    assert not any(path.name.startswith(f".{output.name}") for path in output.parent.iterdir())
    return error


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploded"),))


def without(name: str) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        del state[name]

    return change


def replaced(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update({name: value})


BIAS = "preprocess_model.encoder.g_a6.bias"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without(BIAS), r"keys 1 missing \(.*g_a6.bias"),
        (without("control_model.middle_block_out.0.weight"), r"1 missing \(control_model.middle_block_out.0.weight\)"),
        (replaced("preprocess_model.extra.weight", torch.zeros(2)), r"1 unknown \(extra.weight\)"),
        (replaced("control_model.extra", torch.zeros(2)), r"1 unknown \(control_model.extra\)"),
        (replaced("somebody.elses", torch.zeros(2)), "unknown"),
        (replaced(BIAS, torch.zeros(13)), r"g_a6.bias is \(13,\), not \(12,\)"),
        (replaced(BIAS, torch.full((12,), float("nan"))), "g_a6.bias holds NaN"),
        (replaced(BIAS, torch.full((12,), 3e38)), "latents are not finite numbers"),
        (replaced(BIAS, Bomb()), "pathlib"),
        (replaced("preprocess_model.gaussian_conditional.scale_bound", torch.tensor([0.2])), "is not the constant"),
        (replaced("model.diffusion_model.out.2.bias", torch.ones(4)), "carries a UNet of its own, whose out.2.bias"),
    ],
)
def test_an_odd_checkpoint_is_one_line_and_no_bundle(
    sources: Sources,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, Any]], None],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    state: dict[str, Any] = lc_state()
    change(state)
    bad = save_lightning(tmp_path / "lc.ckpt", state)
    monkeypatch.setattr(importing, "guidance_graph", no_graph)
    changed = sources._replace(rates={"good": sources.rates["1_2_1"], "bad": bad})
    error = failed(capsys, tmp_path / "out", arguments(changed, tmp_path / "out", sources.folder))
    assert str(bad) in error
    assert_said(said, error)
    assert not (tmp_path / "exploded").exists()


def no_graph(vae: Any, half: bool) -> Any:
    return SenderGraph(b"never used", None, 0.0, None)


def assert_said(pattern: str, error: str) -> None:
    assert re.search(pattern, error), error


def test_cut_off_checkpoints_are_one_line_and_no_bundle(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = sources.rates["1_2_1"].read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 40):
        (tmp_path / "lc.ckpt").write_bytes(whole[:length])
        changed = sources._replace(rates={"bad": tmp_path / "lc.ckpt"})
        error = failed(capsys, tmp_path / "out", arguments(changed, tmp_path / "out", sources.folder))
        assert str(tmp_path / "lc.ckpt") in error


def test_what_does_not_belong_together_is_named(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def error_of(sources: Sources, sd: Path | str, *more: str) -> str:
        return failed(capsys, out, arguments(sources, out, Path(sd), *more))

    assert "no/where does not exist" in error_of(sources, "no/where")
    nothing = sources._replace(rates={"x": tmp_path / "nothing.ckpt"})
    assert "nothing.ckpt does not exist" in error_of(nothing, sources.folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no photographs found" in error_of(sources._replace(photographs=empty), sources.folder)
    assert "is no folder" in error_of(sources._replace(photographs=tmp_path / "none"), sources.folder)
    small = sources._replace(photographs=save_photographs(tmp_path / "small", 2, 128))
    assert "no photograph has 256 pixels" in error_of(small, sources.folder)
    (tmp_path / "odd.json").write_text('{"lfgcm": {"depth": 3}}')
    assert "has no depth" in error_of(sources._replace(overrides=tmp_path / "odd.json"), sources.folder)

    assert "cannot refer to the unet" in error_of(sources, sources.checkpoint, "--refer")
    silent = save_diffusers_folder(tmp_path / "silent", text_encoder=False)
    assert "give --prompt-embedding" in error_of(sources, silent)
    save_file({"context": torch.zeros(1, 5, 7)}, tmp_path / "narrow.safetensors")
    narrow = error_of(sources, silent, "--prompt-embedding", str(tmp_path / "narrow.safetensors"))
    assert "is (1, 5, 7), but the UNet wants (1, tokens, 12)" in narrow
    assert "does not exist" in error_of(sources, silent, "--prompt-embedding", str(tmp_path / "absent"))
    scheduler = silent / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace('"epsilon"', '"v_prediction"'))
    assert "prediction_type is v_prediction" in error_of(sources, silent)

    wider = save_lightning(tmp_path / "wide.ckpt", lc_state() | {"control_model.scale_list": torch.ones(3)})
    assert "scale_list is (3,)" in error_of(sources._replace(rates={"wide": wider}), sources.folder)
    monkeypatch.setattr(importing, "guidance_graph", no_graph)
    others = lc_state()
    lone = {name: value for name, value in others.items() if name.startswith("control_model.")}
    half = save_lightning(tmp_path / "half.ckpt", lone)
    assert "compression module" in error_of(sources._replace(rates={"half": half}), sources.folder)
