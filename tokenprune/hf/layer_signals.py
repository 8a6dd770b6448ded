"""What a decoder layer says about visual tokens: rows of its attention and its keys, at places of each unit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from tokenprune.core.features import working_precision
from tokenprune.core.indexing import gather_tokens
from tokenprune.core.schedule import LayerEvent

__all__ = ["CAPTURED", "Places", "layer_signals"]

CAPTURED = frozenset({"attention", "llm_keys", "text_keys"})
"""Signals that only a layer's attention function sees."""


@dataclass(frozen=True)
class Places:
    """Where each unit's tokens stand in a batch of sequences.

    Attributes
    ----------
    rows : int64 Tensor, (U,)
        The unit's sample.
    visual : int64 Tensor, (U, K)
        Its visual tokens, -1 as padding.
    text : int64 Tensor, (U, T)
        Text tokens behind them, -1 as padding.
    last : int64 Tensor, (U, 1)
        The last of these.
    single : bool, default False
        Every sample has one unit, in order, and its real tokens come first: less has to be looked up.
    """

    rows: Tensor
    visual: Tensor
    text: Tensor
    last: Tensor
    single: bool = False

    def of(self, x: Tensor, places: Tensor) -> Tensor:
        """Gather (B, M, ...) at each unit's places: (U, K, ...), zero at padding."""
        return gather_tokens(self.samples(x), places)

    def samples(self, x: Tensor) -> Tensor:
        """The sample of each unit, of (B, ...): (U, ...)."""
        return x if self.single else x[self.rows]

    def hidden(self, mask: Tensor, rows: Tensor) -> Tensor:
        """Bool (U, R, M): what the tokens at ``rows`` do not see of the real ones in ``mask`` (B, M)."""
        place = torch.arange(mask.shape[1], device=mask.device)
        if self.single:  # what comes before a real token is real
            return place > rows.unsqueeze(-1)
        return ~((place <= rows.unsqueeze(-1)) & mask[self.rows].unsqueeze(1))


@torch.no_grad()
def layer_signals(
    places: Places,
    mask: Tensor,
    event: LayerEvent,
    query: Tensor,
    key: Tensor,
    scaling: float,
    softcap: float | None = None,
) -> dict[str, Tensor]:
    """Multiply out what an event reads of a layer's attention, and nothing else.

    Parameters
    ----------
    places : Places
    mask : bool Tensor, (B, M)
        Real tokens.
    event : LayerEvent
    query, key : Tensor, (B, H, M, k) and (B, G, M, k)
        After rotary embedding.
    scaling : float
    softcap : float, optional

    Returns
    -------
    dict of str to Tensor
        Those of :data:`CAPTURED` that the event requires.
    """
    found: dict[str, Tensor] = {}
    flat = rearrange(key, "b g m k -> b m (g k)")
    if "llm_keys" in event.requires:
        found["llm_keys"] = places.of(flat, places.visual)
    if "text_keys" in event.requires:
        found["text_keys"] = places.of(flat, places.text)
    if "attention" not in event.requires:
        return found
    # padding rows repeat the last one, which is real; the text mask leaves them out
    rows = places.last if event.rows != "text" else places.text.where(places.text >= 0, places.last)
    asking = rows[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])
    queries = working_precision(places.samples(query).gather(2, asking))
    keys = working_precision(places.samples(key))
    groups = rearrange(queries, "u (g q) r k -> u g q r k", g=keys.shape[1])
    logits = groups @ keys.unsqueeze(2).mT * scaling
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    unseen = places.hidden(mask, rows)[:, None, None]
    weights = rearrange(logits.masked_fill(unseen, -torch.inf).softmax(-1), "u g q r m -> u (g q) r m")
    columns = places.visual.clamp_min(0)[:, None, None, :].expand(*weights.shape[:3], -1)
    found["attention"] = weights.gather(-1, columns)
    return found
