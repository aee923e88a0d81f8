"""Decides which prefix of a picture's layers is decoded when: no I/O, no clock, no threads."""

from receiver.jobs import Job
from receiver.pictures import PictureKey, PictureRecord, Stage


class Assembler:
    """Turns the growth of pictures into decode jobs.

    A preview is due as soon as the base layer is there and again whenever the prefix grows. The full decode is due
    when all layers are there, or when nothing new has come for ``settle`` seconds; layers that come later ask for both
    again. Only pictures that wait for their settle time are remembered; everything else is in the index.
    """

    def __init__(self, *, settle: float, full: bool = True) -> None:
        """Start with no pictures.

        Args:
            settle: seconds without a new layer after which an incomplete picture is fully decoded.
            full: whether full decodes are wanted at all.
        """
        self._settle = settle
        self._full = full
        self._settling: dict[PictureKey, tuple[float, Job]] = {}

    def update(self, record: PictureRecord, now: float) -> list[Job]:
        """Take note of a picture that got a layer (or was found after a restart); return what to decode now."""
        self._settling.pop(record.key, None)
        jobs: list[Job] = []
        if record.preview_layers < record.usable:
            jobs.append(Job(record.key, Stage.PREVIEW, record.received, refines=record.preview_layers > 0))
        if self._full and record.picture_layers < record.usable:
            job = Job(record.key, Stage.FULL, record.received, refines=record.picture_layers > 0)
            if record.complete:
                jobs.append(job)
            else:
                # Re-inserted at the end: with one settle time for all, the dictionary stays sorted by due time.
                self._settling[record.key] = (now + self._settle, job)
        return jobs

    def due(self, now: float) -> list[Job]:
        """Return the full decodes whose pictures have settled by ``now``."""
        jobs = []
        while self._settling:
            key, (due, job) = next(iter(self._settling.items()))
            if due > now:
                break
            del self._settling[key]
            jobs.append(job)
        return jobs

    def next_timer(self) -> float | None:
        """Return when ``due`` has something next, or None."""
        return next(iter(self._settling.values()))[0] if self._settling else None

    def waits(self, key: PictureKey) -> bool:
        """Return whether a picture waits for its settle time."""
        return key in self._settling

    @property
    def settling(self) -> int:
        """Number of pictures that wait for their settle time."""
        return len(self._settling)
