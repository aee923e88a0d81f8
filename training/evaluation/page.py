"""The page of a report: one HTML file with its tables, figures and pictures inside, loading nothing else."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image

from shared.errors import PinholeError
from training.evaluation.curves import Comparison, target_order
from training.evaluation.published import Published
from training.evaluation.tables import Table, head, metric_text

ORIGINAL = "original"

_LONGEST_SIDE = 1600  # pixels; larger pictures are scaled down for the page
_WEBP_QUALITY = 95
_LARGEST = 32 << 20  # bytes of all pictures as text; browsers get slow beyond


@dataclass(frozen=True)
class ShownPicture:
    """A picture for side-by-side comparison.

    Attributes:
        picture: name; versions of one picture share it and have one size.
        method: bundle or peer, or "original".
        variant: as in `Result`.
        target: as in `Result`; empty for the original.
        bits_per_pixel: of this picture's file.
        path: an image file that Pillow reads.
        metrics: of this picture, by name; empty for the original.
        note: what a reader must know of it.
    """

    picture: str
    method: str
    variant: str
    target: str
    bits_per_pixel: float
    path: Path
    metrics: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def label(self) -> str:
        """Name in the lists of the page."""
        name = f"{self.method}, {self.variant}" if self.variant else self.method
        return f"{name}, quality {self.target}" if self.target else name


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Attributes:
        path: PNG file.
        caption: what it shows.
    """

    path: Path
    caption: str


@dataclass(frozen=True)
class Page:
    """All that the page shows, in its order.

    Attributes:
        title: of the page.
        command: that made it.
        dataset: name.
        comparison: of the rate-distortion curves.
        operating_points: one table for each target.
        bd_rates: one table for each anchor.
        anchor: the anchor that is shown first.
        seconds: encode and decode times.
        sweeps: tables of steps and prefixes.
        figures: in order.
        published: results of others for this dataset.
        published_note: what must be known of them.
        shown: pictures for comparison.
    """

    title: str
    command: str
    dataset: str
    comparison: Comparison
    operating_points: Sequence[Table]
    bd_rates: Sequence[Table]
    anchor: str
    seconds: Table
    sweeps: Sequence[Table]
    figures: Sequence[Figure]
    published: Published
    published_note: str
    shown: Sequence[ShownPicture]


def render_page(page: Page) -> str:
    """Return the page as HTML.

    Raises:
        PinholeError: if a picture or figure cannot be read, or versions of one picture differ in size.
    """
    environment = Environment(
        loader=PackageLoader("training.evaluation", "templates"),
        autoescape=select_autoescape(("html", "j2")),
        undefined=StrictUndefined,
    )
    pictures, dropped = _pictures(page.shown, page.comparison)
    return environment.get_template("evaluation.html.j2").render(
        page=page,
        figures=[{"uri": _uri("png", _read(figure.path)), "caption": figure.caption} for figure in page.figures],
        pictures=pictures,
        dropped=dropped,
        published_columns=[head(metric) for metric in page.published.metrics],
        published_rows=[
            {
                "method": point.method,
                "setting": point.setting,
                "bits": "-" if point.bits_per_pixel is None else f"{point.bits_per_pixel:.4f}",
                "values": [metric_text(name, point.metrics.get(name)) for name in page.published.metrics],
                "source": list(page.published.sources).index(point.source) + 1,
            }
            for point in page.published.points
        ],
    )


def _pictures(shown: Sequence[ShownPicture], comparison: Comparison) -> tuple[list[dict[str, object]], list[str]]:
    """Return the pictures for the viewer, and the names of those for which there was no room."""
    methods = [curve.label for curve in comparison.curves]

    def place(one: ShownPicture) -> tuple[int, int, str, tuple[float, str]]:
        label = f"{one.method}, {one.variant}" if one.variant else one.method
        known = methods.index(label) if label in methods else len(methods)
        return int(one.method != ORIGINAL), known, label, target_order(one.target)

    pictures: list[dict[str, object]] = []
    dropped = []
    room = _LARGEST
    for name in dict.fromkeys(one.picture for one in shown):
        views: list[dict[str, object]] = []
        sizes: dict[tuple[int, int], Path] = {}
        for one in sorted((one for one in shown if one.picture == name), key=place):
            uri, size, scaled = _picture_uri(one.path)
            sizes.setdefault(size, one.path)
            views.append({"label": one.label, "lines": _lines(one, scaled=scaled), "uri": uri})
        if len(sizes) > 1:
            first, second = list(sizes)[:2]
            raise PinholeError(
                f"{sizes[second]} has {second[0]}x{second[1]} pixels, {sizes[first]} {first[0]}x{first[1]}; "
                f"versions of one picture must have one size: evaluate {name} again"
            )
        needed = sum(len(view["uri"]) for view in views if isinstance(view["uri"], str))
        if needed > room:
            dropped.append(name)
            continue
        room -= needed
        width, height = next(iter(sizes))
        pictures.append({"name": name, "width": width, "height": height, "views": views})
    return pictures, dropped


def _lines(one: ShownPicture, *, scaled: bool) -> list[str]:
    lines = [] if one.method == ORIGINAL else [f"{one.bits_per_pixel:.4f} bits per pixel"]
    if one.metrics:
        lines.append(", ".join(f"{name} {metric_text(name, value)}" for name, value in one.metrics.items()))
    return [*lines, *([one.note] if one.note else []), *(["scaled down for this page"] if scaled else [])]


def _picture_uri(path: Path) -> tuple[str, tuple[int, int], bool]:
    """Return a picture as WebP in a data URI, its size in pixels there, and whether it was scaled down."""
    target = io.BytesIO()
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise PinholeError(f"cannot read picture {path} ({error}); evaluate again to make it anew") from None
    scaled = max(image.size) > _LONGEST_SIDE
    if scaled:
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    image.save(target, "WebP", quality=_WEBP_QUALITY, method=4)
    return _uri("webp", target.getvalue()), image.size, scaled


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PinholeError(f"cannot read {path}: {error.strerror or error}; make the report again") from None


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
