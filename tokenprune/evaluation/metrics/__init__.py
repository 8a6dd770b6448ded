"""From what a model wrote to right or wrong: metrics by name, built-in ones and plugins alike."""

from __future__ import annotations

from tokenprune.evaluation.metrics.named import build_metric, graded, metric_of
from tokenprune.evaluation.metrics.words import f1_of_yes, is_correct, normalized, yes_rate

__all__ = ["build_metric", "f1_of_yes", "graded", "is_correct", "metric_of", "normalized", "yes_rate"]
