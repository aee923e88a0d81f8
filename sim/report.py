"""The report of the demonstration: one HTML file that needs nothing beside itself."""

import base64
import io
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image

from shared.codec.interfaces import Pixels
from shared.errors import PinholeError
from shared.files import write_atomically
from sim.baselines import CODECS, available
from sim.demo import BURST, INTERVAL, LOSS, RATE, ROUNDS, DemoResult, Measured, PictureResult
from sim.simulation_report import rows, summarise


@dataclass(frozen=True)
class BundleNames:
    """How the report names the bundle.

    Attributes:
        name: of the bundle.
        bundle_id: first bytes of its hash.
        quality: the operating point, with its name.
        steps: how many steps of diffusion, as words; empty if unknown.
    """

    name: str
    bundle_id: bytes
    quality: str
    steps: str = ""


def write_report(result: DemoResult, names: BundleNames, path: Path) -> None:
    """Write the report.

    Raises:
        PinholeError: if the file cannot be written.
    """
    html = render(result, names)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PinholeError(f"{path.parent}: cannot make the folder ({error.strerror}); give another with -o") from None
    write_atomically(path, html.encode())


def render(result: DemoResult, names: BundleNames) -> str:
    """Return the report as HTML."""
    environment = Environment(
        loader=PackageLoader("sim", "templates"),
        autoescape=select_autoescape(("html", "j2")),
        undefined=StrictUndefined,
        trim_blocks=False,
    )
    environment.filters["thousands"] = lambda value: f"{value:,}"
    environment.filters["fixed"] = _fixed
    figures = summarise(result.outcome)
    codecs = [codec for codec in CODECS if available(codec)]
    crossing = result.crossing
    return environment.get_template("demo.html.j2").render(
        rate_text=f"{RATE / 1000:g} kbit/s",
        codecs=codecs,
        pictures=[_picture(picture, codecs) for picture in result.pictures],
        mean=_means(result.pictures, codecs),
        summary={
            "smallest": min(picture.size for picture in result.pictures),
            "largest": max(picture.size for picture in result.pictures),
        },
        tiles=_tiles(result),
        bundle_name=names.name,
        bundle_id=names.bundle_id.hex(),
        quality_text=names.quality,
        steps_text=names.steps,
        link={
            "loss_percent": f"{LOSS:.0%}",
            "burst": f"{BURST:g}",
            "seed": result.outcome.scenario.seed,
            "interval": INTERVAL,
            "rounds": ROUNDS,
            "rows": rows(figures),
        },
        loopback={
            "transport": "ZeroMQ on loopback",
            "rows": [
                (
                    "sent, received, archived and decoded",
                    f"{len(crossing.pictures)} pictures in {crossing.seconds:.1f} s",
                ),
                ("packets and bytes sent", f"{crossing.sender.packets_sent:,} and {crossing.sender.bytes_sent:,}"),
                ("source packets", f"{crossing.sender.source_symbols_sent:,}"),
                ("repair packets (sent ahead, as on a lossy link)", f"{crossing.sender.repair_symbols_sent:,}"),
                ("packets sent again", f"{crossing.sender.symbols_resent:,}"),
                (
                    "layers submitted / acknowledged",
                    _of(crossing.sender.layers_submitted, crossing.sender.layers_acknowledged),
                ),
                ("layers that came twice to the archive", f"{crossing.duplicates:,}"),
                ("packets rejected", f"{crossing.station.packets_rejected + crossing.sender.packets_rejected:,}"),
            ],
        },
        machine=f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; "
        f"{result.seconds:.0f} s for everything but this page",
    )


def _picture(picture: PictureResult, codecs: Sequence[str]) -> dict[str, object]:
    height, width = picture.original.shape[:2]
    file_bytes = picture.photograph.path.stat().st_size
    views: list[dict[str, object]] = [
        _view("original", picture.original, [f"{file_bytes:,} bytes"]),
        _view("preview", picture.preview.pixels, ["Pinhole without diffusion", _measures(picture.preview)]),
        _view(
            "full picture",
            picture.full.pixels,
            [f"Pinhole, {picture.size:,} bytes, {picture.bits_per_pixel:.3f} bit/pixel", _measures(picture.full)],
            own=True,
        ),
    ]
    for baseline, measured in picture.baselines:
        lines = [f"{baseline.size:,} bytes", _measures(measured), baseline.note]
        views.append(_view(baseline.codec, measured.pixels, lines))
    return {
        "title": picture.photograph.title,
        "credit": picture.photograph.credit,
        "source": picture.photograph.source,
        "width": width,
        "height": height,
        "size": picture.size,
        "bpp": picture.bits_per_pixel,
        "layers": [len(layer) for layer in picture.layers],
        "file_bytes": file_bytes,
        "ratio": file_bytes / picture.size,
        "full": picture.full,
        "baselines": [_baseline(picture, codec) for codec in codecs],
        "delivery": picture.delivery,
        "views": views,
    }


def _baseline(picture: PictureResult, codec: str) -> dict[str, float | None]:
    for baseline, measured in picture.baselines:
        if baseline.codec == codec:
            return {"psnr": measured.psnr, "ms_ssim": measured.ms_ssim}
    return {"psnr": None, "ms_ssim": None}


def _means(pictures: Sequence[PictureResult], codecs: Sequence[str]) -> dict[str, object]:
    baselines = [[_baseline(picture, codec) for picture in pictures] for codec in codecs]
    return {
        "size": _mean([float(picture.size) for picture in pictures]),
        "bpp": _mean([picture.bits_per_pixel for picture in pictures]),
        "psnr": _mean([picture.full.psnr for picture in pictures]),
        "ms_ssim": _mean([picture.full.ms_ssim for picture in pictures]),
        "baselines": [
            {"psnr": _mean([b["psnr"] for b in row]), "ms_ssim": _mean([b["ms_ssim"] for b in row])}
            for row in baselines
        ],
        "base": _mean([picture.delivery.base for picture in pictures]),
        "complete": _mean([picture.delivery.complete for picture in pictures]),
    }


def _tiles(result: DemoResult) -> list[dict[str, str]]:
    pictures = result.pictures
    forward, sender = result.outcome.forward[0], result.outcome.senders[0]
    complete = sum(fate.complete_seconds is not None for fate in result.outcome.fates)
    return [
        {"value": f"{_fixed(_mean([float(p.size) for p in pictures]), 0)} B", "label": "mean size of a picture"},
        {"value": _fixed(_mean([p.bits_per_pixel for p in pictures]), 3), "label": "bit per pixel"},
        {"value": f"{_fixed(_mean([p.full.psnr for p in pictures]), 1)} dB", "label": "mean PSNR of the full picture"},
        {"value": _fixed(_mean([p.full.ms_ssim for p in pictures]), 3), "label": "mean MS-SSIM"},
        {
            "value": f"{complete} of {len(result.outcome.fates)}",
            "label": f"crossings of the lossy link complete ({ROUNDS} of each picture)",
        },
        {
            "value": f"{_fixed(_mean([p.delivery.complete for p in pictures]), 1)} s",
            "label": "median time to a whole picture, mean over pictures",
        },
        {"value": f"{forward.loss_rate:.1%}", "label": f"of {forward.offered:,} packets lost on the way"},
        {
            "value": f"{(sender.repair_symbols_sent + sender.symbols_resent) / sender.packets_sent:.0%}",
            "label": "of the packets sent were repair",
        },
    ]


def _view(name: str, pixels: Pixels, lines: list[str], *, own: bool = False) -> dict[str, object]:
    return {"name": name, "uri": _data_uri(pixels), "lines": lines, "own": own}


def _measures(measured: Measured) -> str:
    similarity = "" if measured.ms_ssim is None else f", MS-SSIM {measured.ms_ssim:.4f}"
    return f"PSNR {measured.psnr:.2f} dB{similarity}"


def _data_uri(pixels: Pixels) -> str:
    # Lossless: the report must show what was measured, not a second compression of it.
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "WebP", lossless=True, quality=60, method=2)
    return "data:image/webp;base64," + base64.b64encode(target.getvalue()).decode("ascii")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _fixed(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:,.{decimals}f}"


def _of(all_of_them: int, some: int) -> str:
    return f"{all_of_them:,} / {some:,}"
