"""What the caller of ``attach``, ``prepare`` or ``compile`` asked for, checked against the model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tokenprune.core.budget import Budget, Keep, Unit
from tokenprune.core.errors import ConfigError, SubstituteWarning, UnsupportedError, UnusedBudgetWarning
from tokenprune.core.registry import build
from tokenprune.core.strategy import AnyStrategy, Positions, Strategy
from tokenprune.hf.adapters.base import ModelAdapter, adapter_for
from tokenprune.hf.adapters.encoder_stage import EncoderHooks
from tokenprune.hf.prompt_text import TURNS, Scaffold, Text, check_text, prompt_text
from tokenprune.hf.saved_processor import belongs, saved_processor
from tokenprune.hf.sources import Extra, Sources, check

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """What the caller of ``attach`` or ``prepare`` asked for."""

    adapter: ModelAdapter
    strategy: AnyStrategy
    budget: Budget
    positions: Positions
    text: Text
    scaffold: Scaffold | None
    sources: Sources

    @property
    def signals(self) -> frozenset[str]:
        """Signals to take from the model: what the strategy reads, given what the model has."""
        return self.sources.read

    @property
    def stage(self) -> EncoderHooks | None:
        """What drops patches inside the encoder, made anew; None where nothing does."""
        if not isinstance(self.strategy, Strategy) or self.strategy.stage is None:
            return None
        if self.budget.unit not in ("image", "tile"):
            raise UnsupportedError(
                f"strategy {self.strategy.name!r} drops patches inside the encoder, which sees one picture at a time: "
                f"unit={self.budget.unit!r} is not possible, use 'image'"
            )
        return EncoderHooks(self.strategy.stage, self.budget.counts)

    @property
    def reads_turns(self) -> bool:
        """Whether somebody has to tell the user's words from the rest of a prompt."""
        return isinstance(self.text, str) and self.text in TURNS and "text" in self.signals

    def marked(self, ids: Tensor, mask: Tensor, placeholders: Tensor) -> Tensor:
        """Tokens that count as text, bool (B, S); none where nobody reads them."""
        if isinstance(self.text, str) and self.text in TURNS and not (self.reads_turns and bool(placeholders.any())):
            return torch.zeros_like(mask)
        return prompt_text(ids, mask, placeholders, self.adapter.special_ids, text=self.text, scaffold=self.scaffold)

    @property
    def substitutes(self) -> Mapping[str, str]:
        """Signals that the model lacks, and what stands in for each."""
        return self.sources.substitutes

    @classmethod
    def of(
        cls,
        model: Any,
        strategy: AnyStrategy | str | Mapping[str, Any],
        keep: Keep | Budget,
        unit: Unit | None,
        positions: Positions | None,
        text: Text | None,
        processor: Any,
        extra: Extra | None = None,
    ) -> Request:
        """Find the adapter, build the strategy, and check that the model can give what it reads."""
        adapter = adapter_for(model)
        built = strategy if isinstance(strategy, AnyStrategy) else build(strategy)
        built, budget = built.under(Budget.of(keep, unit))
        check(adapter, built, extra)
        sources = Sources.of(adapter, built, extra)
        if "frames" in built.requires and adapter.frames_apart and budget.unit != "sample":
            raise UnsupportedError(
                f"strategy {built.name!r} compares the frames of a video, and {type(adapter.model).__name__} shows "
                "them as images of their own: pass unit='sample', so that one budget holds them all"
            )
        if not built.uses_budget and budget.keep != 1.0:
            warnings.warn(
                f"how many tokens strategy {built.name!r} keeps follows from the visual input and its own options: "
                f"keep={budget.keep!r} is not used (keep=1.0 says so, and silences this)",
                UnusedBudgetWarning,
                stacklevel=4,
            )
        for name, other in sources.substitutes.items():
            warnings.warn(
                f"strategy {built.name!r} reads {name!r}, which {type(adapter.model).__name__} does not have: "
                f"{other!r}, made to add up to one, stands in for it",
                SubstituteWarning,
                stacklevel=4,
            )
        if positions == "compact" and adapter.multi_axis:
            raise UnsupportedError(
                f"positions='compact' cannot renumber the positions of {type(adapter.model).__name__}, which run along "
                "time, height and width: leave it out, or use 'keep'"
            )
        chosen = "keep" if adapter.multi_axis else positions or built.positions
        # whoever asks decides; then the strategy
        text = (built.text or TURNS[0]) if text is None else text
        check_text(text, processor)
        scaffold = None if processor is None else Scaffold.of(processor, adapter.image_token_ids)
        if scaffold is not None and not belongs(processor, adapter.model):
            raise ConfigError(
                f"processor is not that of {type(adapter.model).__name__}: its tokenizer knows "
                f"{len(scaffold.speller.tokenizer)} tokens, the model "
                f"{adapter.model.config.get_text_config().vocab_size}; pass the model's own"
            )
        request = cls(adapter, built, budget, chosen, text, scaffold, sources)
        if scaffold is None and request.reads_turns and (own := saved_processor(adapter.model)) is not None:
            return replace(request, scaffold=Scaffold.of(own, adapter.image_token_ids))
        return request
