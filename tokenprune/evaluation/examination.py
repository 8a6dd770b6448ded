"""Check on any model that pruning takes place and keeps its laws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tokenprune.models.base import adapter_for
from tokenprune.registry import build
from tokenprune.run import Prefill
from tokenprune.session import attach

__all__ = ["Examination", "Law", "examine", "mask_out", "prompt_inputs"]


ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.3}
"""Difference that counts as rounding, as a share of the logits' standard deviation."""


@dataclass(frozen=True)
class Law:
    """Largest difference of logits that ought to be equal, as a share of their spread; whether it is rounding."""

    error: float
    holds: bool


@dataclass(frozen=True)
class Examination:
    """What one strategy did to one prompt.

    Attributes
    ----------
    strategy : str
    tokens_before, tokens_after : int
        Visual tokens.
    sequence_before, sequence_after : int
        Tokens that enter the language model.
    change : float
        Largest change of the next token's logits by pruning.
    laws : dict of str to Law
        "keep all = plain", "drop = mask out" (where tokens are neither merged nor renumbered), "hooks gone".
    """

    strategy: str
    tokens_before: int
    tokens_after: int
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
        return {**self.__dict__, "laws": laws, "healthy": self.healthy}


def prompt_inputs(processor: Any, images: Sequence[Image.Image], questions: Sequence[str]) -> Any:
    """Model inputs for one question about each picture, by the processor's chat template, left-padded."""
    texts = []
    for question in questions:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        message = [{"role": "user", "content": content}]
        texts.append(processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
    processor.tokenizer.padding_side = "left"
    return processor(images=list(images), text=texts, padding=len(texts) > 1, return_tensors="pt")


def mask_out(model: Any, inputs: Mapping[str, Any], prefill: Prefill) -> Tensor:
    """Logits of the last token of the whole prompt, with the dropped tokens masked instead of dropped: (B, vocab)."""
    ids = inputs["input_ids"]
    positions = torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)
    mask = torch.zeros(len(ids), ids.shape[1], dtype=torch.long, device=ids.device)
    mask.scatter_(1, prefill.splice.index, prefill.splice.mask.long())
    logits: Tensor = model(**{**inputs, "attention_mask": mask, "position_ids": positions}).logits[:, -1]
    return logits


@torch.no_grad()
def examine(model: Any, processor: Any, strategy: Any, keep: Any, inputs: Mapping[str, Any]) -> Examination:
    """Run one prompt plainly, with everything kept, pruned, and with the dropped tokens masked out."""
    built = build(strategy)
    inputs = dict(inputs)
    positions = torch.arange(inputs["input_ids"].shape[1], device=inputs["input_ids"].device)[None]
    plain = model(**inputs).logits[:, -1]
    hooks = _hooks(model)
    n_images = len(inputs["pixel_values"])
    each = int(adapter_for(model).image_mask(inputs["input_ids"]).sum()) // n_images
    laws: dict[str, Law] = {}
    if getattr(built, "merger", None) is None and hasattr(built, "merger"):
        with attach(model, built, each, processor=processor):
            laws["keep all = plain"] = _law(model(**inputs).logits[:, -1], plain)
    with attach(model, built, keep, processor=processor) as run:
        pruned = model(**inputs, position_ids=positions).logits[:, -1]
    prefill = run.history[-1]
    if built.positions == "keep" and "keep all = plain" in laws:
        laws["drop = mask out"] = _law(pruned, mask_out(model, inputs, prefill))
    laws["hooks gone"] = Law(0.0, _hooks(model) == hooks)
    return Examination(
        built.name,
        sum(prefill.tokens_before),
        sum(prefill.tokens_after),
        prefill.sequence_before,
        prefill.sequence_after,
        float((pruned - plain).abs().max()),
        laws,
    )


def _law(a: Tensor, b: Tensor) -> Law:
    error = float((a.float() - b.float()).abs().max() / b.float().std().clamp_min(1e-12))
    return Law(error, error <= ROUNDING[a.dtype])


def _hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
