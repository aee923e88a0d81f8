"""Samplers, step counts and starts compared: a CSV file, a Markdown table and a figure.

    python -m benchmarks.sampler_study KODAK -o OUT [--bundle pocket] [--quality Q] [--limit N] [--device cpu]
        [--samplers ddpm,ddim,...] [--steps 1,2,4,8,20,50] [--starts 199,499,999] [--precision fp32]
        [--protocol auto|as-is|crop]

Every picture is coded once; every combination of start, sampler and step count paints it again from the same noise.
What is measured is kept at once in OUT/samplers.csv: the same command goes on where it was stopped. Samplers that agree
up to rounding (all of them in one step; see ``receiver.sampling.equivalent``) are measured once and shown for each.
"""

import argparse
import csv
import hashlib
import json
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean

import torch
from matplotlib.figure import Figure

from receiver.latent_diffusion import LatentDiffusion
from receiver.layer_reader import LayerReader
from receiver.noise import PictureNoise
from receiver.sampling import PURE_NOISE, SAMPLERS, check_sampling, equivalent, evaluations
from receiver.settings import DecoderSettings
from sender.encoder import OnnxEncoder
from shared.codec.bundle import Bundle, find_bundle
from shared.codec.interfaces import Pixels
from training.evaluation.datasets import PictureProtocol, Source, open_dataset
from training.evaluation.figures import axis_label, legend_below, save
from training.evaluation.metrics import load_metrics

METRICS = ("ST-LPIPS", "PSNR")
STEPS = "1,2,4,8,20,50"
# Okabe and Ito's colours, which stay apart for colour-blind readers; a marker and a dash pattern besides.
LOOKS = {
    "ddpm": ("#000000", "o", "-"),
    "ddim": ("#0072B2", "s", "-"),
    "euler-a": ("#8C6BB1", "<", "--"),
    "dpm++": ("#D55E00", "^", "-"),
    "dpm++sde": ("#E69F00", "v", "--"),
    "unipc": ("#009E73", "D", "--"),
    "deis": ("#CC79A7", "P", "-."),
    "plms": ("#56B4E9", "X", "-."),
    "heun": ("#7A7A7A", "*", ":"),
}
# Too few steps from late starts paint no picture at all; showing how bad they are would flatten the rest.
REACH = {"ST-LPIPS": +0.12, "PSNR": -2.5}


@dataclass(frozen=True)
class Cell:
    """One decode of one picture; all attributes but the last three say which.

    Attributes:
        made_with: bundle and its settings.
        picture: name.
        quality: of the file.
        start: timestep.
        sampler: name.
        steps: 0 for the preview.
    """

    made_with: str
    picture: str
    quality: float
    start: int
    sampler: str
    steps: int


Values = dict[str, float]
Found = dict[Cell, Values]


class Store:
    """The CSV file."""

    names = (*(field.name for field in fields(Cell)), "evaluations", *METRICS, "seconds")

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, Found()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            self._write([self.names], "w")
        text = path.read_text()
        if not text.endswith("\n"):
            # The line that was being written when the power went is measured again.
            path.write_text(text[: text.rfind("\n") + 1])
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                kinds = ((field.name, field.type) for field in fields(Cell))
                cell = Cell(**{name: kind(row[name]) for name, kind in kinds})  # type: ignore[operator]
                self.found[cell] = {name: float(row[name]) for name in (*METRICS, "seconds")}

    def add(self, cell: Cell, values: Values) -> None:
        """Keep a decode, at once."""
        self.found[cell] = values
        count = evaluations(cell.sampler, cell.steps)
        numbers = [f"{values[name]:.5f}" for name in (*METRICS, "seconds")]
        self._write([[*asdict(cell).values(), count, *numbers]], "a")

    def _write(self, rows: Sequence[Sequence[object]], mode: str) -> None:
        with self.path.open(mode, newline="") as file:
            csv.writer(file).writerows(rows)


@dataclass(frozen=True)
class Study:
    """What is compared.

    Attributes:
        made_with: as in `Cell`.
        quality: of the files.
        starts: timesteps.
        samplers: names.
        steps: counts.
    """

    made_with: str
    quality: float
    starts: tuple[int, ...]
    samplers: tuple[str, ...]
    steps: tuple[int, ...]

    def cells(self, picture: str) -> Iterator[Cell]:
        """All that is to be measured of a picture, what is equivalent once."""
        cell = partial(Cell, self.made_with, picture, self.quality)
        yield cell(PURE_NOISE, "ddpm", 0)
        combinations = product(self.starts, self.steps, self.samplers)
        yield from dict.fromkeys(
            cell(start, self.measured_as(sampler, steps), steps)
            for start, steps, sampler in combinations
            if steps <= start + 1
        )

    def measured_as(self, sampler: str, steps: int) -> str:
        """The sampler that stands for this one at a step count."""
        twin = equivalent(sampler, steps)
        agreeing = [name for name in self.samplers if equivalent(name, steps) == twin]
        return twin if twin in agreeing else agreeing[0]

    @property
    def drawn(self) -> tuple[str, ...]:
        """The samplers that have a line of their own: some agree with another one at any step count."""
        return tuple(dict.fromkeys(self.measured_as(sampler, max(*self.steps, 3)) for sampler in self.samplers))

    def also_called(self, sampler: str) -> str:
        """A sampler's name with those of its twins."""
        twins = [name for name in self.samplers if self.measured_as(name, max(*self.steps, 3)) == sampler]
        return " = ".join([sampler, *(name for name in twins if name != sampler)])


class Painter:
    """Codes pictures and paints them with any sampler."""

    def __init__(self, bundle: Bundle, settings: DecoderSettings, device: torch.device) -> None:
        self._encoder, self._reader = OnnxEncoder(bundle), LayerReader(bundle)
        self._networks, self._tile = LatentDiffusion(bundle, device, settings), settings.tile
        self._device = device

    def open(self, pixels: Pixels, quality: float) -> None:
        """Take a picture."""
        self._picture = self._reader.read(self._encoder.encode(pixels, quality))
        self._content = self._networks.content(self._picture, self._tile)
        self._noise = PictureNoise(zlib.crc32(pixels.tobytes()))

    def paint(self, cell: Cell) -> tuple[Pixels, float]:
        """Paint the picture; return it with the seconds that the diffusion took."""
        started = time.perf_counter()
        latent = self._networks.diffuse(
            [self._content],
            self._picture.weights,
            [self._noise],
            sampler=cell.sampler,
            steps=cell.steps,
            start=cell.start,
            tile=self._tile,
        )[0]
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - started
        header = self._picture.header
        return self._networks.pixels(latent, header.height, header.width, self._tile), seconds


def measure(
    study: Study, pictures: Sequence[Source], painter: Painter, store: Store, device: torch.device, fast: bool
) -> None:
    """Measure what is missing."""
    loaded = load_metrics(METRICS, device, fast)
    if len(loaded.pictures) < len(METRICS):
        raise SystemExit(f"sampler_study: {'; '.join(loaded.unavailable)}")
    for number, source in enumerate(pictures, 1):
        missing = [cell for cell in study.cells(source.name) if cell not in store.found]
        started = time.perf_counter()
        if missing:
            pixels = source.load()
            painter.open(pixels, study.quality)
        for cell in missing:
            painted, seconds = painter.paint(cell)
            values = {metric.name: metric.measure(pixels, painted) for metric in loaded.pictures}
            if None in values.values():
                raise SystemExit(f"sampler_study: {source.name} is too small to be measured")
            store.add(cell, {**{name: value or 0.0 for name, value in values.items()}, "seconds": seconds})
        taken = time.perf_counter() - started
        print(f"{number}/{len(pictures)} {source.name}: {len(missing)} decodes in {taken:.0f} s", flush=True)


def means(study: Study, pictures: Sequence[Source], found: Found) -> dict[tuple[int, str, int], Values]:
    """Mean values over the pictures by start, sampler and steps; equivalent samplers have those of their twin."""
    result = {}
    combinations = [
        (start, sampler, steps) for start, sampler, steps in product(study.starts, study.samplers, study.steps)
    ]
    for start, sampler, steps in [(PURE_NOISE, "ddpm", 0), *combinations]:
        if steps <= start + 1:
            name = study.measured_as(sampler, steps) if steps else sampler
            cells = [Cell(study.made_with, one.name, study.quality, start, name, steps) for one in pictures]
            result[start, sampler, steps] = {
                metric: fmean(found[cell][metric] for cell in cells) for metric in (*METRICS, "seconds")
            }
    return result


def table(study: Study, pictures: Sequence[Source], found: Found) -> str:
    """Markdown: one table for each start, ST-LPIPS and PSNR in each cell, the best ST-LPIPS of each column in bold."""
    mean = means(study, pictures, found)
    preview = mean[PURE_NOISE, "ddpm", 0]
    lines = [
        f"Means over {len(pictures)} pictures at quality {study.quality:g} of {study.made_with}; ST-LPIPS (lower is "
        "better) / PSNR in dB.",
        f"Preview, without diffusion: {preview['ST-LPIPS']:.4f} / {preview['PSNR']:.2f}.",
        "heun evaluates the network 2N - 1 times for N steps, plms N + 1 times, all others N times.",
    ]
    for start in study.starts:
        counts = [steps for steps in study.steps if steps <= start + 1]
        best = {n: min(mean[start, name, n]["ST-LPIPS"] for name in study.drawn) for n in counts}
        lines += ["", f"Start {start}{' (pure noise)' if start == PURE_NOISE else ''}:", ""]
        lines += [f"| sampler | {' | '.join(f'{n} steps' if n > 1 else '1 step' for n in counts)} |"]
        lines += [f"|---|{'---:|' * len(counts)}"]
        for name in study.drawn:
            cells = []
            for n in counts:
                values = mean[start, name, n]
                text = f"{values['ST-LPIPS']:.4f}"
                mark = "**" if values["ST-LPIPS"] == best[n] else ""
                cells.append(f"{mark}{text}{mark} / {values['PSNR']:.2f}")
            lines.append(f"| {study.also_called(name)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(study: Study, pictures: Sequence[Source], found: Found, path: Path) -> None:
    """Draw both metrics against evaluations of the network: a column for each start, a line for each sampler."""
    mean = means(study, pictures, found)
    columns = len(study.starts)
    figure = Figure(figsize=(3.9 * columns + 0.6, 7.2), layout="constrained")
    panels = figure.subplots(len(METRICS), columns, squeeze=False, sharex=True)
    ticks = sorted({evaluations(study.drawn[0], steps) for steps in study.steps})
    for (row, metric), (column, start) in product(enumerate(METRICS), enumerate(study.starts)):
        axes = panels[row][column]
        counts = [steps for steps in study.steps if steps <= start + 1]
        for name in study.drawn:
            colour, marker, dashes = LOOKS[name]
            axes.plot(
                [evaluations(name, steps) for steps in counts],
                [mean[start, name, steps][metric] for steps in counts],
                color=colour,
                marker=marker,
                linestyle=dashes,
                linewidth=1.5,
                markersize=5.5,
                label=study.also_called(name),
            )
        preview = mean[PURE_NOISE, "ddpm", 0][metric]
        axes.axhline(preview, color="#999999", linewidth=1.2, linestyle=(0, (1, 2)), label="preview (no diffusion)")
        axes.set_ylim(*limits([mean[start, name, n][metric] for name in study.drawn for n in counts], metric))
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.grid(visible=True, color="#E3E3E3", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if row == 0:
            kind = "pure noise" if start == PURE_NOISE else "relay"
            axes.set_title(f"start {start} ({kind})", fontsize=10, loc="left")
        else:
            axes.set_xlabel("evaluations of the network", fontsize=9)
        if column == 0:
            axes.set_ylabel(axis_label(metric), fontsize=9)
    figure.suptitle("Each panel has a scale of its own, and leaves out what is far worse than its best.", fontsize=9)
    legend_below(figure, list(panels.flat), columns=5)
    save(figure, path)


def limits(values: Sequence[float], metric: str) -> tuple[float, float]:
    """An axis's range: from the best value as far as `REACH`, less if no value is so bad."""
    reach = REACH[metric]
    if reach > 0:
        low, high = min(values), min(max(values), min(values) + reach)
    else:
        low, high = max(min(values), max(values) + reach), max(values)
    margin = 0.06 * (high - low) or 0.01
    return low - margin, high + margin


def numbers(text: str) -> tuple[int, ...]:
    """Read numbers with commas between them."""
    return tuple(sorted({int(part) for part in text.split(",")}))


def default_starts(own: int) -> tuple[int, ...]:
    """The bundle's start, pure noise, and one in between."""
    return tuple(sorted({own, (own + PURE_NOISE) // 2 if own < PURE_NOISE else 499, PURE_NOISE}))


def main() -> None:
    """Measure, and write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", help="folder of pictures")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--bundle", default="pocket")
    parser.add_argument("--quality", type=float, help="default: the middle operating point")
    parser.add_argument("--protocol", type=PictureProtocol, choices=list(PictureProtocol), default=PictureProtocol.AUTO)
    parser.add_argument("--limit", type=int, help="take the first N pictures")
    parser.add_argument("--samplers", default=",".join(SAMPLERS))
    parser.add_argument("--steps", type=numbers, default=numbers(STEPS))
    parser.add_argument("--starts", type=numbers, help="default: the bundle's, pure noise, and one in between")
    parser.add_argument("--precision", default="fp32", choices=["auto", "fp32", "bf16", "fp16"])
    parser.add_argument("--fast-metrics", action="store_true", help="ST-LPIPS with convolutions in bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    bundle, device = find_bundle(options.bundle), torch.device(options.device)
    # More than the bundle's id, which leaves the receiver's weights out.
    state = hashlib.sha256(json.dumps(bundle.manifest, sort_keys=True).encode()).hexdigest()
    points = bundle.operating_points
    study = Study(
        f"{bundle.name} {state[:12]} {options.precision}{' fast metrics' if options.fast_metrics else ''}",
        options.quality or float(points[(len(points) - 1) // 2].quality),
        options.starts or default_starts(int(bundle.manifest["diffusion"]["start"])),
        tuple(options.samplers.split(",")),
        options.steps,
    )
    for sampler, start in product(study.samplers, study.starts):
        check_sampling(sampler, 1, start)
    pictures = open_dataset(options.pictures, options.protocol, options.limit).pictures
    store = Store(options.output / "samplers.csv")
    if any(cell not in store.found for source in pictures for cell in study.cells(source.name)):
        painter = Painter(bundle, DecoderSettings(precision=options.precision), device)
        measure(study, pictures, painter, store, device, options.fast_metrics)
    text = table(study, pictures, store.found)
    (options.output / "samplers.md").write_text(text)
    draw(study, pictures, store.found, options.output / "samplers.png")
    print(text)


if __name__ == "__main__":
    main()
