"""Runs configured stages: finds the configuration, the stage and the photographs, and hands them to the trainer."""

import dataclasses
import importlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import training
from shared.errors import PinholeError, UsageError
from training.config import Config, load_config, read_tables
from training.data import PhotographCache, PhotographFolder, Photographs
from training.stage import JOBS, STAGES, find_stage, unknown_stage

CONFIGS = Path(training.__file__).parent / "configs"
"""Configurations that come with Pinhole."""
PLAN = "plan.toml"
"""In a folder of configurations: ``stages``, their file names without ending, in the order they are trained."""


def find_config(name: str) -> Path:
    """Return the file or folder that a configuration's name stands for: a path, or one that comes with Pinhole.

    Raises:
        UsageError: if there is neither.
    """
    for place in (Path(name), CONFIGS / name, CONFIGS / f"{name}.toml"):
        if place.exists():
            return place
    known = ", ".join(sorted(p.name for p in CONFIGS.iterdir() if p.is_dir()))
    raise UsageError(f"no configuration {name}; give a TOML file or one of {known}")


def settings_of(stage: str) -> type[Any]:
    """Return the dataclass of a stage's own settings.

    Raises:
        UsageError: if there is no such stage.
    """
    if stage in JOBS:
        job: type[Any] = importlib.import_module(JOBS[stage]).Settings
        return job
    if stage not in STAGES:
        raise UsageError(unknown_stage(stage))
    return find_stage(stage).Settings


def read_config(path: Path, overrides: Sequence[str] = (), **flags: str | None) -> Config:
    """Read a configuration of any stage; arguments and errors as `training.config.load_config`."""
    stage = read_tables(path).get("stage")
    if not isinstance(stage, str):
        raise PinholeError(f'{path}: which stage is this? Set stage = "codec" or another')
    return load_config(path, settings_of(stage), overrides, **flags)


def open_photographs(config: Config) -> Photographs:
    """Open the photographs that a configuration names, decoding them first where it asks for a cache.

    Raises:
        UsageError: if it names none.
        PinholeError: if there are too few.
    """
    if config.photographs == Path():
        raise UsageError("no photographs named; give --photographs DIR or set photographs in the configuration")
    if not config.photographs.is_dir():
        raise UsageError(f"{config.photographs} is no folder; give --photographs a folder of pictures")
    if config.data.cache:
        return PhotographCache(config.photographs, config.run / "photographs", config.data.smallest)
    return PhotographFolder(config.photographs, config.data.smallest)


def run_stage(stage: str, name: str, overrides: Sequence[str] = (), **flags: str | None) -> int:
    """Run one stage to its end.

    Args:
        stage: the stage's name, which the configuration must confirm by its ``stage`` or ``name``.
        name: configuration, or a folder that holds ``STAGE.toml``.
        overrides: ``key=value`` lines that win over the file.
        flags: top-level values that win over all.

    Returns:
        0, or the number of the signal that ended it early.
    """
    path = find_config(name)
    if path.is_dir():
        if not (path / f"{stage}.toml").exists():
            known = ", ".join(sorted(p.stem for p in path.glob("*.toml") if p.name != PLAN))
            raise UsageError(f"{path} holds no {stage}.toml; it has {known}")
        path = path / f"{stage}.toml"
    config = read_config(path, overrides, **flags)
    if stage not in (config.stage, config.name, path.stem):
        raise UsageError(f"{path} configures stage '{config.stage}', not '{stage}'")
    return run_configured(config)


def run_configured(config: Config) -> int:
    """Run a stage by its configuration; returns as `run_stage`."""
    if config.stage in JOBS:
        importlib.import_module(JOBS[config.stage]).run(config)
        return 0
    from training.trainer import Trainer, make_accelerator

    # One process decodes the photographs, the others find them decoded.
    with make_accelerator(config.device, config.optimise.precision, config.optimise.accumulate).main_process_first():
        photographs = open_photographs(config)
    return Trainer(config, find_stage(config.stage), photographs).train()


def run_plan(name: str, overrides: Sequence[str] = (), minutes: float | None = None, **flags: str | None) -> int:
    """Run every stage of a folder's ``plan.toml`` in order; stages that are done are passed over.

    Args:
        name: folder of configurations.
        overrides: ``key=value`` lines for every stage.
        minutes: time for all stages together, shared out in proportion to their ``optimise.finish_by_minutes``.
        flags: top-level values that win over all.

    Returns:
        0, or the number of the signal that ended a stage early.
    """
    configs = [read_config(path, overrides, **flags) for path in read_plan(find_config(name))]
    if minutes is not None:
        configs = share_out(configs, minutes)
    for number, config in enumerate(configs, 1):
        print(f"stage {number} of {len(configs)}: {config.name}", flush=True)
        signal = run_configured(config)
        if signal:
            return signal
    return 0


def read_plan(folder: Path) -> list[Path]:
    """Return the configurations that a folder's plan names, in order.

    Raises:
        UsageError: if it is no folder with a plan.
        PinholeError: if the plan is damaged or names a configuration that is not there.
    """
    plan = folder / PLAN
    if not plan.is_file():
        raise UsageError(f"{folder} has no {PLAN}; write one with stages = [...], or train one stage at a time")
    try:
        stages = tomllib.loads(plan.read_text(encoding="utf-8")).get("stages")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PinholeError(f"{plan} is no TOML file: {error}; mend it there") from error
    if not isinstance(stages, list) or not stages or not all(isinstance(s, str) for s in stages):
        raise PinholeError(f'{plan}: write stages = ["autoencoder", ...]')
    paths = [folder / f"{stage}.toml" for stage in stages]
    for path in paths:
        if not path.is_file():
            raise PinholeError(f"{plan} names {path.stem} but there is no {path.name}; mend the plan or add it")
    return paths


def share_out(configs: Sequence[Config], minutes: float) -> list[Config]:
    """Give trained stages ``minutes`` together, in proportion to what their configurations say.

    Raises:
        UsageError: if none of them says how long it may take.
    """
    total = sum(c.optimise.finish_by_minutes for c in configs if c.stage in STAGES)
    if total <= 0:
        raise UsageError("--minutes needs configurations with optimise.finish_by_minutes; set it in one of them")
    factor = minutes / total
    return [
        dataclasses.replace(
            c, optimise=dataclasses.replace(c.optimise, finish_by_minutes=c.optimise.finish_by_minutes * factor)
        )
        for c in configs
    ]
