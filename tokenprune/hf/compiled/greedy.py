"""What an answer is to be drawn with: options of ``generate``, which of them programs can serve, and where it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokenprune.core.errors import ConfigError

__all__ = ["beyond", "copies_of", "cut", "ends_of", "new_tokens", "not_greedy"]

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

OF_LOGITS = frozenset(
    {
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "encoder_repetition_penalty",
        "eos_token_id",
        "epsilon_cutoff",
        "eta_cutoff",
        "exponential_decay_length_penalty",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "length_penalty",
        "logits_processor",
        "max_length",
        "max_time",
        "min_p",
        "pad_token_id",
        "prefix_allowed_tokens_fn",
        "remove_invalid_values",
        "renormalize_logits",
        "sequence_bias",
        "stop_strings",
        "stopping_criteria",
        "suppress_tokens",
        "tokenizer",
        "top_h",
        "typical_p",
        "watermarking_config",
    }
)
"""Further options that look at logits and tokens alone, whatever a model did to make them."""

OF_THE_MODEL: Mapping[str, tuple[Any, ...]] = {
    "use_cache": (True,),
    "return_dict_in_generate": (False,),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
    "cache_implementation": ("dynamic", "static", "hybrid"),
    "constraints": (),
    "dola_layers": (),
    "force_words_ids": (),
    "guidance_scale": (1, 1.0),
    "low_memory": (False,),
    "num_beam_groups": (1,),
    "penalty_alpha": (),
    "prefill_chunk_size": (),
    "prompt_lookup_num_tokens": (),
    "token_healing": (False,),
    "use_mtp": (False,),
}
"""What a generation config may ask of the model itself, and the values at which it asks nothing."""


def not_greedy(config: Any, options: Mapping[str, Any]) -> bool:
    """Whether options of ``generate`` or a generation config ask for more than greedy decoding."""
    if any(name not in GREEDY for name in options):
        return True
    for name, values in GREEDY.items():
        value = options.get(name, getattr(config, name, None))
        if value is not None and values and value not in values:
            return True
    unset: tuple[Any, ...] = (None, False, 0, 1.0, (), [], {})
    ends = {"bos_token_id", "eos_token_id", "pad_token_id", "max_length", "early_stopping", "length_penalty"}
    drawn = {"min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
    return any(getattr(config, name, None) not in unset for name in OF_LOGITS - ends - drawn)


def beyond(config: Any, options: Mapping[str, Any]) -> str | None:
    """Which option asks for more than next logits, that is what programs give."""
    for name in options:
        if name not in GREEDY and name not in OF_LOGITS:
            return f"generate was given {name}"
    for name, values in OF_THE_MODEL.items():
        value = options.get(name, getattr(config, name, None))
        if value is not None and value not in values:
            return f"generate is to run with {name}={value!r}"
    return None


def new_tokens(config: Any, asked: int | None, longest: int | None, prompt: int) -> int:
    """How many tokens to answer with at most, as ``generate`` decides it.

    Parameters
    ----------
    config : GenerationConfig
    asked : int, optional
        ``max_new_tokens``.
    longest : int, optional
        ``max_length``: prompt and answer together, where nobody asked for new tokens.
    prompt : int
        Tokens of the prompt, before anything is pruned.

    Raises
    ------
    ConfigError
        Not an int, or nothing may follow the prompt.
    """
    new = asked if asked is not None else getattr(config, "max_new_tokens", None)
    longest = longest if longest is not None else getattr(config, "max_length", None)
    if new is None and isinstance(longest, int) and not isinstance(longest, bool):
        if longest <= prompt:
            raise ConfigError(f"max_length={longest}, and the prompt has {prompt} tokens: pass max_new_tokens")
        return longest - prompt
    new = 20 if new is None else new
    if isinstance(new, bool) or not isinstance(new, int) or new < 1:
        raise ConfigError(f"max_new_tokens must be an int of at least 1, got {new!r}")
    return new


def copies_of(config: Any, options: Mapping[str, Any]) -> int:
    """Rows that each prompt becomes: beams, or sequences that are returned."""
    asked = (options.get(name) or getattr(config, name, None) or 1 for name in ("num_beams", "num_return_sequences"))
    return max(int(number) for number in asked)


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
