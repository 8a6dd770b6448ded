"""Read one encoder layer's attention without switching the encoder to eager attention.

The layer's queries and keys are seen as they meet, after rotary embedding and norms; only the rows asked for are
multiplied out. The [CLS] row costs O(H N) numbers, the attention each patch receives O(H N * chunk), never the whole
O(H N^2) map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from tokenprune.core.features import working_precision
from tokenprune.core.layer_names import split_layer
from tokenprune.hf.attention_tap import tapped
from tokenprune.kernels import usable

__all__ = [
    "CLS_SIGNALS",
    "ENCODER_SIGNALS",
    "LAYER_READINGS",
    "Readings",
    "attention_mean",
    "attention_received",
    "attention_rows",
    "read_layer",
    "wide_attention",
]

Readings = dict[str, list[Tensor]]
"""Signal name -> one tensor for each sequence the encoder attended over (an image, a tile, a frame), in order: shaped
as in :data:`~tokenprune.core.features.SIGNALS` without ``b``, with ``n`` the encoder's own patches in their order."""


def attention_rows(queries: Tensor, keys: Tensor, scale: float, visible: Tensor | None = None) -> Tensor:
    """Attention probabilities of some query rows, in float32 or better.

    Parameters
    ----------
    queries, keys : Tensor, (B, H, r, k) and (B, H, L, k)
    scale : float
        Factor on the logits.
    visible : bool Tensor, (B, L), optional
        False at keys that are padding.

    Returns
    -------
    Tensor, (B, H, r, L)
    """
    if queries.shape[2] == 1 and _by_program(queries, keys):
        from tokenprune.kernels.attention import query_row  # needs Triton

        return query_row(queries, keys, scale, visible)
    logits = working_precision(queries) @ working_precision(keys).mT * scale
    if visible is not None:
        logits = logits.masked_fill(~visible[:, None, None], -torch.inf)
    return logits.softmax(-1)


def _by_program(queries: Tensor, keys: Tensor) -> bool:
    """Whether the programs of :mod:`tokenprune.kernels.attention` take these."""
    alike = queries.shape[:2] == keys.shape[:2] and queries.dtype == keys.dtype != torch.float64
    return alike and queries.stride(3) == keys.stride(3) == 1 and usable(queries, keys)


def attention_received(
    queries: Tensor, keys: Tensor, scale: float, skip: int, chunk: int = 128, visible: Tensor | None = None
) -> Tensor:
    """Sum over patches i != j of the head-mean attention A_ij (MI-Pruner, Eqn 4, right).

    Parameters
    ----------
    queries, keys : Tensor, (B, H, L, k)
    scale : float
        Factor on the logits.
    skip : int
        Leading tokens that are no patches ([CLS]): neither rows nor columns of the result, but part of the softmax.
    chunk : int, default 128
        Query rows multiplied out at a time.
    visible : bool Tensor, (B, L), optional
        False at patches that are padding: they neither give nor receive.

    Returns
    -------
    Tensor, (B, L - skip)
    """
    if _by_program(queries, keys):
        from tokenprune.kernels import attention  # needs Triton

        return attention.received(queries, keys, scale, skip, visible)
    received = queries.new_zeros(queries.shape[0], queries.shape[2], dtype=working_precision(queries).dtype)
    for start, rows in _blocks(queries, keys, scale, skip, chunk, visible):
        received += rows.sum(1)
        own = torch.arange(rows.shape[1], device=rows.device)
        received[:, start + own] -= rows[:, own, start + own]
    return received[:, skip:]


def _visible(mask: Any, keys: Tensor) -> Tensor | None:
    """Keys that some query may see, (B, L), from a mask (B, 1, L, L) or (B, L), bool or additive."""
    if not isinstance(mask, Tensor):
        return None
    allowed = mask if mask.dtype == torch.bool else mask > -1 if mask.is_floating_point() else mask > 0
    if allowed.ndim == 4:
        allowed = allowed.any(1).any(1)
    return allowed.expand(keys.shape[0], -1)


def _blocks(
    queries: Tensor, keys: Tensor, scale: float, first: int, chunk: int, visible: Tensor | None
) -> Iterator[tuple[int, Tensor]]:
    """Head-mean attention of some query rows at a time, from ``first`` on, padding rows zero: (start, (B, rows, L))."""
    for start in range(first, queries.shape[2], chunk):
        rows = attention_rows(queries[:, :, start : start + chunk], keys, scale, visible).mean(1)
        yield start, rows if visible is None else rows * visible[:, start : start + chunk, None]


def attention_mean(
    queries: Tensor, keys: Tensor, scale: float, skip: int, chunk: int = 128, visible: Tensor | None = None
) -> Tensor:
    """Mean over heads and all real query rows of the attention that each patch receives (HiPrune).

    Rows of leading tokens and a patch's own row count, unlike in :func:`attention_received`.

    Parameters
    ----------
    queries, keys, scale, skip, chunk, visible
        As there.

    Returns
    -------
    Tensor, (B, L - skip)
    """
    received = queries.new_zeros(queries.shape[0], queries.shape[2], dtype=working_precision(queries).dtype)
    for _, rows in _blocks(queries, keys, scale, 0, chunk, visible):
        received += rows.sum(1)
    count = queries.shape[2] if visible is None else visible.sum(1, keepdim=True)
    return received[:, skip:] / count


def wide_attention(queries: Tensor, keys: Tensor, visible: Tensor | None = None) -> Tensor:
    """Attention with all heads taken as one of their whole width, scaled by its root (PruMerge).

    Parameters
    ----------
    queries, keys : Tensor, (B, r, w) and (B, L, w)
        Heads side by side, as projections leave them.
    visible : bool Tensor, (B, L), optional
        False at keys that are padding.

    Returns
    -------
    Tensor, (B, r, L)
    """
    return attention_rows(queries.unsqueeze(1), keys.unsqueeze(1), queries.shape[-1] ** -0.5, visible)[:, 0]


@dataclass(frozen=True)
class _Seen:
    """What a layer attends with: queries and keys (B, H, L, k), the factor on logits, real keys, leading tokens."""

    queries: Tensor
    keys: Tensor
    scale: float
    visible: Tensor | None
    skip: int


def _wide(heads: Tensor) -> Tensor:
    return rearrange(working_precision(heads), "b h n k -> b n (h k)")


def _cls_wide(seen: _Seen) -> Tensor:
    return wide_attention(_wide(seen.queries[:, :, :1]), _wide(seen.keys), seen.visible)[:, 0, seen.skip :]


LAYER_READINGS: Mapping[str, Callable[[_Seen], Tensor]] = {
    "cls_attention": lambda s: attention_rows(s.queries[:, :, :1], s.keys, s.scale, s.visible)[:, :, 0, s.skip :],
    "cls_wide_attention": _cls_wide,
    "received_attention": lambda s: attention_received(s.queries, s.keys, s.scale, s.skip, visible=s.visible),
    "mean_attention": lambda s: attention_mean(s.queries, s.keys, s.scale, s.skip, visible=s.visible),
    "keys": lambda s: working_precision(s.keys).mean(1)[:, s.skip :],
    "queries": lambda s: working_precision(s.queries).mean(1)[:, s.skip :],
    "head_keys": lambda s: working_precision(s.keys)[:, :, s.skip :],
    "head_queries": lambda s: working_precision(s.queries)[:, :, s.skip :],
    "wide_keys": lambda s: _wide(s.keys)[:, s.skip :],
    "wide_queries": lambda s: _wide(s.queries)[:, s.skip :],
}
"""Signals that a layer's attention function sees, and how each is made of its queries and keys."""

CLS_SIGNALS = frozenset({"cls_attention", "cls_wide_attention", "encoder_cls"})
"""Signals that only an encoder with [CLS] has."""

ENCODER_SIGNALS = frozenset({*LAYER_READINGS, "encoder_cls", "hidden"})
"""Signals that come from one encoder layer."""


@contextmanager
def read_layer(
    layer: nn.Module, attention: nn.Module, config: Any, signals: Iterable[str], *, has_cls: bool = False
) -> Iterator[Readings]:
    """While open, note what a layer's attention says about each sequence that the encoder attends over.

    Parameters
    ----------
    layer : Module
        Encoder layer; its output holds the [CLS] feature.
    attention : Module
        Its attention module.
    config : PretrainedConfig
        In which the module looks its attention implementation up.
    signals : iterable of str
        Which of :data:`ENCODER_SIGNALS` to compute, under the names by which they are asked for (``keys@-1``).
    has_cls : bool, default False
        Whether token 0 is [CLS].
    """
    kinds = {name: split_layer(name)[0] for name in signals}
    found: Readings = {name: [] for name, kind in kinds.items() if kind in ENCODER_SIGNALS}
    attended = {name: LAYER_READINGS[kind] for name, kind in kinds.items() if kind in LAYER_READINGS}
    skip = int(has_cls)

    @torch.no_grad()
    def tap(queries: Tensor, keys: Tensor, scale: float, more: Mapping[str, Any]) -> None:
        visible = _visible(more.get("attention_mask"), keys)
        for q, k in _sequences(queries, keys, more):
            seen = _Seen(q, k, scale, visible, skip)
            for name, read in attended.items():
                found[name].extend(read(seen))

    def after(_module: nn.Module, _args: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        states = states if states.ndim == 3 else states.unsqueeze(0)  # packed into one row
        for name in found.keys() - attended.keys():
            found[name].extend(states[:, 0] if kinds[name] == "encoder_cls" else states[:, skip:])

    with ExitStack() as stack:
        if attended:
            stack.enter_context(tapped(config, {attention: tap}))
        if found.keys() - attended.keys():
            stack.callback(layer.register_forward_hook(after).remove)
        yield found


def _sequences(queries: Tensor, keys: Tensor, more: Mapping[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Split sequences that were packed into one row for a variable-length kernel."""
    bounds = more.get("cu_seq_lens_q")
    if bounds is None:
        yield queries, keys
        return
    lengths = (bounds[1:] - bounds[:-1]).tolist()
    yield from zip(torch.split(queries, lengths, 2), torch.split(keys, lengths, 2), strict=True)
