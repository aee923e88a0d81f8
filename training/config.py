"""Training configurations: TOML files, strictly read into frozen dataclasses.

A file says ``stage = "codec"`` and what differs from the defaults; ``extends = "other.toml"`` (relative to the file)
reads another one first, tables merged key by key. Every key that no dataclass has is an error.
"""

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from shared.errors import PinholeError, UsageError
from shared.settings import refuse_unknown

T = TypeVar("T")


def _require(met: bool, name: str, wanted: str) -> None:
    if not met:
        raise ValueError(f"{name} makes no sense; give {wanted}")


@dataclass(frozen=True)
class DataConfig:
    """Which pieces of which photographs a stage sees.

    Attributes:
        batch: pictures a step and process.
        crop: their side in pixels, a multiple of 64 where a codec takes part, else of 8.
        smallest: photographs with a shorter side than this many pixels are left out.
        cache: whether photographs are decoded once into one memory-mapped file; no for sets larger than the disk.
        crop_share: ``[least, most]``: the photograph is first scaled so that the crop is this share of its shorter
            side; None crops the photograph as it is.
        workers: processes that cut (and, without a cache, decode) crops; 0 cuts them in the training process.
        validation: held-out pictures that figures are measured on.
        validation_crop: largest side of them in pixels, a multiple of 64.
    """

    batch: int = 8
    crop: int = 256
    smallest: int = 256
    cache: bool = True
    crop_share: tuple[float, float] | None = None
    workers: int = 0
    validation: int = 16
    validation_crop: int = 384

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: naming the first that makes no sense.
        """
        _require(self.batch >= 1, "batch", "1 or more")
        _require(self.crop >= 8 and self.crop % 8 == 0, "crop", "a multiple of 8")
        _require(self.workers >= 0, "workers", "0 or more")
        _require(self.validation >= 1, "validation", "1 or more")
        _require(self.validation_crop >= 64, "validation_crop", "64 or more")
        share = self.crop_share
        _require(share is None or 0 < share[0] <= share[1] <= 1, "crop_share", "two rising numbers above 0, at most 1")


@dataclass(frozen=True)
class OptimiseConfig:
    """How long and how fast a stage trains.

    Attributes:
        steps: optimiser steps in all.
        learning_rate: peak rate of AdamW.
        auxiliary_learning_rate: constant rate of the second optimiser, for stages that have auxiliary parameters.
        auxiliary_betas: its decay rates.
        warmup: steps of linear warm-up.
        cosine: whether the rate falls along a cosine to `floor`; otherwise it stays.
        floor: share of the peak rate that the cosine ends at.
        betas: AdamW's decay rates of gradient and squared gradient.
        weight_decay: AdamW's, on parameters of two and more dimensions.
        clip: largest gradient norm; 0 does not clip.
        average: decay of the moving average of the weights.
        accumulate: batches whose gradients make one step.
        precision: ``"no"`` (float32) or ``"bf16"`` autocast.
        finish_by_minutes: minutes this stage may train in all, stops not counted. The cosine follows the clock where
            that is further than the step count, so a stage ends annealed on a machine of unknown speed. 0: no limit.
    """

    steps: int = 40000
    learning_rate: float = 1e-3
    auxiliary_learning_rate: float = 1e-3
    auxiliary_betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 100
    cosine: bool = True
    floor: float = 0.02
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-3
    clip: float = 1.0
    average: float = 0.998
    accumulate: int = 1
    precision: Literal["no", "bf16"] = "bf16"
    finish_by_minutes: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: naming the first that makes no sense.
        """
        _require(self.steps >= 1, "steps", "1 or more")
        _require(self.accumulate >= 1, "accumulate", "1 or more")
        _require(self.learning_rate > 0, "learning_rate", "more than 0")
        _require(0 <= self.average < 1, "average", "0 or more and less than 1")
        _require(self.clip >= 0, "clip", "0 or more")
        _require(self.finish_by_minutes >= 0, "finish_by_minutes", "0 or more")


@dataclass(frozen=True)
class LogConfig:
    """What is written while training, and how often.

    Attributes:
        every: steps between checkpoints, each with validation and a line of ``log.jsonl``.
        samples_every: steps between grids of sample pictures, in multiples of `every`; 0 makes none but the last.
        tensorboard: whether scalars and grids also go to TensorBoard files.
    """

    every: int = 400
    samples_every: int = 2000
    tensorboard: bool = True

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: naming the first that makes no sense.
        """
        _require(self.every >= 1, "every", "1 or more")
        _require(self.samples_every >= 0, "samples_every", "0 or more")


@dataclass(frozen=True)
class Config:
    """One stage's configuration, whole.

    Attributes:
        source: the file it came from.
        stage: name of the stage in `training.stage.STAGES` or `JOBS`.
        name: its folder within `run`; the stage's name unless set.
        run: folder of all stages' folders.
        photographs: folder of the training photographs.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``.
        seed: of the weights, of the data's order and of every step's noise.
        data: crops.
        optimise: optimiser and schedule.
        log: intervals.
        start: part to stage, folder or checkpoint file whose averaged weights it starts from.
        settings: the stage's own, an instance of its ``Settings``.
    """

    source: Path
    stage: str
    name: str
    run: Path
    photographs: Path
    device: str
    seed: int
    data: DataConfig
    optimise: OptimiseConfig
    log: LogConfig
    start: Mapping[str, str]
    settings: Any

    @property
    def folder(self) -> Path:
        """Where this stage keeps its checkpoint and logs."""
        return self.run / self.name


@dataclass(frozen=True)
class _Common:
    """The top level that every configuration has."""

    stage: str
    name: str = ""
    run: str = "runs/pocket"
    photographs: str = ""
    device: str = "auto"
    seed: int = 1
    data: DataConfig = DataConfig()
    optimise: OptimiseConfig = OptimiseConfig()
    log: LogConfig = LogConfig()
    start: dict[str, str] = field(default_factory=dict)


def read_tables(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a file and all that it extends into one nested dictionary.

    Raises:
        PinholeError: if a file cannot be read, is no TOML, or extends itself.
    """
    here = path.resolve()
    if here in seen:
        raise PinholeError(f"{path} extends itself; break the circle of 'extends'")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PinholeError(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PinholeError(f"{path} is no TOML file: {error}; mend it there") from error
    parent = tables.pop("extends", None)
    if parent is None:
        return tables
    if not isinstance(parent, str):
        raise PinholeError(f"{path}: extends must be a file name in quotes")
    return merge_tables(read_tables(path.parent / parent, (*seen, here)), tables)


def merge_tables(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``change`` over ``base``, tables within tables."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = merge_tables(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def apply_overrides(tables: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply ``key=value`` lines; dots lead into tables, values are TOML (a bare word is a string).

    Raises:
        UsageError: if a line has no ``=``.
    """
    for line in overrides:
        key, equals, text = line.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {line}: write key=value, as --set optimise.steps=2000")
        try:
            value: Any = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        tables = merge_tables(tables, value)
    return tables


def load_config(path: Path, settings: type[Any], overrides: Sequence[str] = (), **flags: str | None) -> Config:
    """Read a stage's configuration.

    Args:
        path: the TOML file.
        settings: dataclass of the stage's own settings.
        overrides: ``key=value`` lines that win over the file.
        flags: top-level values that win over all, where not None.

    Raises:
        PinholeError: naming file, key and nearest known name of the first thing that is wrong.
    """
    tables = apply_overrides(read_tables(path), overrides)
    tables.update({name: value for name, value in flags.items() if value is not None})
    common = {f.name for f in dataclasses.fields(_Common)}
    own = {f.name for f in dataclasses.fields(settings)}
    refuse_unknown(tables, common | own, str(path))
    top = build(_Common, {k: v for k, v in tables.items() if k in common}, str(path))
    values = {f.name: getattr(top, f.name) for f in dataclasses.fields(top)}
    values.update(name=top.name or top.stage, run=Path(top.run), photographs=Path(top.photographs))
    inner = build(settings, {k: v for k, v in tables.items() if k in own}, str(path))
    return Config(source=path, settings=inner, **values)


def build(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Make a dataclass of a table, nested dataclasses of nested tables.

    Args:
        kind: a dataclass whose fields are bool, int, float, str, Literal, tuples, ``dict[str, ...]``, dataclasses, or
            one of these or None.
        table: the values.
        where: file and table, for errors.

    Raises:
        PinholeError: naming the first unknown key, missing key or value of the wrong type.
    """
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(typing.cast(Any, kind))
    refuse_unknown(table, [f.name for f in fields], where)
    for f in fields:
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in table:
            raise PinholeError(f"{where}: '{f.name}' is missing; set it")
    values = {name: convert(hints[name], value, f"{where}: {name}") for name, value in table.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise PinholeError(f"{where}: {error}") from error


def convert(hint: Any, value: Any, where: str) -> Any:
    """Return ``value`` as the type ``hint``; raises as `build` does."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return convert(next(a for a in arguments if a is not type(None)), value, where)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return build(typing.cast(type[Any], hint), value, where)
    if origin is Literal:
        if value in arguments:
            return value
        raise PinholeError(f"{where} is {value!r}; choose one of {', '.join(map(repr, arguments))}")
    if origin is dict and isinstance(value, dict):
        return {key: convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is tuple and isinstance(value, list):
        kinds = (arguments[0],) * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            raise PinholeError(f"{where} has {len(value)} values; give {len(kinds)}")
        return tuple(convert(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise PinholeError(f"{where} is {value!r}; give {_EXPECTED.get(origin or hint, 'a table')}")


_EXPECTED: dict[Any, str] = {
    tuple: "a list",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text in quotes",
}
