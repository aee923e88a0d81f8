"""How good the pocket bundle's pictures are: rate, PSNR, MS-SSIM and ST-LPIPS (VGG) over a folder of pictures.

    python -m benchmarks.pocket_quality FOLDER [--steps N ...] [--start T] [--save DIR] [--peers]

Rates count every byte of the ``.pin`` file. ``--peers`` adds WebP and AVIF at the same number of bytes, searched over
quality and, where the smallest file is still too large, over size.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np

from receiver.decoder import TorchDecoder
from sender.encoder import OnnxEncoder
from shared.codec.bundle import find_bundle
from shared.codec.interfaces import Pixels
from shared.codec.pin import frame_bytes
from shared.picture import load_picture, save_picture
from sim.baselines import CODECS, available, encode_at
from sim.metrics import bits_per_pixel, ms_ssim, psnr
from training.data import find_photographs, to_tensor
from training.perceptual import StLpips, measure


def main() -> None:
    """Print one row for each operating point and kind of decode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", default="pocket")
    parser.add_argument("--steps", type=int, nargs="*", default=[])
    parser.add_argument("--start", type=int, default=None, help="timestep diffusion starts from, 999: pure noise")
    parser.add_argument("--quality", type=int, nargs="*", default=[])
    parser.add_argument("--limit", type=int, default=None, help="only so many pictures")
    parser.add_argument("--save", type=Path, default=None, help="folder for the decoded pictures")
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    bundle = find_bundle(options.bundle)
    encoder, decoder = OnnxEncoder(bundle), TorchDecoder(bundle, start=options.start)
    perception = StLpips("vgg")
    rows: dict[tuple[str, str], list[tuple[float, float, float, float]]] = defaultdict(list)

    def score(key: tuple[str, str], size: int, original: Pixels, decoded: Pixels) -> None:
        similarity = ms_ssim(original, decoded)
        distance = measure(perception, to_tensor(decoded[None]), to_tensor(original[None]))
        figures = (bits_per_pixel(size, original), psnr(original, decoded), similarity or float("nan"), distance)
        rows[key].append(figures)

    paths = find_photographs(options.folder)[: options.limit]
    for path in paths:
        original = load_picture(path)
        for point in bundle.operating_points:
            if options.quality and point.quality not in options.quality:
                continue
            layers = encoder.encode(original, point.quality)
            size = sum(map(len, layers)) + frame_bytes([len(layer) for layer in layers])
            decodes: dict[str, Callable[[], Pixels]] = {"preview": lambda coded=layers: decoder.preview(coded)}
            for steps in options.steps:
                decodes[f"full, {steps} steps"] = lambda coded=layers, n=steps: decoder.decode(coded, steps=n, seed=1)
            for kind, decode in decodes.items():
                picture = decode()
                score((str(point.quality), kind), size, original, picture)
                if options.save:
                    options.save.mkdir(parents=True, exist_ok=True)
                    name = f"{path.stem}-q{point.quality}-{kind.replace(', ', '-').replace(' ', '')}.png"
                    save_picture(picture, options.save / name)
            for codec in CODECS if options.peers else ():
                if available(codec) and (peer := encode_at(original, codec, size)) is not None:
                    score((str(point.quality), f"{codec} at these bytes"), peer.size, original, peer.pixels)
    print(f"{len(paths)} pictures of {options.folder.name}\n")
    print("| quality | decode | bit/pixel | PSNR | MS-SSIM | ST-LPIPS (VGG) |\n|---|---|---:|---:|---:|---:|")
    for (quality, kind), figures in sorted(rows.items()):
        rate, signal, similarity, distance = (fmean(column) for column in np.array(figures).T.tolist())
        print(f"| {quality} | {kind} | {rate:.4f} | {signal:.2f} dB | {similarity:.4f} | {distance:.4f} |")


if __name__ == "__main__":
    main()
