"""Time and peak memory of `pinhole compress` and `pinhole decompress` on a large picture.

    python -m benchmarks.large_pictures [--size 7680x4320] [--bundle NAME] [--steps N ...] [-- COMPRESS-OPTION ...]

The picture is a mosaic of the shipped photographs (or of those in ``--photographs``), each about 768x432, mirrored in
every other row and column. Both commands run as processes of their own, as a user starts them; their peak memory is the
kernel's own high-water mark of resident memory. What stands after ``--`` goes to `pinhole compress`: ``-- -q 3``,
``-- --max-bytes 200000``; without it the command keeps the rate of the middle operating point, which it searches for.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from shared.codec.pin import read_pin
from sim.photographs import folder

CELL = (768, 432)
"""Width and height, about, of each photograph of the mosaic."""
INTERVAL = 0.02
"""Seconds between two looks at a process's memory; its high-water mark loses nothing in between."""


@dataclass(frozen=True)
class Run:
    """What one command took.

    Attributes:
        seconds: wall-clock time.
        megabytes: peak resident memory, 10^6 bytes.
    """

    seconds: float
    megabytes: float


def mosaic(photographs: Sequence[Path], width: int, height: int) -> Image.Image:
    """Make a picture of any size that is as busy as its photographs everywhere."""
    across, down = (max(1, round(side / cell)) for side, cell in zip((width, height), CELL, strict=True))
    columns = [width * i // across for i in range(across + 1)]
    rows = [height * i // down for i in range(down + 1)]
    picture = Image.new("RGB", (width, height))
    for number in range(across * down):
        row, column = divmod(number, across)
        size = (columns[column + 1] - columns[column], rows[row + 1] - rows[row])
        # One step further in each row, so that no photograph lies under itself.
        with Image.open(photographs[(number + row) % len(photographs)]) as image:
            cell = ImageOps.fit(image.convert("RGB"), size, Image.Resampling.LANCZOS)
        cell = ImageOps.mirror(cell) if column % 2 else cell
        picture.paste(ImageOps.flip(cell) if row % 2 else cell, (columns[column], rows[row]))
    return picture


def measure(arguments: Sequence[str]) -> Run:
    """Run a command of Pinhole in a process of its own.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    command = [sys.executable, "-m", "pinhole", *arguments]
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        peak = max(peak, high_water_mark(status))
        time.sleep(INTERVAL)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Run(time.perf_counter() - start, peak * 1024 / 1e6)


def high_water_mark(status: Path) -> int:
    """Peak resident memory of a process in KiB; 0 where it has ended."""
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="7680x4320")
    parser.add_argument("--bundle", default="pocket")
    parser.add_argument("--photographs", type=Path, default=folder())
    parser.add_argument("--steps", type=int, nargs="*", default=[0], help="of each decode; 0 is the preview")
    parser.add_argument("--sender-only", action="store_true")
    parser.add_argument("options", nargs="*", help="options of `pinhole compress`, after --")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    photographs = sorted(p for p in options.photographs.iterdir() if p.suffix in (".png", ".jpg"))
    print("| command | size | bundle | bytes | time | peak memory |")
    print("|---|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as work:
        picture, pin = Path(work) / "picture.png", Path(work) / "picture.pin"
        mosaic(photographs, width, height).save(picture, compress_level=1)
        name = Path(options.bundle).name

        def row(command: str, run: Run) -> None:
            size = sum(map(len, read_pin(pin)))
            print(f"| {command} | {width}x{height} | {name} | {size} | {run.seconds:.1f} s | {run.megabytes:.0f} MB |")

        bundle = ["--bundle", options.bundle]
        run = measure(["compress", str(picture), "-o", str(pin), *bundle, *options.options])
        row(" ".join(["compress", *options.options]), run)
        for steps in () if options.sender_only else options.steps:
            back = Path(work) / f"{steps}.png"
            run = measure(["decompress", str(pin), "-o", str(back), *bundle, "--steps", str(steps)])
            row(f"decompress --steps {steps}", run)


if __name__ == "__main__":
    main()
