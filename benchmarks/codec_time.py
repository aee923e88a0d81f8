"""Time and memory of the pocket codec by part: the table of ``docs/benchmarks.md``.

    python -m benchmarks.codec_time [PICTURE ...] [--quality Q] [--runs N]

The sender runs in a process of its own without torch, whose peak memory is the kernel's own figure. Medians
over the runs after one warm-up. Without pictures, a shipped photograph is resized to 768x512.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from sim.photographs import folder

PARTS = ("guidance", "analysis", "entropy", "total")


def sender_times(path: Path, quality: int, runs: int) -> dict[str, float]:
    """Median seconds by part and the peak memory in MB of this process; called in a process of its own."""
    from sender.encoder import OnnxEncoder
    from shared.codec.bundle import find_bundle
    from shared.picture import load_picture

    started = time.perf_counter()
    encoder = OnnxEncoder(find_bundle("pocket"))
    loading = time.perf_counter() - started
    pixels = load_picture(path)
    rows: list[dict[str, float]] = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        layers = encoder.encode(pixels, quality)
        rows.append({**encoder.seconds, "total": time.perf_counter() - start})
    assert "torch" not in sys.modules
    medians = {part: statistics.median(row[part] for row in rows[1:]) for part in PARTS}
    coding = coding_seconds(encoder, pixels, quality, runs)
    medians["entropy"] -= coding
    medians["coding"] = coding
    memory = peak_memory()
    return {**medians, "loading": loading, "memory": memory, "bytes": float(sum(map(len, layers)))}


def peak_memory() -> float:
    """Peak resident memory of this process in MB.

    From the kernel's own high-water mark, not from ``getrusage``: that one outlives exec, and so reports the peak of
    whoever started this process where that was larger.
    """
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024 / 1e6


def coding_seconds(encoder: object, pixels: object, quality: int, runs: int) -> float:
    """Median seconds of range coding alone, measured inside the coder by wrapping the symbol encoder."""
    from shared.codec.entropy import coding, range_coder

    spent = [0.0]

    class Timed(range_coder.SymbolEncoder):
        def encode(self, *arguments: object) -> None:  # type: ignore[override]
            start = time.perf_counter()
            super().encode(*arguments)  # type: ignore[arg-type]
            spent[0] += time.perf_counter() - start

        def finish(self) -> bytes:
            start = time.perf_counter()
            data = super().finish()
            spent[0] += time.perf_counter() - start
            return data

    values = []
    original = coding.SymbolEncoder
    coding.SymbolEncoder = Timed  # type: ignore[misc]
    try:
        for _ in range(runs):
            spent[0] = 0.0
            encoder.encode(pixels, quality)  # type: ignore[attr-defined]
            values.append(spent[0])
    finally:
        coding.SymbolEncoder = original  # type: ignore[misc]
    return statistics.median(values)


def receiver_times(path: Path, quality: int, runs: int) -> dict[str, float]:
    """Median seconds of entropy decoding with synthesis, of the preview, and of the full decode."""
    from receiver.decoder import TorchDecoder
    from sender.encoder import OnnxEncoder
    from shared.codec.bundle import find_bundle
    from shared.picture import load_picture

    bundle = find_bundle("pocket")
    layers = OnnxEncoder(bundle).encode(load_picture(path), quality)
    decoder = TorchDecoder(bundle)

    def median(action: object, count: int) -> float:
        values = []
        for _ in range(count + 1):
            start = time.perf_counter()
            action()  # type: ignore[operator]
            values.append(time.perf_counter() - start)
        return statistics.median(values[1:])

    return {
        "content": median(lambda: decoder.content(layers), runs),
        "preview": median(lambda: decoder.preview(layers), runs),
        "full": median(lambda: decoder.decode(layers), max(1, runs // 3)),
        "steps": float(decoder.default_steps),
    }


def shipped_picture(target: Path) -> Path:
    """A shipped photograph at 768x512."""
    with Image.open(folder() / "coffee.png") as image:
        image.convert("RGB").resize((768, 512), Image.Resampling.LANCZOS).save(target)
    return target


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", type=Path)
    parser.add_argument("--quality", type=int, default=3)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--sender-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sender_only:
        print(json.dumps(sender_times(options.pictures[0], options.quality, options.runs)))
        return
    with tempfile.TemporaryDirectory() as work:
        pictures = options.pictures or [shipped_picture(Path(work) / "coffee-768x512.png")]
        print(
            "| picture | size | guidance | analysis | entropy | coding | encode in all | peak memory | preview | full |"
        )
        print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
        for path in pictures:
            command = [sys.executable, "-m", "benchmarks.codec_time", str(path), "--sender-only"]
            command += ["--quality", str(options.quality), "--runs", str(options.runs)]
            sent = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            received = receiver_times(path, options.quality, options.runs)
            with Image.open(path) as image:
                size = np.array(image.size)
            cells = [f"{sent[part]:.3f} s" for part in ("guidance", "analysis", "entropy", "coding", "total")]
            cells += [f"{sent['memory']:.0f} MB", f"{received['preview']:.2f} s"]
            cells += [f"{received['full']:.2f} s ({received['steps']:.0f} steps)"]
            print(f"| {path.stem} | {size[0]}x{size[1]} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
