"""What a caller's masks and position ids may say of the rows of a batch: refused where pruning would lose it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenprune.core.errors import UnsupportedError
from tokenprune.hf.masks import causal

__all__ = ["check_causal", "check_one_sample_a_row", "real_tokens"]


def real_tokens(ids: Tensor, given: Any) -> Tensor:
    """Tokens that are no padding, bool (B, S), from the ``attention_mask`` that came with a prompt, if any did.

    Raises
    ------
    UnsupportedError
        It is a mask of another shape: what it hides would be lost.
    """
    if given is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if not isinstance(given, Tensor) or given.shape != ids.shape:
        got = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise UnsupportedError(
            f"attention_mask must have the shape of input_ids, {tuple(ids.shape)}, got {got}: what a mask of another "
            "shape hides, or counts besides (a learned prefix), would be lost"
        )
    return given.bool()


def check_causal(mask: Tensor, length: int) -> None:
    """Raise where a prompt's own mask (B, 1, S, L) hides more than what comes later and padding.

    Raises
    ------
    UnsupportedError
        Some of what it hides, or shows, would be lost where tokens are dropped.
    """
    if mask.shape[2] != length or length == 1:
        return
    allowed = (mask if mask.dtype == torch.bool else mask > -1)[:, 0, :, :length]
    real = allowed[:, -1]
    usual = causal(length, mask.device) & real.unsqueeze(1)
    if not bool(((allowed == usual) | ~real.unsqueeze(2)).all()):
        raise UnsupportedError(
            "attention_mask (B, 1, S, L) hides more from some tokens than what comes later and padding, or less, and "
            "attach would lose that: pass a mask (B, S), or drop tokens yourself with Strategy.select"
        )


def check_one_sample_a_row(positions: Tensor, mask: Tensor) -> None:
    """Raise where position ids (B, S) or (axes, B, S) start anew inside a row, real tokens being mask (B, S).

    Raises
    ------
    UnsupportedError
        Several samples in one row would see each other.
    """
    if positions.ndim == 3 and len(positions) != 4:
        return  # time, height and width alone: time may well go back
    own = positions if positions.ndim == 2 else positions[0]
    back = (own[:, 1:] < own[:, :-1]) & mask[:, 1:] & mask[:, :-1]
    if bool(back.any()):
        raise UnsupportedError(
            f"position ids start anew in row {int(back.any(1).nonzero()[0])}: several samples are packed into one "
            "row, which pruning cannot keep apart. Give each sample a row of its own, padded"
        )
