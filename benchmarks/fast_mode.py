"""Paper mode against fast modes, a step and a whole picture: the tables of ``docs/benchmarks.md``.

    python -m benchmarks.fast_mode [PICTURE] [--bundle NAME] [--size WxH] [--modes MODE ...] [--repeats N]
    python -m benchmarks.fast_mode --decodes [--decode-size WxH] [--steps N ...] [--batches N ...]

A mode is words joined by "+": ``fp32``, ``bf16`` or ``fp16``, then any of ``channels-last``, ``compile`` and
``batchN``; ``paper`` is float32, one picture at a time, eagerly. Modes take turns (A B C A B C ...), so that a machine
that slows down meanwhile slows all of them; figures are medians over the turns, ratios are against the first mode and
medians of the ratio within a turn. All modes run the receiver's own networks on a real picture.

The second form, which runs by itself where there is a CUDA device, measures whole decodes from layers to pixels: first
the paper's mode, then the fast mode for every number of steps and every batch. "Pictures a minute" goes through the
receiver's pipeline, where the next pictures are entropy-decoded and the last ones painted meanwhile.
"""

import argparse
import contextlib
import ctypes
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import cast, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from receiver.decoder import TorchDecoder
from receiver.latent_diffusion import LatentDiffusion
from receiver.layer_reader import LayerReader
from receiver.noise import PictureNoise
from receiver.pictures import Stage
from receiver.pipeline import DecodePipeline
from receiver.settings import DecoderSettings, Precision
from receiver.staging import DecodeRequest
from sender.encoder import OnnxEncoder
from shared.codec.bundle import Bundle, find_bundle
from shared.codec.interfaces import Pixels
from shared.codec.weight_set import WeightSet
from shared.errors import UsageError
from sim.photographs import folder

Clock = Callable[[], float]
PRECISIONS = tuple(name for name in get_args(Precision) if name != "auto")
LARGE = 1 << 20
"""A tile that no picture here reaches."""


@dataclass(frozen=True)
class Mode:
    """One way to run the networks.

    Attributes:
        name: as on the command line.
        settings: of the decoder.
    """

    name: str
    settings: DecoderSettings

    @classmethod
    def parse(cls, name: str) -> "Mode":
        """Read a mode from its name.

        Raises:
            UsageError: if a word is not known.
        """
        if name == "paper":
            return cls(name, DecoderSettings.paper())
        precision, *words = name.split("+")
        if precision not in PRECISIONS:
            raise UsageError(f"mode {name!r} must be paper, or begin with {', '.join(PRECISIONS)}")
        settings = DecoderSettings(precision=cast(Precision, precision), channels_last=False)
        for word in words:
            if word == "channels-last":
                settings = replace(settings, channels_last=True)
            elif word == "compile":
                settings = replace(settings, compile=True)
            elif word.startswith("batch") and word[5:].isdecimal():
                settings = replace(settings, batch=int(word[5:]))
            else:
                raise UsageError(f"mode {name!r}: {word!r} is none of channels-last, compile, batchN")
        return cls(name, settings)


def size(text: str) -> tuple[int, int]:
    """Read a size like ``768x512``."""
    width, height = (int(side) for side in text.lower().split("x"))
    return width, height


def photograph(path: Path | None, wanted: tuple[int, int]) -> Pixels:
    """Return a picture, or a shipped photograph, scaled to a width and height."""
    with Image.open(path or folder() / "coffee.png") as image:
        return np.asarray(image.convert("RGB").resize(wanted, Image.Resampling.LANCZOS))


def finish(device: torch.device) -> None:
    """Wait for all that a device has been asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(action: Callable[[], object], device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Return how long something takes by a clock."""
    finish(device)
    start = clock()
    action()
    finish(device)
    return clock() - start


class Memory:
    """Peak memory in MB since it was made: of a CUDA device, or of this process (Linux), both counting from nothing."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        _return_free_memory()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            # Sets the kernel's high-water mark of this process back to what it holds now (man 5 proc).
            Path("/proc/self/clear_refs").write_text("5")
        self.before = self._read("VmRSS")

    def peak(self) -> float:
        """Return the most that was held at once."""
        return self._read("VmHWM")

    def _read(self, entry: str) -> float:
        if self._device.type == "cuda":
            held = torch.cuda.memory_allocated if entry == "VmRSS" else torch.cuda.max_memory_allocated
            return held(self._device) / 1e6
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(entry)) * 1024 / 1e6


def _return_free_memory() -> None:
    """Give what the C library keeps for later back to the system, where it can; else it hides what is taken next."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def take_turns(
    actions: dict[str, Callable[[], object]], device: torch.device, repeats: int, clock: Clock
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Run actions in turn; return the seconds of each, and how many MB each takes beyond what is there before."""
    memory: dict[str, float] = {}
    for name, action in actions.items():
        action()  # compiles, fills caches
        held = Memory(device)
        action()
        memory[name] = held.peak() - held.before
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            times[name].append(seconds(action, device, clock))
    return times, memory


def one_step(networks: LatentDiffusion, content: Tensor, weights: WeightSet, count: int) -> list[Tensor]:
    """Estimate the noise once, and go one step of diffusion, with so many copies of a picture."""
    noises = [PictureNoise(seed) for seed in range(count)]
    return networks.diffuse([content] * count, weights, noises, sampler="ddpm", steps=1, start=999, tile=LARGE)


def part_tables(
    bundle: Bundle,
    device: torch.device,
    pixels: Pixels,
    quality: float,
    modes: Sequence[Mode],
    repeats: int,
    clock: Clock,
) -> Iterator[str]:
    """Yield the lines of two tables: one step of diffusion, and the picture decoder."""
    layers = OnnxEncoder(bundle).encode(pixels, quality)
    picture = LayerReader(bundle).read(layers)
    height, width = pixels.shape[:2]
    loaded: dict[DecoderSettings, LatentDiffusion] = {}
    steps: dict[str, Callable[[], object]] = {}
    paints: dict[str, Callable[[], object]] = {}
    for mode in modes:
        # Modes that differ only by their batch share the weights.
        key = replace(mode.settings, batch=1)
        if key not in loaded:
            loaded[key] = LatentDiffusion(bundle, device, key)
        networks = loaded[key]
        content = networks.content(picture, LARGE)
        steps[mode.name] = partial(one_step, networks, content, picture.weights, mode.settings.batch)
        if mode.settings.batch == 1 and not mode.settings.compile:
            # Pictures are painted one by one, and eagerly.
            paints[mode.name] = partial(networks.pixels, content, height, width, LARGE)
    batches = {mode.name: mode.settings.batch for mode in modes}
    for title, actions in (("step", steps), ("picture decoder", paints)):
        times, memory = take_turns(actions, device, repeats, clock)
        first = next(iter(times))
        yield f"| {title}, {width}x{height} | s a picture | faster than {first} | working memory |"
        yield "|---|---:|---:|---:|"
        for name, values in times.items():
            count = batches[name]
            pairs = zip(times[first], values, strict=True)
            ratio = median(count * base / (batches[first] * value) for base, value in pairs)
            yield f"| {name} | {median(values) / count:.4f} | {ratio:.2f} | {memory[name]:.0f} MB |"
        yield ""


def decode_table(
    bundle: Bundle,
    device: str,
    pixels: Pixels,
    quality: float,
    fast: DecoderSettings,
    steps: Sequence[int],
    batches: Sequence[int],
    repeats: int,
) -> Iterator[str]:
    """Yield the lines of the table of whole decodes."""
    layers = OnnxEncoder(bundle).encode(pixels, quality)
    height, width = pixels.shape[:2]
    yield f"| whole decode, {width}x{height} | steps | batch | s alone | pictures a minute | ratio | peak memory |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    rate_of_paper = 0.0
    runs = [("paper", DecoderSettings.paper(), [50])]
    runs += [("fast", replace(fast, batch=batch), list(steps)) for batch in batches]
    for name, settings, counts in runs:
        memory = Memory(torch.device(device))
        decoder = TorchDecoder(bundle, device, settings)
        decoder.warm_up([(width, height)])
        for count in counts:
            alone, rate = decode_times(decoder, layers, count, repeats)
            rate_of_paper = rate_of_paper or rate
            yield (
                f"| {name} | {count} | {settings.batch} | {alone:.3f} | {rate:.1f} | {rate / rate_of_paper:.2f} | "
                f"{memory.peak():.0f} MB |"
            )
        del decoder
        torch.compiler.reset()


def decode_times(decoder: TorchDecoder, layers: Sequence[bytes], steps: int, repeats: int) -> tuple[float, float]:
    """Return the median seconds of one decode alone, and pictures a minute of the pipeline at full batches."""
    times = [seconds(lambda: decoder.decode(layers, steps=steps), decoder.device) for _ in range(repeats + 1)]
    pipeline = DecodePipeline(decoder)
    pipeline.wait_until_ready()

    def stream(count: int) -> None:
        futures = [pipeline.submit(DecodeRequest(layers, Stage.FULL, steps, seed)) for seed in range(count)]
        for future in futures:
            future.result()

    stream(decoder.batch)
    count = repeats * decoder.batch
    rate = 60 * count / seconds(lambda: stream(count), decoder.device)
    pipeline.close(timeout=60.0)
    return median(times[1:]), rate


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", nargs="?", type=Path, help="by default a shipped photograph; scaled to size")
    parser.add_argument("--bundle", default="pocket")
    parser.add_argument("--quality", type=float, default=1.0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=size, default=(512, 512), metavar="WxH", help="of the tables by part")
    parser.add_argument("--modes", nargs="+", default=["paper", "bf16+channels-last", "bf16+channels-last+batch4"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument(
        "--processor-time", action="store_true", help="tables by part in processor time: for CPUs busy with other work"
    )
    parser.add_argument("--no-parts", action="store_true", help="leave the tables by part out")
    parser.add_argument("--decodes", action="store_true", help="whole decodes, without a CUDA device too")
    parser.add_argument("--decode-size", type=size, default=(768, 512), metavar="WxH")
    parser.add_argument("--fast", help="mode of the fast decodes; bf16+channels-last by default, and compile on CUDA")
    parser.add_argument("--sampler", help="of whole decodes; by default the bundle's")
    parser.add_argument("--start", type=int, help="timestep that whole decodes start from; by default the bundle's")
    parser.add_argument("--steps", nargs="+", type=int, default=[50, 20, 8, 2])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16])
    options = parser.parse_args()
    bundle = find_bundle(options.bundle)
    cuda = torch.cuda.is_available() and options.device != "cpu"
    device = ("cuda" if cuda else "cpu") if options.device == "auto" else options.device
    name = torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"bundle {bundle.name}, {name}, torch {torch.__version__}\n")
    if not options.no_parts:
        modes = [Mode.parse(name) for name in options.modes]
        pixels = photograph(options.picture, options.size)
        clock = time.process_time if options.processor_time else time.perf_counter
        if options.processor_time:
            print("parts in seconds of processor time, all threads together\n")
        for line in part_tables(bundle, torch.device(device), pixels, options.quality, modes, options.repeats, clock):
            print(line, flush=True)
    if cuda or options.decodes:
        fast = Mode.parse(options.fast or ("bf16+channels-last+compile" if cuda else "bf16+channels-last")).settings
        fast = replace(fast, sampler=options.sampler, start=options.start)
        pixels = photograph(options.picture, options.decode_size)
        runs = (options.steps, options.batches, max(2, options.repeats // 3))
        for line in decode_table(bundle, device, pixels, options.quality, fast, *runs):
            print(line, flush=True)


if __name__ == "__main__":
    main()
