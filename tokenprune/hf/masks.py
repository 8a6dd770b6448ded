"""Attention masks as models of all kinds are given them: which tokens are real, and what nothing can be done with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenprune.core.errors import UnsupportedError

__all__ = ["allowed_in", "check_one_sample_a_row", "hides", "real_tokens"]

_PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "seq_idx")
"""Arguments that say where samples begin that share a row."""


def hides(dtype: torch.dtype) -> float:
    """What a mask of numbers holds where it hides something."""
    return torch.finfo(dtype).min


def allowed_in(mask: Tensor) -> Tensor:
    """Bool: where a mask, of truth values or of numbers to be added, lets a token look."""
    return mask if mask.dtype == torch.bool else mask == 0


def real_tokens(ids: Tensor, given: Any) -> Tensor:
    """Real tokens of a prompt, bool (B, S), from whatever mask the language model is given for it.

    Parameters
    ----------
    ids : int64 Tensor, (B, S)
    given : Tensor, mapping of str to Tensor, or None
        (B, S), or (B, 1, S, L) with L at least S as made ready for a static cache, or one for each kind of layer.

    Raises
    ------
    UnsupportedError
        Another shape, or a mask (B, 1, S, L) that hides more than padding and what is still to come: a shorter prompt
        could not say so.
    """
    length = ids.shape[1]
    by_kind = isinstance(given, Mapping)
    if by_kind:
        given = given.get("full_attention")
    if given is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if isinstance(given, Tensor) and given.ndim == 2:
        return given.bool()
    if not (isinstance(given, Tensor) and given.ndim == 4 and given.shape[2] == length <= given.shape[3]):
        raise UnsupportedError("attach needs an attention_mask of shape (B, S), or (B, 1, S, L), or none")
    allowed = allowed_in(given).expand(len(ids), -1, -1, -1)
    real = allowed[:, 0, -1, :length]  # the last token sees every real one
    if not by_kind:
        square = torch.ones(length, length, dtype=torch.bool, device=given.device).tril()
        plain = square & real.unsqueeze(1)
        differs = (allowed[..., :length] != plain.unsqueeze(1)) & real[:, None, :, None]
        if bool(differs.any()) or bool((allowed[..., length:] & real[:, None, :, None]).any()):
            raise UnsupportedError(
                "attention_mask (B, 1, S, L) hides more than padding and what is still to come (packed samples, a "
                "prefix that sees itself, text hidden from other text?), which attach cannot carry over to fewer "
                "tokens: give a mask (B, S) with one sample a row, or run this prompt without pruning"
            )
    return real


def check_one_sample_a_row(kwargs: Mapping[str, Any], mask: Tensor) -> None:
    """Raise where several samples are packed into one row, kept apart by their position ids or by offsets.

    Parameters
    ----------
    kwargs : mapping
        Arguments of the language model for a prompt.
    mask : bool Tensor, (B, S)
        Real tokens.
    """
    packed = [name for name in _PACKED if kwargs.get(name) is not None]
    positions = kwargs.get("position_ids")
    if not packed and isinstance(positions, Tensor):
        # along several axes a picture's rows go back too, but never to where the prompt began
        counts = positions if positions.ndim == 2 else positions.amax(0)
        again = (counts[:, 1:] < counts[:, :-1]) & mask[:, 1:] & mask[:, :-1]
        if positions.ndim > 2:
            begin = counts.masked_fill(~mask, torch.iinfo(counts.dtype).max).amin(1, keepdim=True)
            again &= counts[:, 1:] == begin
        if bool(again.any()):
            packed = ["position_ids that start again within a row"]
    if packed:
        raise UnsupportedError(
            f"several samples are packed into one row ({', '.join(packed)}), and attach would let them see each "
            "other: give each sample a row of its own, padded, with an attention_mask (B, S)"
        )
