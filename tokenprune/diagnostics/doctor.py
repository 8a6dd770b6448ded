"""Check on any model that pruning takes place and keeps its laws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenprune.core.budget import Unit
from tokenprune.core.errors import TokenPruneError
from tokenprune.core.registry import build
from tokenprune.core.schedule import LayerSchedule
from tokenprune.core.strategy import AnyStrategy
from tokenprune.diagnostics.mask_out import mask_out
from tokenprune.hf.adapters.base import adapter_for
from tokenprune.hf.attach import attach
from tokenprune.hf.cost import layer_average
from tokenprune.hf.masks import narrow_layers
from tokenprune.results.fingerprint import providers

__all__ = ["Diagnosis", "Law", "broken_line", "diagnose"]


ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.3}
"""Difference that counts as rounding, as a share of the logits' standard deviation."""


@dataclass(frozen=True)
class Law:
    """Largest difference of logits that ought to be equal, as a share of their spread; whether it is rounding."""

    error: float
    holds: bool


@dataclass(frozen=True)
class Diagnosis:
    """What one strategy did to one prompt.

    Attributes
    ----------
    strategy : str
    tokens_before, tokens_after : int
        Visual tokens: in the prompt, and in the last layer.
    layer_tokens : tuple of int
        Visual tokens that each decoder layer processed.
    sequence_before, sequence_after : int
        Tokens that enter the language model.
    change : float
        Largest change of the next token's logits by pruning.
    laws : dict of str to Law
        "keep all = plain" (where a budget of all tokens changes nothing), "drop = mask out" (where nothing is merged,
        nor renumbered between layers; from the layer on after which tokens are dropped), "hooks gone".
    """

    strategy: str
    tokens_before: int
    tokens_after: int
    layer_tokens: tuple[int, ...]
    sequence_before: int
    sequence_after: int
    change: float
    laws: Mapping[str, Law]

    @property
    def healthy(self) -> bool:
        """Tokens were dropped, and every law holds."""
        return self.tokens_after < self.tokens_before and all(law.holds for law in self.laws.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        laws = {name: {"error": law.error, "holds": law.holds} for name, law in self.laws.items()}
        average = layer_average(self.layer_tokens)
        return {**self.__dict__, "layer_average_tokens": average, "laws": laws, "healthy": self.healthy}


@torch.no_grad()
def diagnose(
    model: Any, processor: Any, strategy: Any, keep: Any, inputs: Mapping[str, Any], *, unit: Unit | None = None
) -> Diagnosis:
    """Run one prompt plainly, with everything kept, pruned, and with the dropped tokens masked out.

    A strategy that counts without a budget is asked for everything, which is how it is told to count.
    """
    built = build(strategy)
    keep = keep if built.uses_budget else 1.0
    inputs = dict(inputs)
    positions = adapter_for(model).position_ids(inputs, inputs["attention_mask"].bool())
    plain = model(**inputs).logits[:, -1]
    hooks = _hooks(model)
    laws: dict[str, Law] = {}
    if built.neutral:
        with attach(model, built, 1.0, processor=processor, unit=unit):
            laws["keep all = plain"] = _law(model(**inputs).logits[:, -1], plain)
    with attach(model, built, keep, processor=processor, unit=unit) as run:
        pruned = model(**inputs, position_ids=positions).logits[:, -1]
    prefill = run.history[-1]
    if _only_drops(built, model) and prefill.sequence_before <= _window(model):
        laws["drop = mask out"] = _law(pruned, mask_out(model, inputs, prefill, built.positions))
    laws["hooks gone"] = Law(0.0, _hooks(model) == hooks)
    return Diagnosis(
        built.name,
        sum(prefill.tokens_before),
        sum(prefill.tokens_after),
        tuple(map(sum, zip(*prefill.layer_tokens, strict=True))),
        prefill.sequence_before,
        prefill.sequence_after,
        float((pruned - plain).abs().max()),
        laws,
    )


def broken_line(strategy: str, error: BaseException) -> str:
    """A strategy that could not be examined, in a line: what it raised, and whose it is."""
    try:
        whose = ", ".join(providers(build(strategy)))
    except TokenPruneError:
        whose = ""  # it cannot even be built, and the error names whose it is
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{strategy} FAILED: {type(error).__name__}: {first}{f' (provided by {whose})' if whose else ''}"


def _only_drops(strategy: AnyStrategy, model: Any) -> bool:
    """Whether masking tokens out does the same; masks between layers need an attention that takes any mask."""
    # what acts while decoding leaves the prompt's forward pass alone
    if strategy.merges or not isinstance(strategy, LayerSchedule) or not strategy.events:
        return not strategy.merges
    takes_masks = model.config.get_text_config()._attn_implementation in ("sdpa", "eager")
    return strategy.before is None and strategy.positions == "keep" and takes_masks


def _window(model: Any) -> float:
    """Tokens that every layer looks back at: windows count what is left, so longer prompts see more when pruned."""
    config = model.config.get_text_config()
    window: int | None = getattr(config, "sliding_window", None)
    return float("inf") if not narrow_layers(config) or window is None else window


def _law(a: Tensor, b: Tensor) -> Law:
    error = float((a.float() - b.float()).abs().max() / b.float().std().clamp_min(1e-12))
    return Law(error, error <= ROUNDING[a.dtype])


def _hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
