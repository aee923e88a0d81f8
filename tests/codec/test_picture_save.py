import errno
import os
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from shared.codec.interfaces import Pixels
from shared.errors import PinholeError
from shared.picture import load_picture, save_picture


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".webp"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (37, 1), (17, 23)])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, suffix: str, height: int, width: int) -> None:
    pixels = noise(height, width)
    save_picture(pixels, tmp_path / f"picture{suffix}")
    np.testing.assert_array_equal(load_picture(tmp_path / f"picture{suffix}"), pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_jpeg_is_near(tmp_path: Path, suffix: str) -> None:
    pixels = noise(32, 32)
    save_picture(pixels, tmp_path / f"picture{suffix}")
    assert np.abs(load_picture(tmp_path / f"picture{suffix}").astype(int) - pixels).mean() < 5


def test_views_that_are_not_contiguous_are_saved_as_they_look(tmp_path: Path) -> None:
    pixels = noise(20, 30)[::2, ::-1]
    save_picture(pixels, tmp_path / "picture.png")
    np.testing.assert_array_equal(load_picture(tmp_path / "picture.png"), pixels)


@pytest.mark.parametrize("name", ["picture", "picture.gif", "picture.pin"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PinholeError, match=r"end the name in \.png"):
        save_picture(noise(2, 2), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_the_format_cannot_hold_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PinholeError, match=r"20000x1 pixels as wide\.webp .*use a \.png file"):
        save_picture(noise(1, 20_000), tmp_path / "wide.webp")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(PinholeError, match=r"nowhere/picture\.png: No such file or directory"):
        save_picture(noise(2, 2), tmp_path / "nowhere" / "picture.png")


def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "picture.png"
    save_picture(noise(4, 4), target)
    before = target.read_bytes()

    def full(descriptor: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PinholeError, match=r"cannot write .*picture\.png: No space left on device"):
        save_picture(noise(8, 8), target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_device_without_room_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The temporary name leads to a device that refuses every byte, as a full disk does.
    monkeypatch.setattr(os, "getpid", lambda: 1)
    (tmp_path / ".picture.png.1.part").symlink_to("/dev/full")
    with pytest.raises(PinholeError, match="No space left on device"):
        save_picture(noise(64, 64), tmp_path / "picture.png")
    assert list(tmp_path.iterdir()) == []
