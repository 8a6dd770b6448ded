"""CLIP as a side-car: patches and questions in its joint space, for models whose checkpoint holds neither.

``attach(model, "trim", keep, extra=clip_text(clip, clip_tokenizer, tokenizer))``, with the CLIP that the model's
encoder was taken from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenprune.core.errors import UnsupportedError
from tokenprune.core.features import SIGNALS
from tokenprune.hf.collectors import Collector, Units

__all__ = ["ClipPatches", "ClipQuestion", "clip_text"]


@dataclass(frozen=True)
class ClipPatches(Collector):
    """Patches through CLIP's last norm and visual projection; CLIP itself does that with [CLS] only.

    Parameters
    ----------
    clip : CLIPModel
        Its vision tower must be as wide as the encoder.
    """

    clip: Any
    signal = SIGNALS["joint_visual"]
    requires = frozenset({"hidden"})

    @torch.no_grad()
    def collect(self, units: Units) -> Tensor:
        """Not normalised, (U, N, c)."""
        hidden = units.features["hidden"]
        weight: Tensor = self.clip.visual_projection.weight
        if hidden.shape[-1] != weight.shape[1]:
            raise UnsupportedError(
                f"this CLIP's vision tower is {weight.shape[1]} wide and the encoder of "
                f"{type(units.adapter.model).__name__} {hidden.shape[-1]}: give the CLIP that encoder was taken from"
            )
        states = hidden.to(weight.device, weight.dtype)
        projected: Tensor = self.clip.visual_projection(self.clip.vision_model.post_layernorm(states))
        return projected


@dataclass(frozen=True)
class ClipQuestion(Collector):
    """The prompt's own words, embedded by CLIP's text tower.

    Parameters
    ----------
    clip : CLIPModel
    clip_tokenizer : tokenizer
        Of that CLIP. Longer prompts are cut at what its text tower takes (77 tokens).
    tokenizer : tokenizer
        Of the pruned model, which spells its token ids.
    """

    clip: Any
    clip_tokenizer: Any
    tokenizer: Any
    signal = SIGNALS["joint_text"]
    requires = frozenset({"text"})

    @torch.no_grad()
    def collect(self, units: Units) -> Tensor:
        """Not normalised, (U, 1, c)."""
        rows = zip(units.ids, units.words, strict=True)
        texts = [self.tokenizer.decode(ids[words], skip_special_tokens=True).strip() for ids, words in rows]
        longest = self.clip.config.text_config.max_position_embeddings
        tokens = self.clip_tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        device = self.clip.text_projection.weight.device
        given = {name: tokens[name].to(device) for name in ("input_ids", "attention_mask")}
        embedded = self.clip.get_text_features(**given)
        pooled: Tensor = embedded if isinstance(embedded, Tensor) else embedded.pooler_output
        return pooled.unsqueeze(1)


def clip_text(clip: Any, clip_tokenizer: Any, tokenizer: Any) -> dict[str, Collector]:
    """Both sides of CLIP's joint space, to be handed in as ``extra``.

    Parameters
    ----------
    clip : CLIPModel
    clip_tokenizer : tokenizer
        Of that CLIP.
    tokenizer : tokenizer or processor
        Of the pruned model.
    """
    own = getattr(tokenizer, "tokenizer", tokenizer)
    return {"joint_visual": ClipPatches(clip), "joint_text": ClipQuestion(clip, clip_tokenizer, own)}
