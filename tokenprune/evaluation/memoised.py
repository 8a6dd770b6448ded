"""Memoised layers: what the first layers make of a whole prompt, kept for the strategies that prune behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Memoised", "same_value"]


def same_value(a: Any, b: Any) -> bool:
    """Whether two arguments of a call are equal; tensors to the bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and torch.equal(a, b))
    return bool(a is b or (type(a) is type(b) and a == b))


class Memoised:
    """A function that gives its last result again where it is asked the same.

    Parameters
    ----------
    original : callable
        Pure; its first argument is a tensor.
    least : int, default 65536
        Smaller tensors (a decoding step's) are neither compared nor kept.
    """

    def __init__(self, original: Callable[..., Any], least: int = 65536) -> None:
        self.original, self.least = original, least
        self.known: tuple[tuple[Any, ...], dict[str, Any], Any] | None = None

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Look, then ask."""
        if x.numel() < self.least:
            return self.original(x, *args, **kwargs)
        asked = (x, *args)
        if self.known is not None:
            before, named, made = self.known
            alike = len(before) == len(asked) and named.keys() == kwargs.keys()
            if alike and all(map(same_value, before, asked)) and all(same_value(named[k], kwargs[k]) for k in named):
                return made
        made = self.original(x, *args, **kwargs)
        self.known = (asked, kwargs, made)
        return made
