"""Checkpoints are read and nothing in them is run; what is damaged or no weight is said in one line."""

import os
import pickle
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from shared.errors import PinholeError
from tests.training.official_stand_ins import fake_lightning, save_lightning
from training.official_files import check_shapes, read_checkpoint_state

STATE: dict[str, Tensor] = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "a.bias": torch.ones(2, dtype=torch.float16),
    "b.weight": torch.ones(3, dtype=torch.bfloat16),
    "steps": torch.tensor(3),
    "empty": torch.zeros(0, dtype=torch.int32),
    "tower.attn_mask": torch.full((2, 2), float("-inf")).triu(1),
}


class Hostile:
    """Writes a file when it is unpickled as pickles usually are."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"echo > '{self.path}'",)


def same(read: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return read.keys() == wanted.keys() and all(
        torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in wanted.items()
    )


def refusal(path: Path) -> str:
    with pytest.raises(PinholeError) as caught:
        read_checkpoint_state(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.isprintable()
    return message


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt", "pt", "pth", "bin"])
def test_states_come_back_as_they_were_stored(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE if suffix == "pt" else {"state_dict": STATE, "epoch": 1}, path)
    assert same(read_checkpoint_state(path), STATE)
    assert same(read_checkpoint_state(str(path)), STATE)


def test_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "really.ckpt")
    assert same(read_checkpoint_state(tmp_path / "really.ckpt"), STATE)


@pytest.mark.parametrize("legacy", [False, True])
def test_lightning_checkpoints_load_without_lightning(tmp_path: Path, legacy: bool) -> None:
    path = save_lightning(tmp_path / "last.ckpt", STATE, legacy)
    assert "pytorch_lightning" not in sys.modules
    assert same(read_checkpoint_state(path), STATE)
    assert "pytorch_lightning" not in sys.modules


def test_numbers_of_numpy_and_objects_of_lightning_stand_beside(tmp_path: Path) -> None:
    with fake_lightning() as (callback, _):
        made: Any = callback()
        made.best = np.float32(2)
        extras = {"scores": [np.float64(1.5), np.int64(3), np.bool_(True)], "callback": made}
        torch.save({"state_dict": STATE, **extras}, tmp_path / "a.ckpt")
    assert same(read_checkpoint_state(tmp_path / "a.ckpt"), STATE)


def test_weights_stay_in_the_file_until_they_are_used(tmp_path: Path) -> None:
    state = {"big": torch.zeros(2_000_000), "small": torch.ones(2)}
    torch.save(state, tmp_path / "a.ckpt")
    save_file(state, tmp_path / "b.safetensors")
    for name in ("a.ckpt", "b.safetensors"):
        read = read_checkpoint_state(tmp_path / name)
        assert str(tmp_path / name) in Path("/proc/self/maps").read_text() if Path("/proc/self/maps").exists() else True
        # What is done to the tensors does not go back into the file.
        read["small"].mul_(5)
        assert torch.equal(read_checkpoint_state(tmp_path / name)["small"], state["small"])


@pytest.mark.parametrize("legacy", [False, True])
def test_hostile_pickles_are_refused_and_do_not_run(tmp_path: Path, legacy: bool) -> None:
    trace = tmp_path / "ran"
    evil = Hostile(trace)
    for content in (
        evil,
        {"state_dict": evil},
        {"state_dict": STATE | {"x": evil}},
        {"state_dict": STATE, "callbacks": {"a": evil}},
        {"state_dict": STATE, "hook": eval},
    ):
        torch.save(content, tmp_path / "evil.ckpt", _use_new_zipfile_serialization=not legacy)
        message = refusal(tmp_path / "evil.ckpt")
        assert "posix.system" in message or "nt.system" in message or "eval" in message
        assert "refused" in message
        assert not trace.exists()
    # The same file does run where pickles are trusted, so the test would notice.
    torch.save(evil, tmp_path / "evil.ckpt")
    torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert trace.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_bare_pickles_are_refused_and_do_not_run(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps({"state_dict": Hostile(tmp_path / "ran")}, protocol))
    refusal(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


def test_names_that_only_look_like_lightning_are_refused(tmp_path: Path) -> None:
    made = type("Evil", (), {"__module__": "pytorch_lightning_evil"})
    module: Any = type(sys)("pytorch_lightning_evil")
    module.Evil = made
    sys.modules["pytorch_lightning_evil"] = module
    try:
        torch.save({"state_dict": STATE, "x": made}, tmp_path / "a.ckpt")
    finally:
        del sys.modules["pytorch_lightning_evil"]
    assert "pytorch_lightning_evil.Evil" in refusal(tmp_path / "a.ckpt")
    torch.save({"state_dict": STATE, "x": deque([1])}, tmp_path / "b.ckpt")
    assert "collections.deque" in refusal(tmp_path / "b.ckpt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"x": torch.ones(2), "epoch": 3}}, "'epoch' is of type int"),
        ({"x": [torch.ones(2)]}, "'x' is of type list"),
        ({3: torch.ones(2)}, "entry 3 is of type Tensor"),
        ({"x": torch.tensor([1.0, float("nan")])}, "x holds NaN"),
        ({"x": torch.tensor([1.0, float("inf")]).half()}, "x holds NaN or infinity"),
        ({"x": torch.ones(2, dtype=torch.complex64)}, "x is no plain tensor"),
        ({"x": torch.ones(2).to_sparse()}, "x is no plain tensor"),
        ({"x": torch.ones(2, device="meta")}, "x is no plain tensor"),
        ({}, "no state dictionary"),
        ({"state_dict": {}}, "no state dictionary"),
        ({"state_dict": 3}, "no state dictionary"),
        ([torch.ones(2)], "no state dictionary"),
        (torch.ones(2), "no state dictionary"),
    ],
)
def test_what_is_no_state_dictionary_of_finite_tensors_is_named(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    assert message in refusal(tmp_path / "a.ckpt")


def test_missing_files_folders_and_empty_files_are_named(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "a.ckpt")
    assert "is a folder" in refusal(tmp_path)
    (tmp_path / "a.ckpt").touch()
    assert "is empty" in refusal(tmp_path / "a.ckpt")
    (tmp_path / "a.ckpt").write_text("<html>Log in to download</html>")
    assert "no checkpoint" in refusal(tmp_path / "a.ckpt")


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("contents")
    save_file(STATE, folder / "a.safetensors")
    save_lightning(folder / "b.ckpt", STATE)
    save_lightning(folder / "c.ckpt", STATE, legacy=True)
    return [(folder / name).read_bytes() for name in ("a.safetensors", "b.ckpt", "c.ckpt")]


@given(data=st.data())
def test_files_that_are_cut_off_give_one_line(
    contents: list[bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = data.draw(st.sampled_from(contents))
    path = tmp_path_factory.mktemp("cut") / "a.ckpt"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    refusal(path)


@given(data=st.data())
def test_damaged_files_give_one_line_or_tensors(
    contents: list[bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(contents)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.ckpt"
    path.write_bytes(content)
    said = ""
    read: dict[str, Tensor] = {}
    try:
        read = read_checkpoint_state(path)
    except PinholeError as error:
        said = str(error)
    assert said.isprintable()
    assert bool(said) != bool(read)
    assert all(isinstance(value, Tensor) for value in read.values())


def test_all_that_does_not_fit_is_named_in_one_line() -> None:
    shapes = {"a": (2,), "b": (3,), "c": (1,), "d": (1,)}
    state = {"a": torch.ones(2), "b": torch.ones(4), "d": torch.ones(1, dtype=torch.int64), "e": torch.ones(1)}
    with pytest.raises(PinholeError) as caught:
        check_shapes(state, shapes, "here")
    for part in ("1 missing (c)", "1 unknown (e)", "b (4,) for (3,)", "d torch.int64"):
        assert part in str(caught.value)
    assert str(caught.value).startswith("here: ")
    check_shapes({"a": torch.ones(2)}, {"a": (2,)}, "here")
    with pytest.raises(PinholeError, match=r"20 missing \(.*, \.\.\.\)"):
        check_shapes({}, {str(i): (1,) for i in range(20)}, "here")
