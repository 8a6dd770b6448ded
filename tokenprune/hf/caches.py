"""The key-value cache among a model's arguments, whatever it is called there."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ["NAMES", "cache_argument", "cache_in"]

NAMES = ("cache", "past_key_values")
"""Names that versions of transformers have for it, the newest first."""


def cache_in(arguments: Mapping[str, Any]) -> Any:
    """The cache that a call was given, or None."""
    return next((arguments[name] for name in NAMES if arguments.get(name) is not None), None)


def cache_argument(model: nn.Module) -> str:
    """What a model's forward calls its cache."""
    known = inspect.signature(model.forward).parameters
    return next((name for name in NAMES if name in known), NAMES[-1])
