"""Gemma 3: an encoder without [CLS], pooled tokens, windows in most layers, images that see themselves both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenprune.core.errors import UnsupportedError
from tokenprune.core.features import Grid
from tokenprune.hf.adapters.base import Block
from tokenprune.hf.adapters.encoder_attention import Readings
from tokenprune.hf.adapters.llava import PatchesAlone
from tokenprune.hf.adapters.patches import mean_of_windows
from tokenprune.hf.splice import Splice

__all__ = ["Gemma3Adapter"]


class Gemma3Adapter(PatchesAlone):
    """``Gemma3ForConditionalGeneration``.

    Signals are means over the patches pooled into a token. Windows of the sliding layers count the tokens that are
    there, during the prompt as while decoding: what is dropped makes room in the window.
    """

    @property
    def _tokens_per_side(self) -> int:
        return int(self.model.config.mm_tokens_per_image**0.5)

    def blocks(self, modality: str, output: Any, inputs: Mapping[str, Any], readings: Readings) -> list[Block]:
        """One block an image."""
        side = self._tokens_per_side
        each = self.side // side
        signals = {name: [mean_of_windows(name, v, side, each) for v in values] for name, values in readings.items()}
        return [
            Block(side**2, (Grid(side, side),), signals={name: values[i] for name, values in signals.items()})
            for i in range(len(output.pooler_output))
        ]

    def grid(self, n_tokens: int) -> Grid | None:
        """Square grid of tokens."""
        side = self._tokens_per_side
        return Grid(side, side) if side**2 == n_tokens else None

    def project(self, tokens: Tensor) -> Tensor:
        """Norm and matrix: tokens are pooled already."""
        projector: Any = self.core.get_submodule(self.projector)
        weight: Tensor = projector.mm_input_projection_weight
        normed: Tensor = projector.mm_soft_emb_norm(tokens.to(weight.dtype))
        return normed @ weight

    def both_ways(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Each stretch of image tokens, where the processor marked them."""
        types: Tensor | None = inputs.get("token_type_ids")
        if types is None:
            return None
        image: Tensor = types == 1
        begins = image & ~torch.nn.functional.pad(image, (1, 0))[:, :-1]
        return (begins.cumsum(1) - 1).where(image, -1)

    def shorten(self, kwargs: Mapping[str, Any], plan: Splice) -> dict[str, Any]:
        """Both masks, with windows counted over what is left."""
        masks = kwargs.get("attention_mask")
        if not isinstance(masks, dict) or not all(isinstance(m, Tensor) and m.ndim == 4 for m in masks.values()):
            return {}  # nothing that looks both ways: the language model makes its masks from the plain one
        length = masks["full_attention"].shape[2]
        if any(mask.shape[3] != length for mask in masks.values()):
            raise UnsupportedError(
                "the masks of Gemma 3 come ready for a static cache, whose sliding layers cannot be shortened inside "
                "attach: use tokenprune.prepare, or the default dynamic cache"
            )
        same = torch.arange(length, device=plan.index.device)
        if plan.index.shape[1] == length and bool((plan.index == same).all()):
            return {"attention_mask": masks}  # nothing went: padding, too, sees what it saw
        window = self.model.config.get_text_config().sliding_window
        there = torch.arange(plan.mask.shape[1], device=plan.mask.device)
        behind = there.unsqueeze(1) - there
        near = (behind >= 0) & (behind < window)
        full, sliding = (_gathered(masks[name], plan) for name in ("full_attention", "sliding_attention"))
        if full.dtype == torch.bool:
            return {"attention_mask": {"full_attention": full, "sliding_attention": sliding | (full & near)}}
        hidden = full.masked_fill(~near, torch.finfo(full.dtype).min)
        return {"attention_mask": {"full_attention": full, "sliding_attention": torch.maximum(sliding, hidden)}}


def _gathered(mask: Tensor, plan: Splice) -> Tensor:
    """Rows and columns of a mask (B, 1, S, S) at the tokens that are left; padding is seen by itself alone."""
    batch, length = plan.index.shape
    rows = plan.index[:, None, :, None]
    columns = plan.index[:, None, None, :]
    mask = mask.expand(batch, -1, -1, -1)
    part = mask.gather(2, rows.expand(-1, mask.shape[1], -1, mask.shape[3]))
    part = part.gather(3, columns.expand(-1, mask.shape[1], length, -1))
    hides = False if part.dtype == torch.bool else torch.finfo(part.dtype).min
    own = torch.eye(length, dtype=torch.bool, device=mask.device)
    visible = plan.mask[:, None, None, :]
    part = part.masked_fill(~visible & ~own, hides)
    return part.masked_fill(~visible & own, True if part.dtype == torch.bool else 0.0)
