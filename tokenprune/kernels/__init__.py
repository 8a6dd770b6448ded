"""Programs for accelerators that replace many small tensor operations by one.

Nothing here is called by users: parts of :mod:`tokenprune.components` look for a program and go on with plain tensor
operations where there is none. A program returns what those operations return; where rounding may differ its docstring
says by how much. ``TOKENPRUNE_KERNELS=0`` in the environment switches all of them off; ``interpret`` runs them on the
CPU too, in Triton's interpreter (for tests; ``TRITON_INTERPRET=1`` must be set before Triton is imported).
"""

from __future__ import annotations

import os
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

__all__ = ["LONGEST_SORT", "constant", "power_of_two", "run_columns", "usable"]

LONGEST_SORT = 4096
"""Rows up to this length are sorted by one program."""


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


def power_of_two(n: int, least: int = 1) -> int:
    """Smallest power of 2 that is at least ``n`` and ``least``; Triton's own costs as much as a launch."""
    return max(least, 1 << (n - 1).bit_length())


def usable(*tensors: Tensor) -> bool:
    """Whether programs run where these tensors lie (a GPU, with Triton installed) and no gradient is asked for."""
    mode = os.environ.get("TOKENPRUNE_KERNELS", "1")
    if mode == "0" or not (tensors[0].is_cuda or mode == "interpret") or not _installed():
        return False
    return not torch.is_grad_enabled() or not any(x.requires_grad for x in tensors)


def run_columns(
    options: dict[str, Any] | None, available: Tensor, counts: tuple[int, ...], repeats: bool
) -> Tensor | None:
    """Picks of the problem with these options; None for None, and where there is no program for it.

    Options of :class:`tokenprune.kernels.columns.Columns`, or with ``tokens`` instead of ``cosine`` of
    :class:`tokenprune.kernels.rounds.Extrema`.
    """
    if options is None:
        return None
    if "tokens" in options:
        from tokenprune.kernels.rounds import Extrema, greedy_rounds  # needs Triton

        return None if repeats else greedy_rounds(Extrema(**options), available, counts)
    from tokenprune.kernels.columns import Columns, greedy_columns

    return greedy_columns(Columns(**options), available, counts, repeats=repeats)


def constant(values: tuple[int, ...], device: torch.device) -> Tensor:
    """Whole numbers of the host as an int64 tensor (B,) that is not to be written to.

    Equal numbers are filled in where they are needed. Others are copied to an accelerator once and remembered, because
    a copy makes the host wait and cannot be part of a captured graph.
    """
    if len(set(values)) == 1:
        return torch.full((len(values),), values[0], device=device)
    return torch.tensor(values) if device.type == "cpu" else _copied(values, device)


@lru_cache(maxsize=256)
def _copied(values: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)
