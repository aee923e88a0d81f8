import os
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from sender.source import CaptureChangedError, WatchedFolder, capture_time
from shared.errors import PinholeError
from tests.sender.pictures import write_picture


def names(folder: WatchedFolder) -> list[str]:
    return [capture.name for capture in folder.poll()]


def test_pictures_come_once_by_time_then_name(tmp_path: Path) -> None:
    write_picture(tmp_path / "b.png", 1, modified=2000)
    write_picture(tmp_path / "day2" / "a.JPG", 2, modified=2000)
    write_picture(tmp_path / "z.webp", 3, modified=1000)
    (tmp_path / "notes.txt").write_text("no picture")
    write_picture(tmp_path / ".hidden.png", 4)
    write_picture(tmp_path / ".cache" / "x.png", 5)
    os.mkfifo(tmp_path / "pipe.png")
    folder = WatchedFolder(tmp_path)
    assert names(folder) == []
    assert not folder.settled
    assert names(folder) == ["z.webp", "b.png", "day2/a.JPG"]
    assert (folder.settled, names(folder)) == (True, [])
    write_picture(tmp_path / "new.png", 6)
    assert names(folder) == []
    assert names(folder) == ["new.png"]


def test_a_growing_file_waits_until_it_is_whole(tmp_path: Path) -> None:
    whole = write_picture(tmp_path / "whole.png", 1).read_bytes()
    (tmp_path / "whole.png").unlink()
    folder = WatchedFolder(tmp_path)
    path = tmp_path / "growing.png"
    for end in (10, 100, len(whole)):
        path.write_bytes(whole[:end])
        assert names(folder) == []
        assert not folder.settled
    assert names(folder) == ["growing.png"]


def test_a_rewritten_file_comes_again(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", 1, modified=1000)
    folder = WatchedFolder(tmp_path)
    folder.poll()
    (first,) = folder.poll()
    write_picture(path, 2, modified=2000)
    assert names(folder) == []
    (second,) = folder.poll()
    assert first.digest() == second.digest()  # both read the file as it is now,
    with pytest.raises(CaptureChangedError):
        first.pixels()  # but the old handle notices that it is out of date
    assert second.pixels().shape == (32, 48, 3)


def test_what_the_spool_has_is_not_offered(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 1)
    write_picture(tmp_path / "b.png", 2)
    folder = WatchedFolder(tmp_path, taken=lambda name, revision: name == "a.png")
    folder.poll()
    assert names(folder) == ["b.png"]


def test_a_half_picture_is_refused_and_a_vanished_one_is_changed(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "half.png", 1)
    path.write_bytes(path.read_bytes()[:200])
    write_picture(tmp_path / "gone.png", 2)
    folder = WatchedFolder(tmp_path)
    folder.poll()
    captures = {capture.name: capture for capture in folder.poll()}
    (tmp_path / "gone.png").unlink()
    with pytest.raises(PinholeError, match=r"half\.png") as caught:
        captures["half.png"].pixels()
    assert not isinstance(caught.value, CaptureChangedError)
    for read in (captures["gone.png"].digest, captures["gone.png"].pixels):
        with pytest.raises(CaptureChangedError, match=r"gone\.png"):
            read()


def test_exif_tells_the_capture_time(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:05:06 07:08:09"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.OffsetTimeOriginal] = "+02:00"
    with_exif = write_picture(tmp_path / "a.jpg", 1, modified=5000, exif=exif)
    assert capture_time(with_exif) == 1714972089
    assert capture_time(write_picture(tmp_path / "b.jpg", 1, modified=5000)) == 5000
    broken = Image.Exif()
    broken[ExifTags.Base.DateTime] = "0000:00:00 00:00:00"
    assert capture_time(write_picture(tmp_path / "c.jpg", 1, modified=6000, exif=broken)) == 6000


def test_a_missing_folder_is_one_line_and_may_come_back(tmp_path: Path) -> None:
    with pytest.raises(PinholeError, match="--source"):
        WatchedFolder(tmp_path / "missing")
    with pytest.raises(PinholeError, match="--source"):
        WatchedFolder(write_picture(tmp_path / "file.png", 1))
    root = tmp_path / "card"
    write_picture(root / "a.png", 1)
    folder = WatchedFolder(root)
    root.rename(tmp_path / "pulled")
    with pytest.raises(PinholeError, match="card"):
        folder.poll()
    (tmp_path / "pulled").rename(root)
    folder.poll()
    assert names(folder) == ["a.png"]


def test_names_that_are_not_utf8_can_be_read_and_printed(tmp_path: Path) -> None:
    write_picture(tmp_path / "plain.png", 1)
    os.rename(tmp_path / "plain.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    folder = WatchedFolder(tmp_path)
    folder.poll()
    (capture,) = folder.poll()
    assert capture.name == "caf\\xe9.png"
    assert capture.pixels().shape == (32, 48, 3)
