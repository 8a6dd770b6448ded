"""Picks and members of one video, collected as they are found."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenprune.core.groups import Groups, Picks

__all__ = ["Collected"]


class Collected:
    """What becomes of one video's tokens, part after part.

    Parameters
    ----------
    frames, each : int
        Frames, and tokens of a frame.
    device : torch.device
    dtype : torch.dtype
        Of weights.
    """

    def __init__(self, frames: int, each: int, device: torch.device, dtype: torch.dtype) -> None:
        self.each, self.dtype = each, dtype
        self.number = torch.zeros(frames * each, dtype=torch.long, device=device)
        self.part = torch.full_like(self.number, -1)
        self.static = torch.zeros_like(self.number, dtype=torch.bool)
        self.centre = torch.zeros_like(self.static)
        self.order: list[Tensor] = []
        self.pairs: list[Tensor] = []
        self.weights: list[Tensor] = []
        self.parts = 0

    def segment(self, number: int, start: int, end: int) -> None:
        """Number the frames of a segment."""
        self.number[start * self.each : end * self.each] = number

    def begin_part(self) -> None:
        """What is added from here on belongs to a new part."""
        self.parts += 1

    def keep(self, picks: Tensor, *, static: bool = False) -> None:
        """Add kept tokens, in the order in which they go on."""
        self.order.append(picks)
        self.part[picks] = self.parts - 1
        self.static[picks] |= static

    def join(self, tokens: Tensor, kept: Tensor, weights: Tensor) -> None:
        """Note shares of tokens in what becomes of kept ones, all (P,)."""
        self.pairs.append(torch.stack([tokens, kept], dim=-1))
        self.weights.append(weights.to(self.dtype))
        self.centre[kept] = True

    def picks(self, width: int) -> Picks:
        """Everything, as a batch of one row of ``width`` tokens."""
        behind = (0, width - len(self.number))
        none = self.number.new_zeros(0, 2)
        groups = Groups(
            pad(self.number, behind, value=-1).unsqueeze(0),
            pad(self.part, behind, value=-1).unsqueeze(0),
            {name: pad(mask, behind).unsqueeze(0) for name, mask in (("static", self.static), ("centre", self.centre))},
            torch.cat([none, *self.pairs]).unsqueeze(0),
            torch.cat([none.new_zeros(0, dtype=self.dtype), *self.weights]).unsqueeze(0),
        )
        return Picks(torch.cat([none.flatten(), *self.order]).unsqueeze(0), groups)
