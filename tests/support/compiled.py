"""Answers of compiled models beside those of ``attach``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from tokenprune.hf.encoded import takes_encoded
from tokenprune.hf.saved_processor import MAKES_PROCESSOR
from tokenprune.zoo.tiny import tiny_model
from tokenprune.zoo.tiny.family import spread

__all__ = ["altered", "rows_of"]


def rows_of(model: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """One row a prompt where transformers encodes pictures last: repeating them, it mixes those of several."""
    several = ("num_return_sequences", "num_beams")
    return {k: v for k, v in options.items() if takes_encoded(model) or k not in several}


def altered(name: str, attention: str = "sdpa", image: int = 1, text: Any = None, **changes: Any) -> Any:
    """A tiny model with another language model.

    Parameters
    ----------
    name, attention : str
        As of :func:`~tokenprune.zoo.tiny.tiny_model`.
    image : int, default 1
        How many times as long pictures' sides are.
    text : PretrainedConfig, optional
        The language model's, instead of its own.
    **changes
        Of the language model's config.
    """
    model = tiny_model(name, attention)
    config = model.config
    if text is not None:
        config.text_config = text
    for key, value in changes.items():
        setattr(config.get_text_config(), key, value)
    if image != 1:
        config.vision_config.image_size *= image
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = AutoModelForImageTextToText.from_config(config, attn_implementation=attention)
        spread(made)
    made.generation_config = model.generation_config
    vars(made)[MAKES_PROCESSOR] = vars(model)[MAKES_PROCESSOR]
    return made.eval()
