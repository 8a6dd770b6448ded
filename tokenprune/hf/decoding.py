"""What layers look at while decoding: hide visual tokens from later layers, by the attention of an earlier one.

Places are those of the sequence that entered the language model, so that layers whose caches differ in length (because
events between layers dropped tokens) each find their own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenprune.core.errors import UnsupportedError
from tokenprune.core.features import working_precision
from tokenprune.core.layer_kinds import DecodeRule
from tokenprune.hf.splice import Layout

__all__ = ["Decoding"]


class Decoding:
    """Decoding one batch of prompts under a rule.

    Parameters
    ----------
    rule : DecodeRule
    source : int64 Tensor, (B, M)
        For the layer whose attention decides: place of each of its tokens among those that entered.
    layout : Layout
        Of that layer.
    """

    def __init__(self, rule: DecodeRule, source: Tensor, layout: Layout) -> None:
        self.rule, self.source, self.layout = rule, source, layout
        self.rows = torch.tensor([span.row for span in layout.spans], device=source.device)
        self.places = pad_sequence([span.positions for span in layout.spans], batch_first=True, padding_value=-1)
        self.before: Tensor | None = None
        self.waits = False
        self._entered = int(source.max()) + 1
        self._hidden: Tensor | None = None

    def begin(self, fresh: int) -> None:
        """A step begins; several new tokens at once see everything, and count as no step."""
        self.waits, self._hidden = fresh == 1, None

    @torch.no_grad()
    def look(self, query: Tensor, key: Tensor, scaling: float, softcap: float | None) -> None:
        """Decide from what the new token attends to: query (B, H, 1, k), key (B, G, L, k) after rotary embedding."""
        self.waits = False
        if len(query) != len(self.source):
            raise UnsupportedError(
                f"{len(query)} rows are decoded where the prompts were {len(self.source)}: a strategy that acts while "
                "decoding remembers rows, and needs one for each prompt"
            )
        attention = self._attention(working_precision(query), working_precision(key), scaling, softcap)
        valid = self.places >= 0
        shown = self.rule.visible(attention, self.before, valid)
        self.before = attention
        unseen = valid & ~shown
        if bool(unseen.any()):
            hidden = torch.zeros(len(self.source), self._entered, dtype=torch.bool, device=query.device)
            entered = self.source[self.rows].gather(1, self.places.clamp_min(0))
            hidden[self.rows.unsqueeze(1).expand_as(entered)[unseen], entered[unseen]] = True
            self._hidden = hidden

    def hidden_in(self, source: Tensor) -> Tensor | None:
        """Hidden places of a layer, given where its tokens come from: (B, m) -> bool (B, m); None where none is."""
        return None if self._hidden is None else self._hidden.gather(1, source)

    def _attention(self, query: Tensor, key: Tensor, scaling: float, softcap: float | None) -> Tensor:
        """Attention over each span's visual tokens, mean over heads, (U, N), 0 at padding."""
        groups = query.reshape(len(query), key.shape[1], -1, query.shape[-1])
        logits = groups @ key.mT * scaling
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        mask = self.layout.mask
        real = torch.cat([mask, mask.new_ones(len(mask), key.shape[2] - mask.shape[1])], dim=1)
        weights = logits.masked_fill(~real[:, None, None], -torch.inf).softmax(-1).mean((1, 2))
        return weights[self.rows].gather(1, self.places.clamp_min(0)).masked_fill(self.places < 0, 0)
