"""What greedy decoding is: options of ``generate`` that ask for it, and where an answer ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokenprune.core.errors import ConfigError

__all__ = ["cut", "ends_of", "new_tokens", "not_greedy"]

GREEDY: Mapping[str, tuple[Any, ...]] = {
    "do_sample": (False,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "use_cache": (True,),
    "repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "return_dict_in_generate": (False,),
    "temperature": (),
    "top_p": (),
    "top_k": (),
}
"""Options of ``generate`` and the values at which greedy decoding is what they ask for; () where any will do, because
they only matter to sampling."""


def not_greedy(config: Any, options: Mapping[str, Any]) -> str | None:
    """Which option asks for more than greedy decoding."""
    unknown = [name for name in options if name not in GREEDY]
    if unknown:
        return f"generate was given {unknown[0]}"
    for name, values in GREEDY.items():
        value = options.get(name, getattr(config, name, None))
        if value is not None and values and value not in values:
            return f"generate is to run with {name}={value!r}"
    for name in ("suppress_tokens", "bad_words_ids", "forced_eos_token_id", "begin_suppress_tokens", "max_time"):
        if getattr(config, name, None):
            return f"the generation config sets {name}"
    return None


def new_tokens(config: Any, asked: int | None) -> int:
    """How many tokens to answer with at most, as ``generate`` decides it."""
    new = asked if asked is not None else getattr(config, "max_new_tokens", None) or 20
    if isinstance(new, bool) or not isinstance(new, int) or new < 1:
        raise ConfigError(f"max_new_tokens must be an int of at least 1, got {new!r}")
    return new


def ends_of(config: Any) -> list[int]:
    """Tokens that end an answer."""
    ends = config.eos_token_id
    return [] if ends is None else list(ends) if isinstance(ends, Sequence) else [int(ends)]


def cut(tokens: Tensor, stop: Tensor) -> Tensor:
    """Drop what follows the end of the last row."""
    if not len(stop):
        return tokens
    ended = torch.isin(tokens, stop).cumsum(1) > 0
    needed = int((~ended).sum(1).max()) + 1
    return tokens[:, :needed]
