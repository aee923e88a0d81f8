"""``python -m fuzz``: run harnesses under atheris.

    python -m fuzz NAME [--minutes N]       one harness
    python -m fuzz --all [--minutes N]      one after the other
    python -m fuzz --shrink [NAME]          keep of the corpus what reaches anything new

Each harness runs in a process of its own (``fuzz.worker``), which libFuzzer ends as it likes.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fuzz import corpus

_SECONDS_OF_ONE_INPUT = 40
"""Of the clock, not of the processor: a machine that has other things to do may let a fuzzer wait."""

_MEGABYTES = 1024


def main() -> int:
    """Parse the command line; the exit status is 1 if there were findings."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz the parsers of this project.")
    parser.add_argument("name", nargs="?", choices=corpus.NAMES, help="harness")
    parser.add_argument("--all", action="store_true", help="all harnesses, one after the other")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each harness (10)")
    parser.add_argument(
        "--shrink", action="store_true", help="shrink the corpus instead, by lines and branches reached"
    )
    arguments = parser.parse_args()
    if arguments.name is None and not arguments.all and not arguments.shrink:
        parser.error("name a harness, or give --all")
    names = corpus.NAMES if arguments.name is None else (arguments.name,)
    if arguments.shrink:
        from fuzz.shrink import shrink

        for name in names:
            print(f"{name}: {shrink(name)}", flush=True)
        return 0
    return int(any([_fuzz(name, arguments.minutes) for name in names]))


def _fuzz(name: str, minutes: float) -> bool:
    """Run one harness; whether it found something."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        grown, known, crashes = (Path(folder, part) for part in ("grown", "known", "crashes"))
        for path in (grown, known, crashes):
            path.mkdir()
        corpus.unpack(name, known)
        command = [sys.executable, "-m", "fuzz.worker", name, str(grown), str(known)]
        command += [f"-max_total_time={round(60 * minutes)}", f"-timeout={_SECONDS_OF_ONE_INPUT}"]
        command += [f"-rss_limit_mb={_MEGABYTES}", f"-artifact_prefix={crashes}/", "-print_final_stats=1"]
        begun = time.monotonic()
        status = subprocess.run(command, check=False).returncode
        added = corpus.add(name, (path.read_bytes() for path in sorted(grown.iterdir())))
        findings = [path for path in crashes.iterdir() if path.name.startswith(("crash-", "timeout-", "oom-"))]
        for path in findings:
            corpus.keep_finding(name, path.read_bytes())
        seconds = time.monotonic() - begun
        print(
            f"{name}: {seconds:.0f} s, {added} new inputs, {len(findings)} findings, exit status {status}", flush=True
        )
        return bool(findings) or status != 0


if __name__ == "__main__":
    sys.exit(main())
