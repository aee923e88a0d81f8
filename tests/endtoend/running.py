"""Processes of a test: what they print, and their ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

REPOSITORY = Path(__file__).resolve().parents[2]
LIMIT = 60.0
"""Seconds that end a test that hangs; nothing else depends on them."""

Launch = Callable[..., "subprocess.Popen[Any]"]


def until(condition: Callable[[], bool], what: str, explain: Callable[[], str] = str) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited in vain until {what}\n{explain()}")
        time.sleep(0.02)


class Running:
    """A process; killed when the block ends, if it has not ended before.

    Args:
        argv: what to run.
        log: takes standard output and standard error, behind what is there.
        env: variables beside those of this process.
        launch: starts it, as `subprocess.Popen` does.
    """

    def __init__(
        self, argv: Sequence[str], log: Path, env: Mapping[str, str], launch: Launch = subprocess.Popen
    ) -> None:
        self._log = log
        self._begin = log.stat().st_size if log.exists() else 0
        with log.open("ab") as file:
            self.process = launch(
                argv, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env={**os.environ, **env}
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def said(self) -> str:
        """All that this process has printed."""
        return self._log.read_bytes()[self._begin :].decode(errors="replace")

    def said_in(self, text: str) -> list[str]:
        """The lines with a text in them."""
        return [line for line in self.said.splitlines() if text in line]

    def wait_for(self, text: str) -> str:
        """Wait until it prints a line with a text in it; return that line."""
        until(lambda: text in self.said or self.process.poll() is not None, f"it says {text!r}", lambda: self.said)
        lines = self.said_in(text)
        if not lines:
            raise AssertionError(f"it ended without saying {text!r}:\n{self.said}")
        return lines[0]

    def kill(self) -> None:
        """As a power cut does."""
        self.process.kill()
        self.process.wait()

    def end(self) -> str:
        """Ask it to end; return all that it printed."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> str:
        """Wait until it has ended well; return all that it printed."""
        until(lambda: self.process.poll() is not None, "it ends", lambda: self.said)
        assert self.process.returncode == 0, self.said
        return self.said

    @property
    def resident_bytes(self) -> int:
        """Memory that it has now."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the process has ended")


def pinhole(*arguments: str) -> str:
    """Run a short `pinhole` command; return its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "pinhole", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
