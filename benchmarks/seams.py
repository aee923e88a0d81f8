"""Seams of large pictures: what decoding in tiles costs in likeness, and whether the eye or a gradient can find it.

    python -m benchmarks.seams [PICTURE ...] [--size 2304x1536] [--tiles 64,96,128] [--overlaps 8,16,32] -o OUT

The pictures are laid out as a mosaic of that size (one alone is enlarged to it), compressed once, and decoded whole and
in tiles, each decode in a process of its own. Seam: mean absolute gradient across the tiles' edges over that elsewhere.
The picture itself has a share in it, so compare with the column of the whole decode at the same places. The seam of
the difference (tiled less whole) has no such share: at 1 it changes no faster at the edges than elsewhere. OUT gets
crops across the worst edge: whole, tiled, and eight times their difference.
"""

import argparse
import itertools
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.codec_time import peak_memory
from benchmarks.seam_measures import compare, tile_borders, worst_crops
from shared.codec.interfaces import Pixels
from sim.photographs import PHOTOGRAPHS


def mosaic(paths: Sequence[Path], width: int, height: int) -> Pixels:
    """Lay photographs out side by side, as often as it takes; one alone is enlarged to the whole."""
    with Image.open(paths[0]) as first:
        if len(paths) == 1:
            return np.asarray(first.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))
        cell = first.size
    sheet = Image.new("RGB", (width, height))
    following = itertools.cycle(paths)
    # Shifted, so that edges of photographs do not lie where edges of tiles do.
    for top in range(-cell[1] * 3 // 7, height, cell[1]):
        for left in range(-cell[0] * 3 // 7, width, cell[0]):
            with Image.open(next(following)) as photograph:
                sheet.paste(photograph.convert("RGB").resize(cell, Image.Resampling.LANCZOS), (left, top))
    return np.asarray(sheet)


def decode(layers: Path, target: Path, tile: int, overlap: int, options: argparse.Namespace) -> dict[str, float]:
    """Decode in this process; returns seconds, and peak memory in MB."""
    from receiver.decoder import TorchDecoder
    from receiver.settings import DecoderSettings
    from shared.codec.bundle import find_bundle

    settings = DecoderSettings(tile=tile, overlap=overlap, precision=options.precision)
    decoder = TorchDecoder(find_bundle(options.bundle), options.device, settings=settings)
    start = time.perf_counter()
    pixels = decoder.decode(pickle.loads(layers.read_bytes()), steps=options.steps, seed=1)
    seconds = time.perf_counter() - start
    memory = peak_memory()
    np.save(target, pixels)
    return {"seconds": seconds, "memory": memory}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", type=Path)
    parser.add_argument("--size", default="2304x1536")
    parser.add_argument("--tiles", default="64,96,128")
    parser.add_argument("--overlaps", default="8,16,32")
    parser.add_argument("--bundle", default="pocket")
    parser.add_argument("--quality", type=float, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--decode", nargs=4, metavar=("LAYERS", "TARGET", "TILE", "OVERLAP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.decode:
        layers, target, tile, overlap = options.decode
        print(json.dumps(decode(Path(layers), Path(target), int(tile), int(overlap), options)))
        return
    compare_all(options)


def compare_all(options: argparse.Namespace) -> None:
    """Compress once, decode whole and in every kind of tiles, and print a row for each."""
    from sender.encoder import OnnxEncoder
    from shared.codec.bundle import find_bundle

    width, height = map(int, options.size.split("x"))
    options.output.mkdir(parents=True, exist_ok=True)
    picture = mosaic(options.pictures or [photograph.path for photograph in PHOTOGRAPHS], width, height)
    layers = options.output / "layers.pickle"
    layers.write_bytes(pickle.dumps(OnnxEncoder(find_bundle(options.bundle)).encode(picture, options.quality)))

    def decoded(tile: int, overlap: int) -> tuple[Pixels, dict[str, float]]:
        target = options.output / "decoded.npy"
        command = [sys.executable, "-m", "benchmarks.seams", *sys.argv[1:]]
        command += ["--decode", str(layers), str(target), str(tile), str(overlap)]
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return np.load(target), json.loads(result.stdout)

    whole, cost = decoded(max(width, height), 0)
    print("| tile | overlap | seam, whole | seam, tiled | seam of difference | max | mean | likeness | time | memory |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    print(f"| whole | | | | | | | | {cost['seconds']:.1f} s | {cost['memory']:.0f} MB |")
    for tile, overlap in itertools.product(*(map(int, text.split(",")) for text in (options.tiles, options.overlaps))):
        rows, columns = tile_borders(height, tile, overlap), tile_borders(width, tile, overlap)
        tiled, cost = decoded(tile, overlap)
        cells = [str(tile), str(overlap), *compare(whole, tiled, rows, columns)]
        cells += [f"{cost['seconds']:.1f} s", f"{cost['memory']:.0f} MB"]
        print("| " + " | ".join(cells) + " |", flush=True)
        crops = worst_crops(whole, tiled, rows, columns)
        Image.fromarray(crops).save(options.output / f"tile-{tile}-overlap-{overlap}.png")


if __name__ == "__main__":
    main()
