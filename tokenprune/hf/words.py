"""Words that go before the language model reads the prompt: those that say least about where in the picture to look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenprune.components.speaking import Speaking
from tokenprune.core.errors import ConfigError, OptionTypeError
from tokenprune.core.features import Features
from tokenprune.core.registry import build_component
from tokenprune.hf.batch import Batch
from tokenprune.hf.request import Request

__all__ = ["Words", "silent_words", "speaking_of"]

Words = float | Mapping[str, Any] | Speaking
"""A share of the words, or the part ``speaking`` that says which speak."""


def speaking_of(words: Words, request: Request) -> Speaking:
    """What says which words speak.

    Raises
    ------
    ConfigError
        A share out of range, or a strategy that reads no text, for which nobody looks for the user's words.
    OptionTypeError
        Neither a share nor the part ``speaking``.
    """
    if isinstance(words, int | float) and not isinstance(words, bool):
        found: Any = Speaking(share=float(words))
    elif isinstance(words, Speaking | Mapping):
        found = build_component("scorers", words)
    else:
        found = None
    if not isinstance(found, Speaking):
        raise OptionTypeError(f"words must be a share in (0, 1] or the part 'speaking', got {words!r}")
    if "text" not in request.signals:
        raise ConfigError(
            f"words={words!r}: strategy {request.strategy.name!r} reads no text, so that the question's words are not "
            "looked for: use one that does, as mi-pruner"
        )
    return found


def silent_words(speaking: Speaking, features: Features, batch: Batch) -> Tensor:
    """Text tokens that speak to no picture of their prompt, bool (B, S).

    Parameters
    ----------
    speaking : Speaking
    features : Features
        A row for each distinct unit.
    batch : Batch
    """
    speakers, text = speaking.speakers(features), batch.layout.text
    spoken = torch.zeros_like(text)
    for span, owner in zip(batch.layout.spans, batch.owner, strict=True):
        places = text[span.row].nonzero().flatten()
        spoken[span.row, places[speakers[owner, : len(places)]]] = True
    shown = torch.zeros_like(text)
    for span in batch.layout.spans:
        shown[span.row] = True  # of a prompt without a picture nothing is known
    return text & shown & ~spoken
