"""Curves for comparison: means over the pictures that all compared curves have, so that no mean is over easier ones."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from shared.errors import UsageError
from training.evaluation.results import Result, SetResult

_HIGHER = {"PSNR", "SSIM", "MS-SSIM"}
_LOWER = {"LPIPS", "ST-LPIPS", "DISTS", "NIQE", "FID", "KID", "MSE"}
_ORDER = ("PSNR", "MS-SSIM", "SSIM", "ST-LPIPS", "LPIPS", "DISTS", "NIQE", "FID", "KID")
_PEER_ORDER = ("VVC", "HEVC", "AVIF", "JPEG XL", "WebP", "JPEG 2000", "JPEG")

# A cell with fewer pictures than this share would shrink everybody's mean; it is left out and named instead.
_LEAST_SHARE = 0.5

_STEPS = re.compile(r"(\d+) steps?(?P<how> from noise|(, [a-z+-]+)?(, from \d+)?)")
_PREFIX = re.compile(r"layers (\d+)/(\d+)(?P<full>, full)?")


def direction(metric: str) -> int:
    """Return 1 if higher is better, -1 if lower is better, 0 if it is not known.

    What stands in brackets does not count: "NIQE (refitted)" is a NIQE.
    """
    base = metric.split("(")[0].strip()
    return 1 if base in _HIGHER else -1 if base in _LOWER else 0


def metric_order(names: Iterable[str]) -> list[str]:
    """Return metric names in the order of all tables: fidelity, perceptual, no-reference, of the whole set, others."""

    def place(name: str) -> tuple[int, str]:
        base = name.split("(")[0].strip()
        return (_ORDER.index(base) if base in _ORDER else len(_ORDER), name)

    return sorted(set(names), key=place)


def target_order(target: str) -> tuple[float, str]:
    """Sort key for targets: by number where they are numbers, others last."""
    try:
        return float(target), target
    except ValueError:
        return math.inf, target


def steps_of(variant: str) -> tuple[int, str] | None:
    """Return the diffusion steps of a variant, and sampler and start where it names them; None if it names no steps."""
    if variant == "preview":
        return 0, ""
    match = _STEPS.fullmatch(variant)
    return (int(match[1]), match["how"].strip(", ")) if match else None


def prefix_of(variant: str) -> tuple[int, int, bool] | None:
    """Return layers used, layers made and whether diffusion followed; None if the variant is no prefix."""
    match = _PREFIX.fullmatch(variant)
    return (int(match[1]), int(match[2]), match["full"] is not None) if match else None


@dataclass(frozen=True)
class Point:
    """One point of a curve.

    Attributes:
        target: quality of the operating point.
        pictures: how many the means are over.
        bits_per_pixel: mean over the pictures.
        size: mean bytes of a picture.
        encode_seconds: mean, None where not measured.
        decode_seconds: mean, None where not measured.
        metrics: mean by name.
        rates: bits per pixel that belong to each metric, over the pictures on which that metric could be measured.
        settings: the codec's settings, each once.
        notes: each note with the number of pictures it is true of; those without a number are of the whole point.
    """

    target: str
    pictures: int
    bits_per_pixel: float
    size: float
    encode_seconds: float | None
    decode_seconds: float | None
    metrics: Mapping[str, float]
    rates: Mapping[str, float]
    settings: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Curve:
    """All points of one method and variant, in the order of their targets.

    Attributes:
        method: bundle or peer.
        variant: as in `Result`; empty for peers.
        points: at least one.
    """

    method: str
    variant: str
    points: tuple[Point, ...]

    @property
    def label(self) -> str:
        """Name in tables and figures."""
        return f"{self.method}, {self.variant}" if self.variant else self.method

    @property
    def is_peer(self) -> bool:
        """Whether this is another codec, not a bundle."""
        return not self.variant

    def at(self, target: str) -> Point | None:
        """Return the point of a target, None if the curve has none."""
        return next((point for point in self.points if point.target == target), None)

    def line(self, metric: str) -> tuple[list[float], list[float]]:
        """Return bits per pixel and values of a metric at the points that have it."""
        having = [point for point in self.points if metric in point.metrics]
        return [point.rates[metric] for point in having], [point.metrics[metric] for point in having]


@dataclass(frozen=True)
class Comparison:
    """Curves whose means are over the same pictures.

    Attributes:
        curves: bundles first, then peers.
        pictures: names of the pictures that count.
        left_out: one line for each picture or point that was left out, with its reason.
    """

    curves: tuple[Curve, ...]
    pictures: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def targets(self) -> list[str]:
        """All targets of all curves."""
        return sorted({point.target for curve in self.curves for point in curve.points}, key=target_order)

    @property
    def metrics(self) -> list[str]:
        """All metrics of all curves, in the order of the tables."""
        return metric_order(name for curve in self.curves for point in curve.points for name in point.metrics)

    @property
    def bundles(self) -> list[Curve]:
        """The curves that are no peers."""
        return [curve for curve in self.curves if not curve.is_peer]


def is_main(result: Result | SetResult) -> bool:
    """Whether this belongs to the rate-distortion curves: peers, previews and full decodes."""
    return result.variant in ("", "preview", "full")


def the_dataset(results: Sequence[Result]) -> str:
    """Return the one dataset of the results.

    Raises:
        UsageError: if there are no results, or of more than one dataset.
    """
    names = sorted({result.dataset for result in results})
    if len(names) != 1:
        found = f"of {len(names)} datasets ({', '.join(names)})" if names else "missing"
        raise UsageError(f"results are {found}; a report needs those of exactly one dataset")
    return names[0]


def compare(
    results: Iterable[Result],
    set_results: Iterable[SetResult] = (),
    *,
    keep: Callable[[Result | SetResult], bool] = is_main,
    reference: str | None = None,
) -> Comparison:
    """Return the curves of all results that are kept, over common pictures.

    A point that has fewer than half of the pictures is left out; of the rest, only the pictures that all points have
    count. A metric that is missing on a picture for one point is averaged without that picture for all points.

    Args:
        results: in any order; of two for one picture, method, variant and target the later counts.
        set_results: FID and the like; they join the point of their method, variant and target.
        keep: which results to compare.
        reference: the bundle to put first.
    """
    cells: dict[tuple[str, str, str], dict[str, Result]] = defaultdict(dict)
    for result in results:
        if keep(result):
            cells[result.method, result.variant, result.target][result.picture] = result
    common, left_out = _common(cells)
    names = {name for cell in cells.values() for result in cell.values() for name in result.metrics}
    measured = {name: _measured_on(name, cells.values(), common) for name in names}
    sets = {(entry.method, entry.variant, entry.target): entry for entry in set_results if keep(entry)}
    points: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for key in sorted(cells, key=lambda key: (key[0], key[1], target_order(key[2]))):
        chosen = [cells[key][picture] for picture in common]
        if chosen:
            points[key[:2]].append(_point(key[2], chosen, measured, sets.get(key)))
    curves = [Curve(method, variant, tuple(made)) for (method, variant), made in points.items()]
    return Comparison(tuple(sorted(curves, key=lambda c: _place(c, reference))), tuple(common), tuple(left_out))


def _common(cells: dict[tuple[str, str, str], dict[str, Result]]) -> tuple[list[str], list[str]]:
    """Return the pictures that all cells have; cells that have too few are taken out of ``cells``."""
    everything = sorted({picture for cell in cells.values() for picture in cell})
    left_out = []
    # Fullest last, so that the emptiest goes first where no picture is common to all.
    for key in sorted(cells, key=lambda key: (len(cells[key]), key)):
        common = set(everything).intersection(*cells.values())
        if len(cells[key]) >= _LEAST_SHARE * len(everything) and common:
            continue
        left_out.append(f"{_named(*key)}: only {len(cells[key])} of {len(everything)} pictures; the point is left out")
        del cells[key]
    common = set(everything).intersection(*cells.values()) if cells else set()
    for picture in everything:
        lacking = [_named(*key) for key in sorted(cells) if picture not in cells[key]]
        if lacking:
            more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            left_out.append(
                f"picture {picture} is left out of all means; it is missing from {'; '.join(lacking[:3])}{more}"
            )
    return sorted(common), left_out


def _measured_on(name: str, cells: Iterable[dict[str, Result]], pictures: Sequence[str]) -> list[str]:
    """Return the pictures on which all cells that know the metric at all have a finite value of it."""
    knowing = [cell for cell in cells if any(_finite(cell[picture], name) for picture in pictures)]
    return [picture for picture in pictures if all(_finite(cell[picture], name) for cell in knowing)]


def _finite(result: Result, name: str) -> bool:
    return math.isfinite(result.metrics.get(name, math.nan))


def _point(
    target: str, chosen: Sequence[Result], measured: Mapping[str, Sequence[str]], entry: SetResult | None
) -> Point:
    metrics: dict[str, float] = {}
    rates: dict[str, float] = {}
    for name, pictures in measured.items():
        having = [result for result in chosen if result.picture in pictures and _finite(result, name)]
        if having:
            metrics[name] = _mean([result.metrics[name] for result in having])
            rates[name] = _mean([result.bits_per_pixel for result in having])
    counted = Counter(result.note for result in chosen if result.note)
    notes = [f"{note} ({count} of {len(chosen)} pictures)" for note, count in sorted(counted.items())]
    if entry is not None:
        for name, value in entry.metrics.items():
            if math.isfinite(value):
                metrics[name], rates[name] = value, entry.bits_per_pixel
        if entry.note:
            notes.append(entry.note)
    return Point(
        target,
        len(chosen),
        _mean([result.bits_per_pixel for result in chosen]),
        _mean([float(result.size) for result in chosen]),
        _mean_known([result.encode_seconds for result in chosen]),
        _mean_known([result.decode_seconds for result in chosen]),
        {name: metrics[name] for name in metric_order(metrics)},
        rates,
        tuple(sorted({result.setting for result in chosen})),
        tuple(notes),
    )


def _place(curve: Curve, reference: str | None) -> tuple[int, int, str, int, str]:
    if curve.is_peer:
        known = _PEER_ORDER.index(curve.method) if curve.method in _PEER_ORDER else len(_PEER_ORDER)
        return 2, known, curve.method, 0, ""
    # Numbers in their own order: 4 steps before 20.
    variant = re.sub(r"\d+", lambda number: number[0].zfill(6), curve.variant)
    return int(curve.method != reference), 0, curve.method, int(curve.variant != "full"), variant


def _named(method: str, variant: str, target: str) -> str:
    return f"{method}{', ' if variant else ''}{variant} at target {target}"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _mean_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if known else None
