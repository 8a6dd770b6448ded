"""A key-value cache of fixed size, written where one tensor points."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, StaticLayer

__all__ = ["FixedCache"]


class _FixedLayer(StaticLayer):  # type: ignore[misc]
    """One layer: a prompt fills it from the start and attends to itself alone; a new token goes to ``place``."""

    def __init__(self, capacity: int, place: Tensor) -> None:
        super().__init__(max_cache_len=capacity)
        self.place = place

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store, and return what to attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = key_states.shape[-2]
        if length > 1:
            # what lies behind a prompt is masked, so a prompt need not look at it
            self.keys[:, :, :length].copy_(key_states)
            self.values[:, :, :length].copy_(value_states)
            return key_states, value_states
        self.keys.index_copy_(2, self.place, key_states)
        self.values.index_copy_(2, self.place, value_states)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Continue row ``beam_idx[i]`` in row i, in the same memory."""
        for kept in (self.keys, self.values):
            kept.copy_(kept.index_select(0, beam_idx))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that a prompt or a new token attends to, and the first of them."""
        return (query_length if query_length > 1 else self.max_cache_len), 0

    def get_seq_length(self) -> int:
        """Nobody counts tokens here: masks and positions are given."""
        return 0


class FixedCache(Cache):  # type: ignore[misc]
    """Keys and values of ``capacity`` tokens in each layer.

    Parameters
    ----------
    layers : int
    capacity : int
    device : torch.device

    Attributes
    ----------
    place : int64 Tensor, (1,)
        Where the next token goes.
    """

    def __init__(self, layers: int, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        self.place = torch.zeros(1, dtype=torch.int64, device=device)
        super().__init__(layers=[_FixedLayer(capacity, self.place) for _ in range(layers)])

    def fill_from(self, other: FixedCache, length: int, copies: int) -> None:
        """Take the first ``length`` tokens of another cache, each of its rows ``copies`` times."""
        for own, read in zip(self.layers, other.layers, strict=True):
            own.keys[:, :, :length].copy_(read.keys[:, :, :length].repeat_interleave(copies, 0))
            own.values[:, :, :length].copy_(read.values[:, :, :length].repeat_interleave(copies, 0))
