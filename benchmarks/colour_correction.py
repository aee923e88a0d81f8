"""What colour correction does to fidelity and perception: the table of ``docs/benchmarks.md``.

    python -m benchmarks.colour_correction PICTURE ... [--bundle NAME] [--quality Q ...] [--steps N ...] [--start T]

Every picture is encoded once a quality, decoded as preview and with diffusion, and the full picture corrected in every
way; PSNR (higher is better), ST-LPIPS (lower is better) and the largest error of a channel's mean (tint, levels) are
means over the pictures.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from receiver.colour import METHODS, correct_colour
from receiver.decoder import TorchDecoder
from receiver.settings import DecoderSettings
from sender.encoder import OnnxEncoder
from shared.codec.bundle import find_bundle
from shared.codec.interfaces import Pixels
from shared.picture import load_picture
from training.evaluation.metrics import PictureMetric, load_metrics

MEASURES = ("PSNR", "ST-LPIPS")


@dataclass(frozen=True)
class Row:
    """Figures of one picture decoded one way.

    Attributes:
        quality: operating point.
        steps: of diffusion, 0 for the preview.
        method: of colour correction.
        figures: one per measure, then the tint in levels.
    """

    quality: float
    steps: int
    method: str
    figures: tuple[float, ...]


def tint(original: Pixels, decoded: Pixels) -> float:
    """Largest difference of a channel's mean, levels."""
    return float(np.abs(original.mean((0, 1)) - decoded.mean((0, 1))).max())


def measure(
    path: Path,
    encoder: OnnxEncoder,
    decoder: TorchDecoder,
    metrics: list[PictureMetric],
    qualities: list[float],
    steps: list[int],
) -> Iterator[Row]:
    """Yield the rows of one picture: the preview's, then one per quality, steps and method."""
    original = load_picture(path)

    def figures(decoded: Pixels) -> tuple[float, ...]:
        values = (metric.measure(original, decoded) for metric in metrics)
        return (*(float("nan") if value is None else value for value in values), tint(original, decoded))

    for quality in qualities:
        layers = encoder.encode(original, quality)
        preview = decoder.preview(layers)
        yield Row(quality, 0, "none", figures(preview))
        for number in steps:
            full = decoder.decode(layers, steps=number)
            for method in METHODS:
                yield Row(quality, number, method, figures(correct_colour(full, preview, method)))


def table(rows: list[Row], names: list[str]) -> Iterator[str]:
    """Yield the lines of a Markdown table, means over the pictures."""
    yield "| quality | decode | colour | " + " | ".join([*names, "tint"]) + " |"
    yield "|---:|---|---|" + "---:|" * (len(names) + 1)
    keys = dict.fromkeys((row.quality, row.steps, row.method) for row in rows)
    for quality, steps, method in keys:
        found = [row.figures for row in rows if (row.quality, row.steps, row.method) == (quality, steps, method)]
        means = [fmean(column) for column in zip(*found, strict=True)]
        decode = f"{steps} steps" if steps else "preview"
        cells = [*(f"{value:.2f}" if value >= 1 else f"{value:.4f}" for value in means[:-1]), f"{means[-1]:.2f}"]
        yield f"| {quality:g} | {decode} | {method} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--bundle", default="pocket")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quality", nargs="+", type=float, default=[1.0, 3.0])
    parser.add_argument("--steps", nargs="+", type=int, help="by default the bundle's own number, and 20")
    parser.add_argument("--sampler", help="by default the bundle's")
    parser.add_argument("--start", type=int, help="timestep, 999 for pure noise; by default the bundle's")
    options = parser.parse_args()
    bundle = find_bundle(options.bundle)
    settings = DecoderSettings(sampler=options.sampler, start=options.start)
    encoder, decoder = OnnxEncoder(bundle), TorchDecoder(bundle, options.device, settings)
    loaded = load_metrics(MEASURES, decoder.device)
    for line in loaded.unavailable:
        print(line)
    steps = options.steps or sorted({decoder.default_steps, 20})
    rows = [
        row
        for path in options.pictures
        for row in measure(path, encoder, decoder, loaded.pictures, options.quality, steps)
    ]
    print("\n".join(table(rows, [metric.name for metric in loaded.pictures])))


if __name__ == "__main__":
    main()
