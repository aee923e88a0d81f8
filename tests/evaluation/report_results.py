"""Made-up results with the shape of real ones: rates that double, metrics that follow the logarithm of the rate."""

import math
from pathlib import Path

import numpy as np
from PIL import Image

from training.evaluation.page import ShownPicture
from training.evaluation.results import Result, SetResult

PICTURES = [f"kodim{number:02}" for number in range(1, 7)]
TARGETS = {"1": 0.02, "2": 0.035, "3": 0.06, "4": 0.1}
# Where each method stands: PSNR at 0.05 bpp, ST-LPIPS at 0.05 bpp, least bits per pixel it can write.
METHODS: dict[tuple[str, str], tuple[float, float, float]] = {
    ("pocket", "full"): (22.6, 0.33, 0.0),
    ("pocket", "preview"): (23.7, 0.41, 0.0),
    ("VVC", ""): (24.3, 0.46, 0.0),
    ("HEVC", ""): (23.8, 0.49, 0.018),
    ("AVIF", ""): (23.5, 0.50, 0.03),
    ("JPEG XL", ""): (22.0, 0.60, 0.05),
    ("WebP", ""): (21.5, 0.62, 0.07),
    ("JPEG 2000", ""): (21.0, 0.58, 0.0),
    ("JPEG", ""): (19.0, 0.80, 0.16),
}
SIZE = (768, 512)


def metrics_at(method: tuple[str, str], bits: float, picture: int) -> dict[str, float]:
    psnr, perceptual, _ = METHODS[method]
    doublings = math.log2(bits / 0.05)
    easier = 0.3 * (picture - 3)
    return {
        "PSNR": psnr + 1.4 * doublings + easier,
        "MS-SSIM": 1 - 0.22 * 2 ** (-0.5 * doublings - 0.1 * (psnr - 22) - 0.05 * easier),
        "ST-LPIPS": perceptual * 2 ** (-0.3 * doublings) - 0.01 * easier,
        "LPIPS": 0.55 * perceptual * 2 ** (-0.4 * doublings),
        "DISTS": 0.3 * perceptual * 2 ** (-0.3 * doublings),
        "NIQE (refitted)": 3.5 + 4 * perceptual - 0.2 * doublings,
    }


def result(method: tuple[str, str], target: str, picture: int, *, sweep: str = "", gain: float = 0.0) -> Result:
    least = METHODS[method][2]
    wanted = TARGETS[target] * (1 + 0.06 * (picture - 2.5))
    bits = max(wanted, least)
    values = metrics_at(method, bits, picture)
    values = {
        name: value + gain * (2 if name == "PSNR" else 0.3 if name == "MS-SSIM" else -1)
        for name, value in values.items()
    }
    return Result(
        dataset="kodak",
        picture=PICTURES[picture],
        method=method[0],
        variant=sweep or method[1],
        target=target,
        setting=f"quality {target}" if method[1] else f"qp {60 - 5 * int(target)}",
        width=SIZE[0],
        height=SIZE[1],
        size=round(bits * SIZE[0] * SIZE[1] / 8),
        encode_seconds=None if sweep else 0.25 + 0.01 * picture,
        decode_seconds=0.4 + 0.1 * picture,
        metrics=values,
        note="smallest possible file, larger than the target" if bits > wanted * 1.02 else "",
    )


def rate_results() -> list[Result]:
    return [result(m, t, picture) for m in METHODS for t in TARGETS for picture in range(len(PICTURES))]


def sweep_results() -> list[Result]:
    """Step counts and layer prefixes at target 3."""
    full, preview = ("pocket", "full"), ("pocket", "preview")
    found = []
    for picture in range(len(PICTURES)):
        for steps in (1, 2, 4, 8, 20, 50):
            gain = 0.02 * math.log2(steps)
            found.append(result(full, "3", picture, sweep=f"{steps} steps" if steps > 1 else "1 step", gain=gain))
            found.append(result(full, "3", picture, sweep=f"{steps} steps from noise", gain=gain - 0.2 / steps))
        for layers in (1, 2, 3):
            whole = result(preview, "3", picture, sweep=f"layers {layers}/4", gain=-0.08 * (4 - layers))
            changed = {**whole.__dict__, "size": round(whole.size * (0.1 + 0.225 * layers))}
            found.append(Result(**changed))
            better = {name: value - (0.05 if name != "MS-SSIM" else 0.01) for name, value in whole.metrics.items()}
            found.append(Result(**{**changed, "variant": f"layers {layers}/4, full", "metrics": better}))
    return found


def set_results() -> list[SetResult]:
    return [
        SetResult("kodak", method, variant, target, bits, {"FID": 200 * METHODS[method, variant][1] / (1 + 8 * bits)})
        for method, variant in METHODS
        for target, bits in TARGETS.items()
    ]


def shown_pictures(folder: Path, pictures: int = 2) -> list[ShownPicture]:
    """Pictures of waves, coarser for each method; the original is the finest."""
    folder.mkdir(parents=True, exist_ok=True)
    down, across = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    shown = []
    for number, picture in enumerate(PICTURES[:pictures]):
        for level, (method, variant) in enumerate([("original", ""), *METHODS]):
            phase = (across * (3 + number) + down * 5) // (1 + 4 * level) * (1 + 4 * level) / 90
            waves = np.stack([np.sin(phase + colour) for colour in (0, 1, 2)], axis=2) * 100 + 128
            path = folder / f"{picture}-{level}.png"
            Image.fromarray(waves.astype(np.uint8)).save(path)
            original = method == "original"
            one = None if original else result((method, variant), "3", number)
            shown.append(
                ShownPicture(
                    picture,
                    method,
                    variant,
                    "" if one is None else "3",
                    24.0 if one is None else one.bits_per_pixel,
                    path,
                    {} if one is None else one.metrics,
                )
            )
    return shown
