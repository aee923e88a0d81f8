"""Giving memory back: what is free inside the process is not free to others until the allocator lets go of it."""

import ctypes
from collections.abc import Callable
from functools import cache


def release_free_memory() -> None:
    """Return freed memory to the system where the C library can (glibc's ``malloc_trim``); elsewhere do nothing.

    Feature maps come and go in all sizes, and glibc keeps what lies between those still in use: after some tiles of a
    large picture that is more than the tiles themselves need. The call takes about a millisecond.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    return trim
