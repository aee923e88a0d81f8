"""Where the reference vectors and test photographs lie that are no part of the project."""

import os
from pathlib import Path

import pytest


def shared_folder(part: str) -> Path:
    """Return a folder beside the project (or where PINHOLE_SHARED points); skip the test where it is absent."""
    shared = Path(os.environ.get("PINHOLE_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    folder = shared / part
    if not folder.is_dir():
        pytest.skip(f"nothing at {folder}; point PINHOLE_SHARED at the folder that holds {part}")
    return folder
