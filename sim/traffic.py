"""The pictures that a scenario's senders submit."""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from shared.codec.interfaces import PictureEncoder
from shared.errors import PinholeError
from sim.link import Submission
from sim.scenario import Scenario, Traffic

Layers = Sequence[bytes]


def submissions(scenario: Scenario, encode: Callable[[Path], Layers] | None = None) -> list[Submission]:
    """Return all pictures of a scenario in the order of their times.

    Args:
        scenario: with invented layers or a folder.
        encode: turns a picture file into layers; None: the scenario's bundle.

    Raises:
        PinholeError: if the folder cannot be used.
    """
    traffic = scenario.traffic
    # The traffic has a stream of its own, so that the same pictures meet different channels.
    generator = np.random.default_rng([scenario.seed, zlib.crc32(b"traffic")])
    files = _folder_layers(scenario, encode) if traffic.folder else []
    pictures = traffic.pictures or len(files)
    result = []
    for sequence in range(pictures):
        for sender in range(scenario.senders):
            layers = files[sequence % len(files)] if files else _invented(traffic, generator)
            # Senders do not click in step: each has its own offset within the interval.
            offset = traffic.interval * sender / scenario.senders
            result.append(Submission(sequence * traffic.interval + offset, sender, sequence, layers))
    return sorted(result, key=lambda s: (s.time, s.sender))


def _invented(traffic: Traffic, generator: np.random.Generator) -> Layers:
    sigma = float(np.sqrt(np.log1p(traffic.spread**2)))
    factor = float(np.exp(sigma * generator.standard_normal() - sigma**2 / 2))
    return [generator.bytes(min(65535, max(1, round(size * factor)))) for size in traffic.layer_bytes]


def _folder_layers(scenario: Scenario, encode: Callable[[Path], Layers] | None) -> list[Layers]:
    folder = scenario.folder / scenario.traffic.folder
    if not folder.is_dir():
        raise PinholeError(f"{folder}: no such folder; mend [traffic] folder of scenario {scenario.name}")
    suffixes = {".pin", ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    if not paths:
        raise PinholeError(f"{folder}: holds no pictures and no .pin files; put some there")
    if encode is None:
        encode = _encoder(scenario.traffic)
    return [encode(path) for path in paths]


def _encoder(traffic: Traffic) -> Callable[[Path], Layers]:
    from sender.encoder import OnnxEncoder
    from shared.codec.bundle import find_bundle
    from shared.codec.pin import read_pin
    from shared.picture import load_picture

    made: list[PictureEncoder] = []

    def encode(path: Path) -> Layers:
        if path.suffix.lower() == ".pin":
            return read_pin(path)
        if not made:
            made.append(OnnxEncoder(find_bundle(traffic.bundle)))
        return made[0].encode(load_picture(path), traffic.quality)

    return encode
