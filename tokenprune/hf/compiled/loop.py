"""The loop of transformers around programs: sampling, penalties, beams and several sequences a prompt are its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from typing import Any

from torch import Tensor
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from tokenprune.hf.compiled.cache import FixedCache
from tokenprune.hf.patching import CACHE_NAMES

__all__ = ["Loop"]

CACHE = next(name for name in CACHE_NAMES if name in {field.name for field in fields(CausalLMOutputWithPast)})
"""What this transformers calls the cache among outputs."""


class _Rows:
    """What beam search may do to a cache: take other rows."""

    is_compileable = False
    is_croppable = False

    def __init__(self, cache: FixedCache) -> None:
        self.cache = cache

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Continue row ``beam_idx[i]`` in row i."""
        self.cache.reorder_cache(beam_idx)


class Loop(GenerationMixin):  # type: ignore[misc]
    """Something that ``generate`` takes for a model: its forward passes are programs.

    Parameters
    ----------
    model : PreTrainedModel
        Answers all that is asked beside forward passes (configs, device).
    first : Tensor, (B, V)
        Logits behind the prompts, which have been read.
    advance : callable
        From the last tokens, int64 (B, 1), to logits of the next, (B, V); writes to the cache.
    cache : FixedCache
    """

    main_input_name = "input_ids"

    def __init__(self, model: Any, first: Tensor, advance: Callable[[Tensor], Tensor], cache: FixedCache) -> None:
        self._model, self._first, self._advance, self._rows = model, first, advance, _Rows(cache)
        self._begun = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, input_ids: Tensor, **_more: Any) -> Any:
        """Logits of the next token."""
        return self.forward(input_ids)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        """Logits of the next token, (B, 1, V); the first call is about the prompts."""
        logits = self._advance(input_ids[:, -1:]) if self._begun else self._first
        self._begun = True
        return CausalLMOutputWithPast(logits=logits.unsqueeze(1), **{CACHE: self._rows})

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """All that a step needs."""
        return {"input_ids": input_ids}

    def _reorder_cache(self, rows: _Rows, beam_idx: Tensor) -> _Rows:
        rows.reorder_cache(beam_idx)
        return rows

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def _valid_auto_compile_criteria(self, *_: Any, **__: Any) -> bool:
        return False

    def _optimize_model_for_decode(self) -> AbstractContextManager[None]:
        return nullcontext()
