"""Which pictures are taken, under which names, and what is cut out of them."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.errors import PinholeError
from shared.picture import save_picture
from tests.evaluation.evaluate_fakes import texture
from training.evaluation.datasets import PictureProtocol, open_dataset, resize_and_crop


def write(path: Path, height: int = 30, width: int = 50) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(texture(1, height, width), path)


def test_pictures_are_found_below_the_folder_and_named_apart(tmp_path: Path) -> None:
    for name in ("x/one.png", "y/one.png", "two.webp", "a b.png"):
        write(tmp_path / "Some Set" / name)
    (tmp_path / "Some Set" / "notes.txt").write_text("no picture")
    dataset = open_dataset(str(tmp_path / "Some Set"), PictureProtocol.AS_IS)
    assert dataset.name == "some set"
    assert [source.name for source in dataset.pictures] == ["a-b", "two", "x-one.png", "y-one.png"]
    assert dataset.pictures[1].load().shape == (30, 50, 3)
    assert len(open_dataset(str(tmp_path / "Some Set"), limit=2).pictures) == 2


def test_kodak_stays_as_it_is_and_others_are_cropped(tmp_path: Path) -> None:
    write(tmp_path / "kodak" / "1.png", 512, 768)
    write(tmp_path / "kodak" / "2.png", 768, 512)
    kodak = open_dataset(str(tmp_path / "kodak"))
    assert kodak.protocol is PictureProtocol.AS_IS
    assert [source.load().shape for source in kodak.pictures] == [(512, 768, 3), (768, 512, 3)]
    write(tmp_path / "kodak" / "3.png", 300, 400)
    other = open_dataset(str(tmp_path / "kodak"))
    assert other.protocol is PictureProtocol.CROP
    assert {source.load().shape for source in other.pictures} == {(768, 768, 3)}
    assert open_dataset(str(tmp_path / "kodak"), PictureProtocol.CROP, 2).pictures[0].load().shape == (768, 768, 3)


def test_a_picture_that_cannot_be_read_does_not_choose_the_protocol(tmp_path: Path) -> None:
    write(tmp_path / "1.png", 512, 768)
    (tmp_path / "2.png").write_bytes(b"no picture")
    dataset = open_dataset(str(tmp_path))
    assert dataset.protocol is PictureProtocol.AS_IS
    with pytest.raises(PinholeError, match=r"2\.png"):
        dataset.pictures[1].load()


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PinholeError, match="no such folder"):
        open_dataset(str(tmp_path / "absent"))
    with pytest.raises(PinholeError, match="no pictures found"):
        open_dataset(str(tmp_path))


def test_the_photographs_of_packages_keep_their_sizes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("training.evaluation.package_photographs")
    found = [SimpleNamespace(name=name, pixels=texture(2, side, 2 * side)) for name, side in (("b", 20), ("a", 10))]
    vars(module)["package_photographs"] = lambda: found
    monkeypatch.setitem(sys.modules, module.__name__, module)
    dataset = open_dataset("packages")
    assert (dataset.name, dataset.protocol) == ("packages", PictureProtocol.AS_IS)
    assert [(s.name, s.load().shape) for s in dataset.pictures] == [("a", (10, 20, 3)), ("b", (20, 40, 3))]
    assert open_dataset("packages", PictureProtocol.CROP).pictures[0].load().shape == (768, 768, 3)


@settings(max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40))
def test_the_crop_is_a_square_of_the_middle(height: int, width: int, side: int) -> None:
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    ramp[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    cropped = resize_and_crop(ramp, side)
    assert cropped.shape == (side, side, 3)
    if min(height, width) == side:
        left, top = (width - side) // 2, (height - side) // 2
        assert np.array_equal(cropped, ramp[top : top + side, left : left + side])


def test_resizing_is_pillows_lanczos() -> None:
    picture = texture(3, 60, 100)
    small = np.asarray(Image.fromarray(picture).resize((50, 30), Image.Resampling.LANCZOS))
    assert np.array_equal(resize_and_crop(picture, 30), small[:, 10:40])
