"""Decoded pictures that are kept for the page: a few pictures of the set at one operating point."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shared.codec.interfaces import Pixels
from shared.errors import PinholeError
from shared.picture import save_picture
from training.evaluation.measuring import Work
from training.evaluation.store import fingerprint


class Gallery:
    """Chooses what is kept and where; PNG files in one folder.

    Args:
        folder: made if missing.
        names: of all pictures of the dataset.
        count: how many of them are kept, spread evenly.
        target: the operating point; None for each candidate's middle one.

    Raises:
        PinholeError: if the folder cannot be made.
    """

    def __init__(self, folder: Path, names: Sequence[str], count: int, target: str | None) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PinholeError(
                f"cannot make folder {folder}: {error.strerror or error}; give another output"
            ) from error
        spread = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
        self._folder, self._target = folder, target
        self._names = {names[i] for i in spread}

    def keep_original(self, name: str, pixels: Pixels) -> Path | None:
        """Write an original once; return its file, None where the picture is not shown."""
        if name not in self._names:
            return None
        path = self._folder / f"{name}-original-{fingerprint(pixels)[:8]}.png"
        if not path.exists():
            save_picture(pixels, path)
        return path

    def path(self, work: Work, variant: str) -> Path | None:
        """Return the file of a decode, None where it is not shown; it may not be written yet."""
        if work.source.name not in self._names or variant not in work.candidate.shown:
            return None
        targets = [target.name for target in work.candidate.targets]
        chosen = targets[(len(targets) - 1) // 2] if self._target is None else self._target
        if work.target.name != chosen:
            return None
        # The key's digest keeps the pictures of another version apart.
        parts = (work.source.name, work.candidate.name, variant, chosen, work.key(variant).digest())
        text = "-".join(filter(None, parts))
        return self._folder / f"{''.join(c if c.isalnum() or c in '-_.' else '-' for c in text)}.png"

    def is_kept(self, work: Work, variant: str) -> bool:
        """Whether a decode is written, or need not be."""
        path = self.path(work, variant)
        return path is None or path.exists()
