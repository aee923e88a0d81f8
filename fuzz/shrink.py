"""Keeps of a corpus what reaches something new: lines one after another in the project's code, and how often roughly.

Coarser than what libFuzzer goes by, but it needs no atheris, and what it keeps replays in seconds.
"""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz import corpus

_ROOMS = tuple(f"{Path(__file__).resolve().parents[1] / room}/" for room in ("shared", "receiver"))
_MOST_BYTES = 120_000
"""Of one harness."""

_Arc = tuple[str, int, int]


def shrink(name: str) -> str:
    """Shrink a harness's corpus; returns how far, for people."""
    harness = corpus.load(name)
    before = corpus.read(name)
    reached: set[tuple[_Arc, int]] = set()
    for seed in harness.seeds():
        reached |= _reach(harness.run, seed)
    kept: list[bytes] = []
    for data in sorted(before, key=len):
        new = _reach(harness.run, data) - reached
        if new and sum(map(len, kept)) + len(data) <= _MOST_BYTES:
            kept.append(data)
            reached |= new
    corpus.write(name, kept)
    return f"{len(before)} inputs of {sum(map(len, before))} bytes, {len(kept)} of {sum(map(len, kept))} kept"


def _reach(run: Callable[[bytes], None], data: bytes) -> set[tuple[_Arc, int]]:
    """What an input reaches: pairs of lines, each with the order of magnitude of how often."""
    counts: Counter[_Arc] = Counter()

    def on_call(frame: FrameType, event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(_ROOMS):
            return None
        before = 0

        def on_line(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal before
            if event == "line":
                counts[file, before, frame.f_lineno] += 1
                before = frame.f_lineno
            return on_line

        return on_line

    sys.settrace(on_call)
    try:
        run(data)
    finally:
        sys.settrace(None)
    return {(arc, min(count.bit_length(), 8)) for arc, count in counts.items()}
