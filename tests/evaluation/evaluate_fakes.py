"""Candidates and metrics small enough to count what the runner asks of them."""

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shared.codec.interfaces import Pixels
from shared.errors import PinholeError
from training.evaluation.candidates import CodedBytes, Decoded, Target

if TYPE_CHECKING:
    # Types only: its package loads torch, and these fakes need none.
    from training.evaluation.metrics.interfaces import PictureMetric, SetMetric

Trouble = Callable[[str, str], None]
"""Called with the target and the variant (empty for encoding); may raise."""


def no_trouble(target: str, variant: str) -> None:
    pass


class Coarse:
    """Rounds pixels to multiples of a step (finer at higher targets) and packs them with zlib.

    "rough" decodes to the step's multiples, "same" to the very same object, "flat" to the mean colour from half a file.
    """

    estimates = True
    shown: Sequence[str] = ("rough",)

    def __init__(
        self, name: str = "coarse", version: str = "1", matches: bool = False, trouble: Trouble = no_trouble
    ) -> None:
        self.name, self.version, self.matches, self.trouble = name, version, matches, trouble
        variants = ("",) if matches else ("rough", "same", "flat")
        self.targets: Sequence[Target] = tuple(Target(name, variants) for name in ("1", "2", "3"))
        self.calls: Counter[str] = Counter()
        self.asked: list[int | None] = []

    def encode(self, pixels: Pixels, target: str, size: int | None) -> "CoarsePicture":
        self.calls["encode"] += 1
        self.asked.append(size)
        self.trouble(target, "")
        return CoarsePicture(self, pixels, target)


class CoarsePicture:
    """What `Coarse` makes."""

    note = ""
    seconds = 0.25

    def __init__(self, made_by: Coarse, pixels: Pixels, target: str) -> None:
        step = 2 ** (7 - int(target))
        self._made_by, self._target = made_by, target
        levels = pixels // step
        rough = (levels * step + step // 2).astype(np.uint8)
        self._rough = Decoded(rough, len(zlib.compress(levels.tobytes())), 0.5)
        mean = np.full_like(pixels, int(pixels.mean()))
        self._flat = Decoded(mean, self._rough.size // 2, None)
        self.size, self.setting = self._rough.size, f"step {step}"

    def decode(self, variant: str) -> Decoded:
        self._made_by.calls["decode"] += 1
        self._made_by.trouble(self._target, variant)
        return self._flat if variant == "flat" else self._rough

    def coded_bytes(self) -> CodedBytes:
        self._made_by.calls["coded_bytes"] += 1
        return CodedBytes(self.size - 20.5, self.size - 10, self.size)


class MeanError:
    """Mean absolute error, 0 to 255; not defined below a width."""

    note = ""

    def __init__(self, name: str = "error", least_width: int = 0) -> None:
        self.name, self._least_width, self.calls = name, least_width, 0

    def measure(self, original: Pixels, decoded: Pixels) -> float | None:
        self.calls += 1
        if original.shape[1] < self._least_width:
            return None
        return float(np.abs(original.astype(float) - decoded.astype(float)).mean())


class SetError:
    """Mean over all pictures of the mean absolute error."""

    name = "set error"
    note = "for tests"

    def __init__(self) -> None:
        self._values: list[float] = []

    def fresh(self) -> "SetError":
        return SetError()

    def update(self, original: Pixels, decoded: Pixels) -> None:
        value = MeanError().measure(original, decoded)
        assert value is not None
        self._values.append(value)

    def compute(self) -> dict[str, float]:
        return {"set error": float(np.mean(self._values)), "pictures": float(len(self._values))}

    def state(self) -> dict[str, NDArray[Any]]:
        return {"values": np.array(self._values)}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._values = state["values"].tolist()


def fail_at(target: str, variant: str, error: BaseException) -> Trouble:
    def trouble(asked_target: str, asked_variant: str) -> None:
        if (asked_target, asked_variant) == (target, variant):
            raise error

    return trouble


def texture(seed: int, height: int = 24, width: int = 40) -> Pixels:
    """Return a smooth random picture ``height x width x 3``."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).astype(float)
    picture = np.kron(small, np.ones((8, 8, 1)))[:height, :width] + generator.normal(0, 6, (height, width, 3))
    pixels: Pixels = picture.clip(0, 255).astype(np.uint8)
    return pixels


PICTURE_METRIC: "PictureMetric" = MeanError()
SET_METRIC: "SetMetric" = SetError()
OUR_ERROR = PinholeError("the codec is out of paint; buy some")
