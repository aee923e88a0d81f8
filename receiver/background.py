"""One thread beside the event loop for work that blocks and must stay in order."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Background:
    """Runs functions one after another on one thread, so that what they share needs no lock."""

    def __init__(self, name: str) -> None:
        """Start the thread under a name that debuggers show."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function there and return what it returns.

        A cancelled caller goes on at once; the function still runs to its end.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """Let what was begun come to its end, drop what was not, and end the thread."""
        self._executor.shutdown(wait=True, cancel_futures=True)
