"""Metrics by name, as a data set asks for them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import yaml

from tokenprune.core.errors import ConfigError, NonFiniteError
from tokenprune.core.metric import JudgedMetric, Metric
from tokenprune.core.registry import build_component

__all__ = ["WORDS", "build_metric", "graded", "metric_of"]

WORDS = "words"
"""What questions are graded by that name no metric."""


def build_metric(name: str) -> Metric:
    """A metric by name, with options as in ``number:tolerance=0.1``.

    Raises
    ------
    UnknownNameError, UnknownOptionError
        With the closest matches.
    ConfigError
        An option that is not written ``name:option=value``.
    """
    plain, *given = name.split(":")
    options: dict[str, Any] = {}
    for option in given:
        key, equals, value = option.partition("=")
        if not equals or not key or key in options:
            raise ConfigError(f"metric {name!r}: options are written name:option=value, each once, got {option!r}")
        options[key] = yaml.safe_load(value)
    made: Metric = build_component("metrics", {**options, "name": plain})
    return made


@lru_cache(maxsize=64)
def _built(name: str) -> Metric:
    return build_metric(name)


def metric_of(question: Any) -> Metric:
    """The metric that a question is graded by."""
    return _built(getattr(question, "metric", WORDS))


def graded(prediction: str, question: Any) -> bool | float | None:
    """How right a prediction is: right or wrong, or a share of 1 where the metric gives one; None where a judge will.

    Raises
    ------
    NonFiniteError
        A metric gives something that is not in 0..1.
    """
    metric = metric_of(question)
    if isinstance(metric, JudgedMetric):
        return None
    score = metric.score(prediction, question)
    if isinstance(score, bool):
        return score
    value = float(score)
    if not math.isfinite(value) or not 0 <= value <= 1:
        raise NonFiniteError(f"metric {getattr(question, 'metric', WORDS)!r} gave {value} for {prediction!r}, not 0..1")
    return value
