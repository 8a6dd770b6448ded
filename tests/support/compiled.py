"""Answers of compiled models beside those of ``attach``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenprune.hf.encoded import takes_encoded

__all__ = ["rows_of"]


def rows_of(model: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """One row a prompt where transformers encodes pictures last: repeating them, it mixes those of several."""
    several = ("num_return_sequences", "num_beams")
    return {k: v for k, v in options.items() if takes_encoded(model) or k not in several}
