"""How far a run is and what learning rate that means; both are functions of step and seconds alone."""

import math

from training.config import OptimiseConfig


def run_progress(config: OptimiseConfig, step: int, seconds: float) -> float:
    """How much of the run is done, 0 to 1, by steps or by the clock, whichever is further.

    Args:
        config: the schedule.
        step: optimiser steps done.
        seconds: time trained so far, over all resumptions.
    """
    share = step / config.steps if config.steps > 0 else 1.0
    if config.finish_by_minutes > 0:
        share = max(share, seconds / (60 * config.finish_by_minutes))
    return min(share, 1.0)


def learning_rate(config: OptimiseConfig, step: int, progress: float) -> float:
    """Rate of optimiser step ``step`` (from 0): linear warm-up, then a cosine over the progress down to the floor."""
    warm = min(1.0, (step + 1) / max(config.warmup, 1))
    fall = config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * progress)) if config.cosine else 1.0
    return config.learning_rate * warm * fall
