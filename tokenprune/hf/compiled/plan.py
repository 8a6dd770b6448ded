"""What the host knows about a batch of prompts before the device has seen it: whole numbers in tensors of fixed shape.

Which tokens are kept is decided on the device. Everything else (where text and images stand, what the prompt's own
text is, position ids) follows from the token ids and the sizes of the images, and is worked out here, on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenprune.core.errors import FeatureError
from tokenprune.core.features import Grid
from tokenprune.core.schedule import LayerSchedule
from tokenprune.hf.adapters.base import Observation
from tokenprune.hf.batch import Member, read_batch
from tokenprune.hf.request import Request
from tokenprune.hf.rows import check_one_sample_a_row, real_tokens
from tokenprune.hf.splice import Span

__all__ = ["NOWHERE", "Plan", "plan_prompts", "round_up", "sizes_only"]

NOWHERE: Final = 2**31 - 1
"""Place of what is padding: behind everything."""


@dataclass(frozen=True)
class Plan:
    """A batch of prompts in fixed shapes: B prompts, U units, F places that stay, S tokens before pruning.

    Attributes
    ----------
    tensors : dict of str to Tensor
        ``stay_ids``, ``stay_visual``, ``stay_places`` int64 (B, F): id of a token that stays, its place among the
        visual tokens (-1 where it is text), its place in the prompt (``NOWHERE`` as padding). ``unit_visual``,
        ``unit_places`` (U, N): the same places of prunable tokens. ``stay_positions`` (R, B, F), ``unit_positions``
        (R, U, N): position ids. ``unit_mask`` bool (U, N), where units differ in size. ``rows`` (B, u): units of each
        prompt, -1 as padding. ``text_ids`` and ``text_mask`` (U, T), where text is read. ``stay_block`` (B, F) and
        ``unit_block`` (U, N), where pictures see themselves both ways: which of them, -1 elsewhere.
    members : tuple of tuple of Member
        What each unit consists of.
    grids : tuple of tuple of Grid, or None
        Where the tokens of each unit lie, picture after picture, if that is known of all.
    sizes : tuple of int
        Prunable tokens of each unit.
    owners : tuple of int
        The prompt of each unit.
    """

    tensors: dict[str, Tensor]
    members: tuple[tuple[Member, ...], ...]
    grids: tuple[tuple[Grid, ...], ...] | None
    sizes: tuple[int, ...]
    owners: tuple[int, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """What has to be equal for two plans to run through the same program."""
        shapes = tuple(sorted((name, tuple(value.shape)) for name, value in self.tensors.items()))
        return shapes, self.members, self.grids, self.sizes, self.owners


def round_up(n: int, bucket: int) -> int:
    """The next multiple."""
    return -(-n // bucket) * bucket


def sizes_only(seen: Observation) -> Observation:
    """Visual inputs without their signals, on the host."""
    return Observation(
        {
            modality: [replace(b, fixed=None if b.fixed is None else b.fixed.cpu(), signals={}) for b in blocks]
            for modality, blocks in seen.blocks.items()
        }
    )


def plan_prompts(
    request: Request,
    inputs: Mapping[str, Any],
    sizes: Observation,
    slots: int | None,
    bucket: int,
) -> Plan | None:
    """Lay a batch out.

    Parameters
    ----------
    request : Request
    inputs : mapping
        What the processor returned, on the CPU: ``input_ids``, ``attention_mask`` and what position ids are made of.
    sizes : Observation
        The visual inputs, from :func:`sizes_only`.
    slots : int, optional
        Places that each unit gets; its budget by default (strategies that add tokens need more).
    bucket : int
        Lengths are rounded up to multiples of this.

    Returns
    -------
    Plan or None
        None where no prompt shows anything.
    """
    adapter = request.adapter
    ids = inputs["input_ids"]
    mask = real_tokens(ids, inputs.get("attention_mask"))
    batch = read_batch(request, ids, mask, sizes)
    units = [batch.layout.spans[i] for i in batch.distinct]
    if not units:
        return None
    counts = [len(unit.positions) for unit in units]
    visual = _visual_places(request, ids, sizes)
    stay = mask.clone()
    rows: list[list[int]] = [[] for _ in range(len(ids))]
    for span, owner in zip(batch.layout.spans, batch.owner, strict=True):
        stay[span.row, span.positions] = False
        rows[span.row].append(owner)
    most = max(len(row) for row in rows)
    slots = max(request.budget.counts(counts)) if slots is None else slots
    longest = int(stay.sum(1).max())
    width = round_up(longest + most * slots, bucket) - most * slots
    places = _aligned([row.nonzero().flatten() for row in stay], width)
    here = places.masked_fill(places == NOWHERE, 0)
    positions = inputs.get("position_ids")
    if positions is None:
        positions = adapter.position_ids(inputs, mask)
    else:
        check_one_sample_a_row(positions, mask)
    positions = positions.view(-1, *positions.shape[-2:]).expand(-1, len(ids), -1)
    unit_places = pad_sequence([unit.positions for unit in units], True, 0)
    unit_rows = torch.tensor([unit.row for unit in units])
    axes = torch.arange(len(positions))[:, None, None]
    tensors = {
        "stay_ids": ids.masked_fill(visual >= 0, 0).gather(1, here),
        "stay_visual": visual.gather(1, here),
        "stay_places": places,
        "stay_positions": positions.gather(2, here.expand(len(positions), -1, -1)),
        "unit_visual": visual[unit_rows.unsqueeze(1), unit_places],
        "unit_places": unit_places,
        "unit_positions": positions[axes, unit_rows.unsqueeze(1), unit_places],
        "rows": pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], True, -1),
    }
    if (blocks := adapter.both_ways(inputs)) is not None:
        tensors["stay_block"] = blocks.gather(1, here).where(places != NOWHERE, -1)
        tensors["unit_block"] = blocks[unit_rows.unsqueeze(1), unit_places]
    if len(set(counts)) > 1:
        tensors["unit_mask"] = torch.arange(max(counts)) < torch.tensor(counts).unsqueeze(1)
    if "text" in request.signals:
        tensors |= _text(request, ids, batch.layout.text, [unit.row for unit in units], bucket)
    owners = tuple(unit.row for unit in units)
    if isinstance(request.strategy, LayerSchedule):
        if request.strategy.reads_text:
            _need_text_behind(request, mask & ~adapter.image_mask(ids), units)
        tensors["unit_rows"] = unit_rows
        tensors["unit_slots"] = torch.tensor([owners[:i].count(row) for i, row in enumerate(owners)])
    grids = tuple(batch.grids[i] for i in batch.distinct)
    members = tuple(batch.members[i] for i in batch.distinct)
    return Plan(tensors, members, grids if all(grids) else None, tuple(counts), owners)


def _visual_places(request: Request, ids: Tensor, sizes: Observation) -> Tensor:
    """Which visual token each placeholder stands for, modality after modality, (B, S); -1 at text."""
    places = torch.full_like(ids, -1)
    offset = 0
    for modality in request.adapter.placeholders:
        here = request.adapter.image_mask(ids, modality)
        count, known = int(here.sum()), sum(block.size for block in sizes.blocks.get(modality, []))
        if count != known:
            raise FeatureError(f"input_ids has {count} {modality} placeholders but the {modality}s have {known} tokens")
        places[here] = torch.arange(count) + offset
        offset += count
    return places


def _aligned(rows: list[Tensor], width: int) -> Tensor:
    """Stack, shorter rows padded behind."""
    out = torch.full((len(rows), width), NOWHERE)
    for target, row in zip(out, rows, strict=True):
        target[: len(row)] = row
    return out


def _need_text_behind(request: Request, text: Tensor, units: list[Span]) -> None:
    for unit in units:
        if not bool(text[unit.row, int(unit.positions[-1]) :].any()):
            raise FeatureError(
                f"strategy {request.strategy.name!r} reads the text after the image, and sample {unit.row} has none "
                "there: put the question behind the image"
            )


def _text(request: Request, ids: Tensor, text: Tensor, rows: list[int], bucket: int) -> dict[str, Tensor]:
    words = [ids[row][text[row]] for row in rows]
    silent = [row for row, own in zip(rows, words, strict=True) if not len(own)]
    if silent:
        raise FeatureError(
            f"sample {silent[0]} has an empty prompt (no text of its own) and strategy {request.strategy.name!r} reads "
            "the text: ask a question, or use a strategy that ignores the prompt"
        )
    width = round_up(max(len(own) for own in words), bucket)
    padded = torch.stack([torch.nn.functional.pad(own, (0, width - len(own))) for own in words])
    lengths = torch.tensor([len(own) for own in words]).unsqueeze(1)
    return {"text_ids": padded, "text_mask": torch.arange(width) < lengths}
