"""Writing a file so that its name never shows half of it."""

import os
from contextlib import suppress
from pathlib import Path

from shared.errors import PinholeError


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name beside it, force it to disk, then rename it.

    A reader, a power cut or a full disk finds the old file or the whole new one, never a part.

    Args:
        path: the file's final name; an existing file is replaced.
        data: all of its content.

    Raises:
        PinholeError: if the folder is missing, not writable or full; the temporary file is removed.
    """
    # The process id keeps two writers of one name apart; the last rename wins with a whole file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise PinholeError(
            f"cannot write {path}: {error.strerror or error}; check the folder, its permissions and the free space"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the file system lets folders be synced."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
