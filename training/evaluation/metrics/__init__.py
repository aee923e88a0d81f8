"""Measures of decoded pictures, one by one and as sets."""

from training.evaluation.metrics.interfaces import PictureMetric, SetMetric
from training.evaluation.metrics.loading import DEFAULT_NAMES, NAMES, LoadedMetrics, load_metrics

__all__ = ["DEFAULT_NAMES", "NAMES", "LoadedMetrics", "PictureMetric", "SetMetric", "load_metrics"]
