"""SIGINT and SIGTERM end a run at the next whole step instead of anywhere."""

import signal
import threading
from types import FrameType, TracebackType


class Interruption:
    """Context in which the first SIGINT or SIGTERM is only noted; a second SIGINT interrupts at once.

    Attributes:
        signal: the number of the signal noted, 0 while there is none.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        """Take over the two signals; outside the main thread, where Python allows none, do nothing."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
