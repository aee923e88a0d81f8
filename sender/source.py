"""Where pictures come from: the contract of a source, and the watched folder.

A source is polled. It hands out *captures*: cheap handles whose content is read only when the node is ready for it, so
that a folder of ten thousand photographs costs a few megabytes of names. A camera source keeps the same contract: its
captures hold a frame, their digest is that of the frame's bytes, and its ``settled`` is always true.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from PIL import ExifTags, Image

from shared.codec.interfaces import Pixels
from shared.errors import PinholeError
from shared.picture import load_picture

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pnm", ".avif"}
)
"""File name endings, in lower case, that the watched folder takes for pictures."""

_TIME_FORMAT = "%Y:%m:%d %H:%M:%S"  # Exif 2.32, tag DateTimeOriginal


class CaptureChangedError(PinholeError):
    """The picture is no longer what it was when it was found; the source will offer it again if it still exists."""


class Capture(Protocol):
    """One picture that is ready to be taken, not yet read."""

    @property
    def name(self) -> str:
        """Name within the source; together with the digest it is the picture's identity."""

    @property
    def captured(self) -> int:
        """Capture time in whole seconds since 1970."""

    @property
    def revision(self) -> str:
        """A cheap mark that changes when the content may have changed."""

    def digest(self) -> bytes:
        """Return the SHA-256 of the content, 32 bytes.

        Raises:
            PinholeError: if the content cannot be read.
        """

    def pixels(self) -> Pixels:
        """Return the picture.

        Raises:
            CaptureChangedError: if the content changed since the capture was found.
            PinholeError: if it cannot be read as a picture.
        """


class Source(Protocol):
    """Something that produces pictures."""

    @property
    def settled(self) -> bool:
        """Whether the last poll handed out everything it had seen; false while something is still being written."""

    def poll(self) -> Sequence[Capture]:
        """Return the captures that became ready since the last poll, oldest first; each revision only once.

        Raises:
            PinholeError: if the source cannot be read now; a later poll may succeed.
        """


@dataclass(frozen=True)
class FileCapture:
    """A picture file that was the same at two scans.

    Attributes:
        path: the file.
        name: its path below the watched folder, with forward slashes.
        captured: seconds since 1970.
        revision: its size and modification time.
    """

    path: Path
    name: str
    captured: int
    revision: str

    def digest(self) -> bytes:
        """Return the SHA-256 of the file.

        Raises:
            CaptureChangedError: if the file vanished.
            PinholeError: if it cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except FileNotFoundError as error:
            raise CaptureChangedError(f"{self.name}: the file vanished before it was taken") from error
        except OSError as error:
            raise PinholeError(f"{self.name}: {error.strerror or error}; check the file and its permissions") from error

    def pixels(self) -> Pixels:
        """Read the picture.

        Raises:
            CaptureChangedError: if the file vanished or was written to since it was found.
            PinholeError: if it is not a picture that can be read.
        """
        try:
            pixels = load_picture(self.path)
        except PinholeError:
            self._check_unchanged()  # a file caught in mid-rewrite is not a bad picture, only an early one
            raise
        self._check_unchanged()
        return pixels

    def _check_unchanged(self) -> None:
        try:
            unchanged = _revision(self.path.stat()) == self.revision
        except OSError:
            unchanged = False
        if not unchanged:
            raise CaptureChangedError(f"{self.name}: the file changed while it was read")


class WatchedFolder:
    """Pictures in a folder and its subfolders, those there already and those to come.

    A file counts as fully written when its size and modification time are the same at two scans in a row; scanning
    also works on network disks, where change notifications do not arrive. Hidden files and folders are passed over:
    that is where copying tools keep their unfinished work.
    """

    def __init__(self, root: Path, *, taken: Callable[[str, str], bool] = lambda name, revision: False) -> None:
        """Watch ``root``.

        Args:
            root: the folder.
            taken: tells whether the name and revision of a file were taken before, perhaps in an earlier run.

        Raises:
            PinholeError: if ``root`` is not a folder that can be read.
        """
        self._root = root
        self._taken = taken
        self._offered: dict[str, str] = {}
        self._unsettled: dict[str, str] = {}
        self._scan()

    @property
    def settled(self) -> bool:
        """Whether no file is waiting for its second scan."""
        return not self._unsettled

    def poll(self) -> Sequence[FileCapture]:
        """Scan once; return the files that became ready, by capture time, then name.

        Raises:
            PinholeError: if the folder cannot be read.
        """
        found = self._scan()
        self._offered = {file: seen for file, seen in self._offered.items() if file in found}
        ready = []
        unsettled = {}
        for file, seen in found.items():
            if self._offered.get(file) == seen:
                continue
            if file not in self._offered and self._taken(_printable(file), seen):
                self._offered[file] = seen
            elif self._unsettled.get(file) == seen:
                ready.append(self._capture(file, seen))
                self._offered[file] = seen
            else:
                unsettled[file] = seen
        self._unsettled = unsettled
        return sorted(ready, key=lambda capture: (capture.captured, capture.name))

    def _capture(self, file: str, revision: str) -> FileCapture:
        path = self._root / file
        return FileCapture(path, _printable(file), capture_time(path), revision)

    def _scan(self) -> dict[str, str]:
        """Return the revision of every picture file, by its path below the root."""

        def refuse(error: OSError) -> None:
            # Only the root itself matters: a subfolder may be removed while the walk is in it.
            if Path(error.filename) == self._root:
                raise PinholeError(
                    f"source folder {self._root}: {error.strerror}; create it or pass another --source"
                ) from error

        found = {}
        for folder, subfolders, files in os.walk(self._root, onerror=refuse):
            subfolders[:] = [subfolder for subfolder in subfolders if not subfolder.startswith(".")]
            for file in files:
                path = Path(folder, file)
                if path.suffix.lower() in SUFFIXES and not file.startswith("."):
                    with suppress(OSError):  # removed since it was listed
                        status = path.stat()
                        if stat.S_ISREG(status.st_mode):  # opening a pipe would block for ever
                            found[path.relative_to(self._root).as_posix()] = _revision(status)
        return found


def capture_time(path: Path) -> int:
    """Return when a picture file was captured, in whole seconds since 1970.

    That is Exif's DateTimeOriginal with its offset, in local time where it has none (the camera is beside the node),
    and the file's modification time where there is no Exif. 0 if the file vanished.
    """
    with suppress(Exception), Image.open(path) as image:  # any damage here is reported when the picture is read
        exif = image.getexif()
        details = exif.get_ifd(ExifTags.IFD.Exif)
        text = details.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime)
        if text:
            offset = details.get(ExifTags.Base.OffsetTimeOriginal)
            moment = str(text).strip("\0 ")
            if offset:
                parsed = datetime.strptime(moment + str(offset).strip("\0 "), _TIME_FORMAT + "%z")
            else:
                parsed = datetime.strptime(moment, _TIME_FORMAT).astimezone()
            if parsed.timestamp() >= 0:
                return int(parsed.timestamp())
    try:
        return max(0, int(path.stat().st_mtime))
    except OSError:
        return 0


def _printable(file: str) -> str:
    """Return a file name as valid UTF-8: names of other encodings reach Python as lone surrogates."""
    return file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _revision(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"
