"""A bundle being written: its files go beside the target and are listed as they come; the whole moves into place."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from shared.codec.bundle import MANIFEST
from shared.errors import PinholeError


class BundleWriter:
    """Writes one bundle, whole or not at all; a context manager.

    What is left at the end of the ``with`` block without `finish` is removed again.

    Attributes:
        folder: where the files lie while they are written.
        files: size and SHA-256 of every file so far, as in a manifest.

    Args:
        target: the bundle's folder. One with a bundle in it is replaced at the end, anything else must not exist.

    Raises:
        PinholeError: if the target is something else than a bundle, or its place cannot be written to.
    """

    def __init__(self, target: Path) -> None:
        occupied = target.exists() and not (target.is_dir() and (not any(target.iterdir()) or _is_bundle(target)))
        if occupied or target.is_symlink():
            raise PinholeError(f"{target} is there and no bundle; give -o a new folder")
        self._target = target
        self.folder = target.with_name(f".{target.name}.{os.getpid()}.part")
        self.files: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "BundleWriter":
        """Make the folder."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
        except OSError as error:
            raise self._failed(error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Remove what was not finished; say plainly what went wrong with the disk."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise self._failed(error) from error

    def add(self, name: str, data: bytes) -> None:
        """Write one file."""
        self._place(name).write_bytes(data)
        self._list(name)

    def add_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors as one safetensors file."""
        save_file({key: value.detach().contiguous() for key, value in tensors.items()}, self._place(name))
        self._list(name)

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write, or write again, the manifest with all files so far."""
        text = json.dumps({**manifest, "files": self.files}, indent=1) + "\n"
        (self.folder / MANIFEST).write_text(text, encoding="utf-8")

    def write_text(self, name: str, text: str) -> None:
        """Write a file for people, which the manifest does not list."""
        self._place(name).write_text(text, encoding="utf-8")

    def finish(self) -> None:
        """Put the bundle in its place, where one of before is replaced."""
        old = self._target.with_name(f".{self._target.name}.{os.getpid()}.old")
        if self._target.exists():
            # Renames of folders do not replace; between these two no bundle is there, but never half of one.
            self._target.rename(old)
        self.folder.rename(self._target)
        shutil.rmtree(old, ignore_errors=True)

    def _place(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _list(self, name: str) -> None:
        self.files[name] = described(self.folder / name)

    def _failed(self, error: OSError) -> PinholeError:
        return PinholeError(
            f"cannot write the bundle {self._target}: {error.strerror or error}; check the folder and the free space"
        )


def described(path: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file, as a manifest has them."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _is_bundle(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()
