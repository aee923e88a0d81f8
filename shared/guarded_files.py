"""Files that decide who is trusted: what others could have changed or read is refused, as OpenSSH does with its own.

Nothing here knows what the files hold. All of it is POSIX: owners, permission bits, ``flock``.
"""

import fcntl
import os
import secrets
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from shared.errors import PinholeError

_SHARED_BITS = stat.S_IRWXG | stat.S_IRWXO
_CHANGING_BITS = stat.S_IWGRP | stat.S_IWOTH


class Stamp(NamedTuple):
    """By which a changed file is told from the same one, without reading it.

    Attributes:
        device: of the file system.
        inode: another one after an atomic replacement.
        size: bytes.
        modified: nanoseconds since 1970.
        altered: likewise, of owner and permissions as well.
    """

    device: int
    inode: int
    size: int
    modified: int
    altered: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """Pick the fields of a file's status."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of a file, links followed, or None where it cannot be looked at."""
    try:
        return Stamp.of(path.stat())
    except (OSError, ValueError):
        return None


def read_guarded(path: Path, *, secret: bool, limit: int) -> tuple[bytes, Stamp]:
    """Read a file after checking, on the open file itself, that nobody else had a hand in it.

    Links are followed, and what they lead to is checked: deployments often link to the real file.

    Args:
        path: the file.
        secret: nobody else may even read it; else nobody else may change it.
        limit: bytes that it may have at most.

    Returns:
        Its content, and the stamp of what was read.

    Raises:
        PinholeError: if it is missing, unreadable, no plain file, too large, not owned by this process's user or root,
            or open to others.
    """
    try:
        # Without O_NONBLOCK, a named pipe put there would make the caller wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise PinholeError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise PinholeError(f"cannot read {path}: {_reason(error)}") from error
    try:
        status = os.fstat(descriptor)
        _refuse_foreign(path, status, secret=secret)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise PinholeError(f"cannot read {path}: {_reason(error)}") from error
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise PinholeError(f"{path} has more than {limit} bytes, which no file of its kind has; give another file")
    return data, Stamp.of(status)


def write_guarded(path: Path, data: bytes, *, mode: int, replace: bool) -> None:
    """Write a file that has its permissions from the first byte on, and its name only once it is whole and on disk.

    Args:
        path: the file.
        data: all of its content.
        mode: permission bits, whatever the umask says.
        replace: take the place of an existing file; else that is an error, also when two do it at once.

    Raises:
        PinholeError: if there is such a file already, or it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name[:64]}.{secrets.token_hex(8)}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with open(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            if replace:
                os.replace(temporary, path)
            else:
                # A rename would silently replace; a second name for the file cannot.
                os.link(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        _sync(path.parent)
    except FileExistsError as error:
        raise PinholeError(f"{path} is there already and is never overwritten; choose another name") from error
    except (OSError, ValueError) as error:
        raise PinholeError(f"cannot write {path}: {_reason(error)}; check the folder and the free space") from error


def make_private_folder(folder: Path) -> None:
    """Make a folder that only its owner can enter, where there is none; parents are made as usual.

    Raises:
        PinholeError: if it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise PinholeError(f"cannot make folder {folder}: {_reason(error)}; give another folder") from error


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Keep every other process that asks for the same lock out while the body runs; waits for its turn.

    The lock goes with the process (``flock``), so a crash leaves nothing locked.

    Raises:
        PinholeError: if the folder cannot be written.
    """
    path = folder / ".lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except (OSError, ValueError) as error:
        raise PinholeError(f"cannot write in {folder}: {_reason(error)}; check the folder") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _refuse_foreign(path: Path, status: os.stat_result, *, secret: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise PinholeError(f"{path} is no plain file; give another")
    quoted = shlex.quote(str(path))
    if status.st_uid not in (os.geteuid(), 0):
        raise PinholeError(
            f"{path} belongs to another user (number {status.st_uid}): run this as that user, or "
            f"`chown {os.geteuid()} {quoted}` if you trust what is in it"
        )
    mode = stat.S_IMODE(status.st_mode)
    if secret and mode & _SHARED_BITS:
        raise PinholeError(f"{path} is open to other users (mode {mode:04o}): run `chmod 600 {quoted}`")
    if mode & _CHANGING_BITS:
        raise PinholeError(f"{path} can be changed by other users (mode {mode:04o}): run `chmod go-w {quoted}`")


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _sync(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the file system lets folders be synced."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
