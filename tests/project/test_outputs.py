from pathlib import Path

import pytest

from shared.errors import PinholeError
from shared.outputs import error_line, output_paths


def test_one_input_goes_to_the_file_or_into_the_folder(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    assert output_paths([picture], tmp_path / "deep" / "b.pin", ".pin") == [tmp_path / "deep" / "b.pin"]
    assert (tmp_path / "deep").is_dir()
    assert output_paths([picture], tmp_path / "deep", ".pin") == [tmp_path / "deep" / "a.pin"]


def test_several_inputs_go_into_a_folder_that_is_made(tmp_path: Path) -> None:
    paths = output_paths([Path("x/a.png"), Path("y/b.jpg")], tmp_path / "new", ".pin")
    assert paths == [tmp_path / "new" / "a.pin", tmp_path / "new" / "b.pin"]
    assert (tmp_path / "new").is_dir()


def test_nothing_is_overwritten_by_accident(tmp_path: Path) -> None:
    with pytest.raises(PinholeError, match="would both become"):
        output_paths([Path("x/a.png"), Path("y/a.jpg")], tmp_path / "new", ".pin")
    picture = tmp_path / "a.png"
    picture.touch()
    with pytest.raises(PinholeError, match="one of the inputs"):
        output_paths([picture], tmp_path / "." / "a.png", ".png")
    with pytest.raises(PinholeError, match="cannot make folder"):
        output_paths([Path("x/a.png"), Path("x/b.png")], picture, ".pin")


def test_an_error_is_one_line_that_names_the_input() -> None:
    assert error_line("compress", Path("a.png"), PinholeError("too\nlarge")) == "pinhole compress: a.png: too large"
    assert error_line("info", Path("a.pin"), PinholeError("a.pin is cut")) == "pinhole info: a.pin is cut"
