"""Which metrics there are, and which of them can be had here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch

from shared.errors import UsageError
from training.evaluation.metrics import basic, inception, niqe, perceptual
from training.evaluation.metrics.interfaces import PictureMetric, SetMetric
from training.evaluation.metrics.weights import WeightsUnavailableError

T = TypeVar("T")
Make = Callable[[torch.device], PictureMetric]

_PICTURE: dict[str, Make] = {
    "PSNR": lambda device: basic.Psnr(),
    "MS-SSIM": lambda device: basic.MsSsim(),
    "ST-LPIPS": perceptual.st_lpips,
    "ST-LPIPS (Alex)": perceptual.st_lpips_alex,
    "LPIPS": perceptual.lpips,
    "DISTS": perceptual.Dists,
    niqe.NAME: lambda device: basic.Niqe(niqe.NiqeModel.load()),
}
_ALIASES = {"NIQE": niqe.NAME}

NAMES = (*_PICTURE, *inception.NAMES)
"""Every metric's name."""
DEFAULT_NAMES = tuple(name for name in NAMES if name != "ST-LPIPS (Alex)")
"""What is measured unless asked otherwise: all but what the training optimised."""


@dataclass(frozen=True)
class LoadedMetrics:
    """What can be measured here.

    Attributes:
        pictures: metrics of one picture, in the order of `NAMES`.
        sets: metrics over pictures; call ``fresh()`` for each curve point.
        unavailable: one line for each metric that was left out, with the mend.
    """

    pictures: list[PictureMetric] = field(default_factory=list)
    sets: list[SetMetric] = field(default_factory=list)
    unavailable: list[str] = field(default_factory=list)


def load_metrics(
    names: Sequence[str] | None = None, device: str | torch.device = "cpu", half: bool = False
) -> LoadedMetrics:
    """Load metrics by name.

    Weights that are not in torch hub's folder are downloaded once (AlexNet 240 MB for LPIPS, VGG16 550 MB for DISTS,
    Inception 95 MB for FID and KID); a metric whose weights cannot be had within seconds is left out.

    Args:
        names: some of `NAMES`, case aside, "NIQE" for short; None for `DEFAULT_NAMES`.
        device: where networks run.
        half: whether ST-LPIPS' VGG trunk runs its convolutions in bfloat16, three times faster where the CPU has
            such units; figures differ in the fourth decimal.

    Raises:
        UsageError: if a name is not known.
        PinholeError: if a data file of ours is missing or damaged.
    """
    wanted = DEFAULT_NAMES if names is None else [_known(name) for name in names]
    place = torch.device(device)
    loaded = LoadedMetrics()
    known: dict[str, Make] = {**_PICTURE, "ST-LPIPS": partial(perceptual.st_lpips, half=half)}
    for name, make in known.items():
        if name in wanted and (metric := _try(name, partial(make, place), loaded.unavailable)) is not None:
            loaded.pictures.append(metric)
    of_sets = [name for name in inception.NAMES if name in wanted]
    if of_sets:
        describe = _try(" and ".join(of_sets), partial(inception.Inception, place), loaded.unavailable)
        if describe is not None:
            loaded.sets.append(
                inception.InceptionDistances(of_sets, inception.LastRemembered(describe), describe),
            )
    return loaded


def _known(name: str) -> str:
    by_lower = {known.lower(): known for known in NAMES} | {short.lower(): full for short, full in _ALIASES.items()}
    try:
        return by_lower[name.strip().lower()]
    except KeyError:
        raise UsageError(f"metric {name!r} is not known; choose from {', '.join(NAMES)}") from None


def _try(name: str, make: Callable[[], T], unavailable: list[str]) -> T | None:
    """Return what ``make`` makes, or None and the reason in ``unavailable``."""
    try:
        return make()
    except WeightsUnavailableError as error:
        unavailable.append(f"{name} left out: {error}")
    except ImportError as error:
        unavailable.append(f"{name} left out: package {error.name} is missing; install pinhole-link[train]")
    return None
