"""Durable files under one root, on the local disk or anywhere fsspec reaches."""

import errno
import os
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from shared.errors import PinholeError
from shared.files import write_atomically

_OF_ONE_PLACE = {errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""What is wrong with one folder or file; a full or failing disk, or no more open files, concerns all."""


class PlaceRefusedError(PinholeError):
    """One place refuses (rights, a file where a folder must be); others may well take files."""


class FileStore:
    """Writes whole files so that a reader sees all of one or nothing, whatever dies in between.

    On the local disk a file is written beside its place, synchronised, renamed, and its folder synchronised; object
    stores (S3 and the like) replace whole objects by themselves.
    """

    def __init__(self, url: str) -> None:
        """Open the folder at ``url`` (a path or an fsspec URL) and make it if it is missing.

        Raises:
            PinholeError: if it cannot be made or the URL's scheme is not available.
        """
        try:
            self._fs, root = fsspec.core.url_to_fs(url)
            self._root = str(root).rstrip("/")
            self._fs.makedirs(self._root, exist_ok=True)
        except (OSError, ValueError, ImportError) as error:
            raise PinholeError(f"archive {url} cannot be opened: {error}; give a folder you may write to") from error
        self._url = url

    @property
    def local_root(self) -> Path | None:
        """Root folder on the local disk, or None for any other file system."""
        return Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file, durable when this returns.

        Args:
            name: path below the root, parts separated by ``/``.
            data: content.

        Raises:
            PlaceRefusedError: if this one place refuses; the former file, if any, is unharmed.
            PinholeError: if the storage refuses (full disk); likewise.
        """
        try:
            if self.local_root is not None:
                path = self.local_root / name
                _make_folder(path.parent)
                write_atomically(path, data)
            else:
                self._fs.pipe_file(f"{self._root}/{name}", data)
        except (OSError, PinholeError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            reason = cause.strerror or str(cause) or type(cause).__name__
            trouble = f"archive {self._url}: cannot write {name}: {reason}"
            if cause.errno in _OF_ONE_PLACE:
                raise PlaceRefusedError(f"{trouble}; mend what is in its way there, or the rights") from error
            raise PinholeError(f"{trouble}; free space or mend the storage") from error

    def read(self, name: str) -> bytes:
        """Return a whole file.

        Raises:
            PinholeError: if it cannot be read.
        """
        try:
            return bytes(self._fs.cat_file(f"{self._root}/{name}"))
        except OSError as error:
            raise PinholeError(f"archive {self._url}: cannot read {name}: {error.strerror or error}") from error

    def remove_parts(self) -> None:
        """Remove what a crash left of files that were being written (local disk only, and only by the one writer)."""
        if self.local_root is not None:
            for part in self.local_root.glob("*/*/.*.part"):
                part.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, each entry synchronised: a file is as durable as the way to it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
