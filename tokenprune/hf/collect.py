"""From a batch of prompts to the features of its pruning units: exactly the signals that the strategy reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokenprune.core.errors import FeatureError, UnsupportedError
from tokenprune.core.features import LAYOUTS, Features, Grid, signal_of
from tokenprune.hf.adapters.base import FROM_PIXELS, ModelAdapter, Observation
from tokenprune.hf.batch import Batch, Member
from tokenprune.hf.collectors import Units
from tokenprune.hf.encoded import Encoded, tokens_of
from tokenprune.hf.request import Request
from tokenprune.kernels import constant

__all__ = ["collect", "embedded", "gathered"]


def embedded(adapter: ModelAdapter, ids: Tensor, encoded: Encoded) -> Tensor:
    """Embeddings of a batch of prompts with the features of its visual inputs in place.

    Parameters
    ----------
    adapter : ModelAdapter
    ids : int64 Tensor, (B, S)
    encoded : Encoded
        All the prompts' visual inputs.

    Returns
    -------
    Tensor, (B, S, d)

    Raises
    ------
    FeatureError
        Placeholders are not as many as the features.
    """
    embeds = adapter.embed_text(ids)
    for modality in adapter.placeholders:
        here = adapter.image_mask(ids, modality)
        output = encoded.outputs.get(modality)
        features = embeds.new_zeros(0, embeds.shape[-1]) if output is None else tokens_of(output)
        if int(here.sum()) != len(features):
            raise FeatureError(
                f"input_ids has {int(here.sum())} {modality} placeholders but the {modality}s have {len(features)} "
                "tokens"
            )
        embeds = embeds.masked_scatter(here.unsqueeze(-1), features.to(embeds.dtype))
    return embeds


def collect(request: Request, ids: Tensor, embeds: Tensor, batch: Batch, seen: Observation) -> Features:
    """Gather, for each distinct unit, exactly the signals that the strategy reads.

    Parameters
    ----------
    request : Request
    ids : int64 Tensor, (B, S)
    embeds : Tensor, (B, S, d)
        Embeddings with image features in place.
    batch : Batch
    seen : Observation
        What the hooks saw of these images.

    Raises
    ------
    FeatureError
        The strategy reads the prompt and a sample has none.
    UnsupportedError
        The strategy reads an encoder signal and the images were encoded elsewhere.
    """
    name, needed = request.strategy.name, request.signals
    spans = [batch.layout.spans[i] for i in batch.distinct]
    visual, visual_mask = _padded([embeds[s.row, s.positions] for s in spans], 0)
    text = text_mask = None
    if "text" in needed:
        silent = [s.row for s in spans if not bool(batch.layout.text[s.row].any())]
        if silent:
            raise FeatureError(
                f"sample {silent[0]} has an empty prompt (no text of its own) and strategy {name!r} reads the text: "
                "ask a question, pass text='all', text='<words of the prompt>' or a mask, or use a strategy that "
                "ignores the prompt"
            )
        text, text_mask = _padded([embeds[s.row, batch.layout.text[s.row]] for s in spans], 0)
    grids = [batch.grids[i] for i in batch.distinct]
    members = [batch.members[i] for i in batch.distinct]
    known = grids if all(grids) else None
    features = gathered(request, visual, visual_mask, text, text_mask, members, known, seen)
    rows = torch.tensor([span.row for span in spans], device=ids.device)
    return request.sources.complete(features, Units(request.adapter, features, ids[rows], batch.layout.text[rows]))


def gathered(
    request: Request,
    visual: Tensor,
    visual_mask: Tensor | None,
    text: Tensor | None,
    text_mask: Tensor | None,
    members: Sequence[tuple[Member, ...]],
    grids: Sequence[Sequence[Grid]] | None,
    seen: Observation,
    *,
    check: bool = True,
    sizes: Sequence[int] | None = None,
) -> Features:
    """Features of some units, given what is taken from their embeddings; other signals come from what was observed.

    Parameters
    ----------
    request : Request
    visual, visual_mask, text, text_mask
        As in :class:`~tokenprune.core.features.Features`.
    members : sequence of tuple of Member
        What each unit consists of.
    grids : sequence of sequence of Grid, or None
        Of each unit's pictures, if it is known of all.
    seen : Observation
    check, sizes
        As in :class:`~tokenprune.core.features.Features`.
    """
    if "frames" in request.signals and (grids is None or any(len(several) > 1 for several in grids)):
        raise UnsupportedError(
            f"strategy {request.strategy.name!r} needs to know which frame a token belongs to, and for these visual "
            "inputs that is not known: they were encoded elsewhere, or a unit holds several that are no frames of one "
            "size"
        )
    if "places" in request.signals and grids is None:
        raise UnsupportedError(
            f"strategy {request.strategy.name!r} needs to know the row and column of each token, and for these visual "
            "inputs that is not known: they were encoded elsewhere"
        )
    signals: dict[str, Any] = {}
    for signal in sorted(request.signals - {"visual", "text"} - LAYOUTS.keys()):
        if signal in FROM_PIXELS and not _pixels_seen(members, seen):
            continue
        signals[signal] = _joined(signal, members, seen, request.strategy.name)
    for lacking, other in request.substitutes.items():
        received = signals[other]
        shares = received / received.sum(1, keepdim=True)
        signals[lacking] = shares.unsqueeze(1) if "h" in signal_of(lacking).shape.split() else shares
    return Features(
        visual,
        text,
        visual_mask=visual_mask,
        text_mask=text_mask,
        grid=grids,
        check=check,
        sizes=sizes,
        extra=None,
        **signals,
    )


def _pixels_seen(units: Sequence[tuple[Member, ...]], seen: Observation) -> bool:
    """Whether all visual inputs were encoded here, from pixels."""

    def drawn(member: Member) -> bool:
        return any(b.signals.keys() >= FROM_PIXELS for b in seen.blocks.get(member.modality, [])[member.block :][:1])

    return all(members and all(map(drawn, members)) for members in units)


def _joined(signal: str, units: Sequence[tuple[Member, ...]], seen: Observation, strategy: str) -> Tensor:
    """Concatenate a signal over the visual inputs of each unit and stack the units."""
    letters = signal_of(signal).shape.split()[1:]
    axis = letters.index("n") if "n" in letters else None
    rows = []
    for members in units:
        blocks = [seen.blocks.get(m.modality, [])[m.block : m.block + 1] for m in members]
        if not members or not all(block and signal in block[0].signals for block in blocks):
            raise UnsupportedError(
                f"strategy {strategy!r} needs the signal {signal!r}, which is read while visual inputs are encoded; "
                "these were encoded elsewhere (precomputed mm_encoder_outputs?), or this kind of input has none: pass "
                "pixel_values, or use a strategy that does not read it"
            )
        values = [block[0].signals[signal] for block in blocks]
        if axis is None:
            rows.append(values[0])
        else:
            parts = [v.narrow(axis, m.start, m.stop - m.start) for v, m in zip(values, members, strict=True)]
            rows.append(torch.cat(parts, axis))
    return torch.stack(rows) if axis is None else _padded(rows, axis)[0]


def _padded(rows: Sequence[Tensor], axis: int) -> tuple[Tensor, Tensor | None]:
    """Stack tensors that may differ along one axis: the stack and, where they do, a mask over that axis."""
    sizes = [row.shape[axis] for row in rows]
    longest = max(sizes)
    if min(sizes) == longest:
        return torch.stack(list(rows)), None
    out = rows[0].new_zeros(len(rows), *rows[0].shape[:axis], longest, *rows[0].shape[axis + 1 :])
    for i, row in enumerate(rows):  # not over `out`: autograd refuses to write into what iterating a tensor yields
        out[i].narrow(axis, 0, row.shape[axis]).copy_(row)
    limit = constant(tuple(sizes), out.device).unsqueeze(-1)
    return out, torch.arange(longest, device=out.device) < limit
