"""The paper's model at full size with random weights: time and peak memory by part, in 20 GB.

    python -m benchmarks.full_size --work DIR [--layout single|diffusers] [--dtype fp32|fp16] [--crops N]
                                   [--photographs DIR] [--precision fp32|bf16] [--reuse]

Writes checkpoints of the official sizes and layouts (`benchmarks.full_size_weights`), imports them by the real command,
compresses a 512x512 picture and decodes it with one step of diffusion. Import, sender and receiver each run in a
process of their own whose memory is limited to 20 GB, so the run itself shows that they need no more. Peaks are of
resident memory, pages of mapped checkpoint files included. ``--work`` takes up to 10 GB; ``--reuse`` leaves out what an
earlier run has made there.

Random weights give no picture, but every number is computed as for trained ones.
"""

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from sim.photographs import folder as shipped_photographs

LIMIT = 20 * 10**9
"""Bytes of memory of its own that each process may have."""
SIDE = 512
IMPORT_PARTS = (
    # What the import says when a part is done, and the part.
    (" photographs", "reading: photographs"),
    ("Stable Diffusion:", "reading: Stable Diffusion"),
    ("every key in its place", "reading: lc.ckpt"),
    ("guidance: graph", "exporting: SD encoder, float32 and half"),
    ("guidance of all crops", "calibrating: SD encoder on the crops"),
    ("latent error", "calibrating: LFGCM, grids, tables, cost"),
    (": hyper_analysis: graph", "exporting: LFGCM, float32 and half"),
    ("UNet written", "writing: control and UNet"),
    ("noise", "checking: does the UNet estimate noise"),
    ("size that was measured", "checking: the sender's graphs"),
    (": bundle ", "writing: the rest"),
)
Row = tuple[str, float, float]
"""Part, seconds, peak memory in MB."""


def memory_of(pid: int | str, entry: str) -> float:
    """Return an entry of a process's status in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) * 1024 / 1e6


@contextmanager
def measured(rows: list[Row], part: str) -> Iterator[None]:
    """Add a row for what is done inside; the kernel's high-water mark of memory is reset before."""
    Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    yield
    rows.append((part, time.perf_counter() - start, memory_of("self", "VmHWM")))


def limit_memory() -> None:
    """Let this process have no more than `LIMIT` bytes of its own; files mapped into memory do not count."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))


def run_import(command: list[str]) -> list[Row]:
    """Run the import and split its time and memory by the lines that it says."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1, preexec_fn=limit_memory)
    assert process.stdout is not None
    peak = 0.0
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.02):
            try:
                peak = max(peak, memory_of(process.pid, "VmRSS"))
            except (OSError, StopIteration):
                return

    watcher = threading.Thread(target=sample, daemon=True)
    watcher.start()
    rows: list[Row] = []
    start = time.perf_counter()
    parts = list(IMPORT_PARTS)
    for line in process.stdout:
        print(f"  {line}", end="", flush=True)
        if parts and parts[0][0] in line:
            now = time.perf_counter()
            rows.append((parts.pop(0)[1], now - start, peak))
            start, peak = now, 0.0
    done.set()
    if process.wait():
        raise SystemExit(f"the import ended with status {process.returncode}")
    return rows


def run_part(part: str, bundle: Path, work: Path, precision: str) -> list[Row]:
    """Run the sender or the receiver in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.full_size", "--work", str(work), "--precision", precision]
    done = subprocess.run(
        [*command, "--part", part, "--bundle", str(bundle)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=limit_memory,
    )
    return [(name, seconds, memory) for name, seconds, memory in json.loads(done.stdout.splitlines()[-1])]


def sender(bundle: Path, work: Path) -> list[Row]:
    """Compress the picture; its parts share one peak of memory."""
    from sender.encoder import OnnxEncoder
    from shared.codec.bundle import find_bundle
    from shared.codec.pin import write_pin
    from shared.picture import load_picture

    rows: list[Row] = []
    with measured(rows, "sender: open graphs"):
        encoder = OnnxEncoder(find_bundle(bundle))
    Path("/proc/self/clear_refs").write_text("5")
    layers = encoder.encode(load_picture(work / "picture.png"), 1)
    peak = memory_of("self", "VmHWM")
    rows += [(f"sender: {part}", seconds, peak) for part, seconds in encoder.seconds.items()]
    assert "torch" not in sys.modules
    write_pin(work / "picture.pin", layers)
    return rows


def receiver(bundle: Path, work: Path, precision: str) -> list[Row]:
    """Decode the picture with one step."""
    from receiver.decoder import TorchDecoder
    from receiver.pictures import Stage
    from receiver.settings import DecoderSettings
    from receiver.staging import DecodeRequest
    from shared.codec.bundle import find_bundle
    from shared.codec.pin import read_pin
    from shared.picture import save_picture

    rows: list[Row] = []
    layers = read_pin(work / "picture.pin")
    settings = DecoderSettings(precision="bf16" if precision == "bf16" else "fp32")
    with measured(rows, "receiver: load UNet, decoder, entropy graphs"):
        decoder = TorchDecoder(find_bundle(bundle), "cpu", settings)
    with measured(rows, "receiver: load the rate's weights, first synthesis"):
        decoder.content(layers)
    with measured(rows, "receiver: entropy decoding"):
        task = decoder.read(DecodeRequest(layers, Stage.FULL, 1, 0))
    with measured(rows, "receiver: entropy decoding and synthesis"):
        decoder.content(layers)
    with measured(rows, "receiver: synthesis and 1 step, first"):
        decoder.diffuse([task])
    with measured(rows, "receiver: synthesis and 1 step"):
        (diffused,) = decoder.diffuse([task])
    with measured(rows, "receiver: VAE decode, first"):
        decoder.paint(diffused)
    with measured(rows, "receiver: VAE decode"):
        painted = decoder.paint(diffused)
    if painted.flags or painted.pixels.shape != (SIDE, SIDE, 3):
        raise SystemExit(f"decoding went wrong: {painted.pixels.shape}, {painted.flags}")
    save_picture(painted.pixels, work / "picture.png.decoded.png")
    return rows


def table(title: str, rows: list[Row]) -> str:
    """Return rows as a Markdown table."""
    lines = [f"| {title} | seconds | peak memory, MB |", "|---|---|---|"]
    lines += [f"| {part} | {seconds:.2f} | {memory:.0f} |" for part, seconds, memory in rows]
    return "\n".join(lines)


def main() -> None:
    """Run it all, or with ``--part`` one process of it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--layout", choices=("single", "diffusers"), default="single")
    parser.add_argument("--dtype", choices=("fp32", "fp16"), default="fp32", help="of Stable Diffusion's checkpoint")
    parser.add_argument("--photographs", type=Path, help="to calibrate on; those shipped by default")
    parser.add_argument("--crops", type=int, default=8)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the receiver")
    parser.add_argument("--reuse", action="store_true", help="use checkpoints and bundle of an earlier run")
    parser.add_argument("--part", choices=("make", "sender", "receiver"), help=argparse.SUPPRESS)
    parser.add_argument("--bundle", type=Path, help="use this bundle; else DIR/bundle is made")
    options = parser.parse_args()
    work: Path = options.work
    parts: dict[str, Callable[[], list[Row]]] = {
        "sender": lambda: sender(options.bundle, work),
        "receiver": lambda: receiver(options.bundle, work, options.precision),
    }
    if options.part in parts:
        print(json.dumps(parts[options.part]()))
        return
    if options.part == "make":
        make(work, options.layout, options.dtype)
        return
    bundle = options.bundle or work / "bundle"
    photographs = options.photographs or shipped_photographs()
    work.mkdir(parents=True, exist_ok=True)
    save_crop(photographs, work / "picture.png")
    if not options.bundle and not (options.reuse and (bundle / "manifest.json").exists()):
        print("checkpoints with random weights", flush=True)
        making = [sys.executable, "-m", "benchmarks.full_size", "--work", str(work), "--part", "make"]
        if not (options.reuse and (work / "checkpoints.json").exists()):
            subprocess.run([*making, "--layout", options.layout, "--dtype", options.dtype], check=True)
        base, lc, prompt = json.loads((work / "checkpoints.json").read_text())
        command = [
            sys.executable,
            "-u",
            "-m",
            "pinhole",
            "bundle",
            "import-official",
            "--sd",
            base,
            "--lc",
            f"random={lc}",
        ]
        command += ["--prompt-embedding", prompt, "--calibrate", str(photographs), "--crops", str(options.crops)]
        rows = run_import([*command, "--name", "sd21-random", "-o", str(bundle)])
        print(table("import", [*rows, ("all", sum(row[1] for row in rows), max(row[2] for row in rows))]), flush=True)
    print(table("sender, 512x512", run_part("sender", bundle, work, options.precision)), flush=True)
    print(table(f"receiver, {options.precision}", run_part("receiver", bundle, work, options.precision)), flush=True)


def make(work: Path, layout: str, dtype: str) -> None:
    """Write the checkpoints, and where they are."""
    import torch

    from benchmarks.full_size_weights import make_checkpoints
    from training.data import to_tensor

    picture = to_tensor(np.array(Image.open(work / "picture.png"))[None]).contiguous()
    with torch.no_grad():
        paths = make_checkpoints(work, layout, torch.float16 if dtype == "fp16" else torch.float32, picture)
    (work / "checkpoints.json").write_text(json.dumps([str(path) for path in paths]))


def save_crop(photographs: Path, path: Path) -> None:
    """Write a 512x512 picture cut, and enlarged if need be, from the first photograph of a folder."""
    source = min(p for p in photographs.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    with Image.open(source) as image:
        picture = image.convert("RGB")
    side = min(picture.size)
    picture.crop((0, 0, side, side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(path)


if __name__ == "__main__":
    main()
