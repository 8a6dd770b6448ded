"""Picks of selectors and whole strategies, and tokens that mergers make of them, against what their kinds promise."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tokenprune.core.budget import Budget
from tokenprune.core.features import is_signal, working_precision
from tokenprune.core.groups import Groups, Picks
from tokenprune.core.kinds import Merged, Merger, Problem, Selector
from tokenprune.core.layer_kinds import Appending
from tokenprune.core.strategy import Strategy
from tokenprune.testing.instances import Instance, halves, noisy, refuse, row_of, same_numbers

__all__ = ["try_merger", "try_selector", "try_strategy"]

Rows = list[list[int]]


@dataclass(frozen=True)
class _Found:
    """What came out of a batch, row by row: picks in order, what each kept token is made of, tokens at their places."""

    picks: Rows
    members: list[dict[int, list[tuple[int, float]]]]
    tokens: list[dict[int, Tensor]]
    sequence: Rows

    def row(self, row: int, name: Callable[[int], int]) -> _Row:
        members = {
            name(kept): sorted((name(token), weight) for token, weight in pairs)
            for kept, pairs in self.members[row].items()
        }
        tokens = {name(i): value for i, value in self.tokens[row].items()}
        return _Row([name(i) for i in self.picks[row]], members, tokens, [name(i) for i in self.sequence[row]])


@dataclass(frozen=True)
class _Row:
    picks: list[int]
    members: dict[int, list[tuple[int, float]]]
    tokens: dict[int, Tensor]
    sequence: list[int]

    def differs(self, other: _Row) -> str | None:
        """What is not the same, in a word or two."""
        if self.picks != other.picks:
            return f"picks {other.picks}, here {self.picks}"
        if self.sequence != other.sequence:
            return f"order of merged tokens {other.sequence}, here {self.sequence}"
        for kept, pairs in self.members.items():
            those = other.members.get(kept, [])
            if [t for t, _ in pairs] != [t for t, _ in those] or any(
                abs(a - b) > 1e-6 for (_, a), (_, b) in zip(pairs, those, strict=True)
            ):
                return f"members of token {kept} {those}, here {pairs}"
        for i, value in self.tokens.items():
            if not same_numbers(value, other.tokens[i]):
                return f"merged token {i} {other.tokens[i].tolist()}, here {value.tolist()}"
        return None


def _alone(found: _Found, again: Callable[[Instance, int], _Found], instance: Instance, name: str) -> None:
    """Each row without padding, and with it but without the other rows, must be what it is in the batch."""
    valid = instance.features.valid()
    for row in range(valid.shape[0]):
        real = valid[row].nonzero().flatten().tolist()
        for padded in (False, True):
            single = row_of(instance, row, padded=padded)
            names = (lambda i: i) if padded else real.__getitem__
            before = again(single, row).row(0, names)
            if (what := found.row(row, lambda i: i).differs(before)) is None:
                continue
            if any(again(noisy(single, seed), row).row(0, names).picks != before.picks for seed in range(2)):
                continue  # rounding decides here
            cause = "other rows of the batch decide" if padded else "padding or other rows of the batch decide"
            refuse(f"{name}: {cause} row {row}: alone {what}", instance)


def try_selector(part: Selector, instance: Instance) -> None:
    """Try counts of one, half and all: legal, the same twice, rows apart, and what is declared."""
    real = instance.features.valid()
    sizes = tuple(int(c) for c in real.sum(1))
    asked = [tuple(1 for _ in sizes), tuple((s + 1) // 2 for s in sizes), sizes]
    found = [_select(part, instance, counts) for counts in asked]
    for counts, one in zip(asked, found, strict=True):
        _alone(one, lambda single, row, c=counts: _select(part, single, (c[row],)), instance, repr(part))  # type: ignore[misc]
        if not part.uses_scores:
            other = replace(instance, scores=instance.scores.flip(1) + 1)
            if _select(part, other, counts).picks != one.picks:
                refuse(f"{part!r}: uses_scores is False, and other scores give other picks", instance)
    if not part.uses_budget and any(one.picks != found[0].picks for one in found):
        refuse(f"{part!r}: uses_budget is False, and another budget gives other picks", instance)
    for fewer, more in itertools.pairwise(found):
        for row, (few, many) in enumerate(zip(fewer.picks, more.picks, strict=True)):
            if part.nested and few != many[: len(few)]:
                refuse(f"{part!r}: nested is True, and row {row} picks {few} or, of a larger budget, {many}", instance)
    if part.neutral and part.uses_budget:
        for row, (picks, kept) in enumerate(zip(found[-1].picks, real, strict=True)):
            if sorted(picks) != kept.nonzero().flatten().tolist():
                refuse(f"{part!r}: neutral is True, and of a budget of all row {row} keeps {sorted(picks)}", instance)
    if "frames" not in part.required_signals():  # what compares whole frames says so, and has no candidates
        _candidates(part, instance, sizes)
    for low, _ in halves(instance, list(instance.features)):
        _select(part, replace(low, scores=low.scores.float()), asked[1])


def _problem(instance: Instance, counts: tuple[int, ...], available: Tensor | None = None) -> Problem:
    real = instance.features.valid() if available is None else available
    sizes = tuple(int(c) for c in real.sum(1))
    return Problem(instance.features, instance.scores.clone(), counts, real.clone(), sizes=sizes)


def _candidates(part: Selector, instance: Instance, sizes: tuple[int, ...]) -> None:
    """Of fewer candidates than real tokens, and with picks of an earlier round, only candidates are picked."""
    if min(sizes) < 3:
        return
    available = instance.features.valid().clone()
    first = available.to(torch.int8).argmax(1, keepdim=True)
    available.scatter_(1, first, False)
    counts = tuple((s + 1) // 2 for s in sizes)
    problem = _problem(instance, counts, available)
    # the host may not know how many candidates there are, and an earlier round's picks may be known
    for given in (problem, replace(problem, sizes=None), replace(problem, context=first)):
        _select(part, instance, counts, given)


def _select(part: Selector, instance: Instance, counts: tuple[int, ...], problem: Problem | None = None) -> _Found:
    """Picks that are legal, the same twice, and leave what was given as it was."""
    problem = _problem(instance, counts) if problem is None else problem
    before = [t.clone() for t in (problem.scores, problem.available, problem.features._signals["visual"])]
    picks = part.choose(problem)
    if not isinstance(picks, Picks) or not isinstance(picks.order, Tensor):
        refuse(f"{part!r} must return picks as a tensor, got {picks!r}", instance)
    order, real = picks.order, problem.available
    if order.dtype != torch.long or order.ndim != 2 or len(order) != len(counts):
        refuse(f"{part!r} must return int64 picks with {len(counts)} rows, got {order!r}", instance)
    torch.manual_seed(torch.initial_seed() + 1)
    if not torch.equal(order, part.choose(problem).order) or not torch.equal(order, part.select(problem)):
        refuse(f"{part!r}: picks of the same features differ from call to call", instance)
    after = (problem.scores, problem.available, problem.features._signals["visual"])
    if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
        refuse(f"{part!r} changes the tensors that it was given", instance)
    rows = order.tolist()
    for row, picked in enumerate(rows):
        kept = [i for i in picked if i != -1]
        if any(not 0 <= i < real.shape[1] or not real[row, i] for i in kept):
            refuse(f"{part!r} picks {kept} in row {row}, not all of them available tokens", instance)
        if part.distinct and len(set(kept)) < len(kept):
            refuse(f"{part!r} picks a token twice in row {row}: {kept}", instance)
        if part.own_counts and not kept:
            refuse(f"{part!r} picks no token in row {row}", instance)
        if not part.own_counts and (len(kept) > counts[row] or (part.fills_budget and len(kept) < counts[row])):
            refuse(f"{part!r} picks {kept} in row {row}, asked for {counts[row]}", instance)
    members = _members(part, picks, instance)
    return _Found([[i for i in row if i != -1] for row in rows], members, [{} for _ in rows], [[] for _ in rows])


def _members(part: object, picks: Picks, instance: Instance) -> list[dict[int, list[tuple[int, float]]]]:
    """Who joins whom, by kept token; groups must have the shapes of their features and name real tokens."""
    groups, valid = picks.groups, instance.features.valid()
    shape = tuple(valid.shape)
    none: list[dict[int, list[tuple[int, float]]]] = [{} for _ in range(shape[0])]
    if isinstance(part, Selector) and part.gives_groups and groups is None:
        refuse(f"{part!r}: gives_groups is True, and there are none", instance)
    if groups is None:
        return none
    masks = {**groups.roles, "segment": groups.segment, "part": groups.part}
    for name, mask in masks.items():
        if mask is None:
            continue
        if tuple(mask.shape) != shape:
            refuse(f"{part!r}: groups' {name!r} has shape {tuple(mask.shape)}, features {shape}", instance)
        if name in groups.roles and bool((mask.bool() & ~valid).any()):
            refuse(f"{part!r}: groups' role {name!r} is given to padding", instance)
    if groups.members is None:
        return none
    pairs = groups.members
    weights = torch.zeros(pairs.shape[:2]) if groups.weights is None else groups.weights
    if pairs.ndim != 3 or pairs.shape[0] != shape[0] or pairs.shape[2] != 2 or weights.shape != pairs.shape[:2]:
        refuse(f"{part!r}: groups' members {tuple(pairs.shape)} and weights {tuple(weights.shape)}", instance)
    for row, joined in enumerate(pairs.tolist()):
        kept = {i for i in picks.order[row].tolist() if i >= 0}
        for (token, to), weight in zip(joined, weights[row].tolist(), strict=True):
            if token < 0:
                continue
            if to not in kept or not bool(valid[row, token]) or not weight >= 0:
                refuse(f"{part!r}: token {token} joins {to} with weight {weight} in row {row}, kept {kept}", instance)
            none[row].setdefault(to, []).append((token, weight))
    return none


def try_merger(part: Merger, instance: Instance) -> None:
    """Try picks of one, half and all tokens, in any order: sound tokens at distinct places, rows apart, neutral."""
    sizes = tuple(int(c) for c in instance.features.valid().sum(1))
    draw = torch.Generator().manual_seed(instance.features.n_visual)
    ranks = torch.rand(instance.features.valid().shape, generator=draw)
    for counts in (tuple(1 for _ in sizes), tuple((s + 1) // 2 for s in sizes), sizes):
        picks = _drawn(instance, ranks, counts)
        found = _merge(part, instance, picks)

        def again(single: Instance, row: int, picks: Picks = picks) -> _Found:
            order = [i for i in picks.order[row].tolist() if i >= 0]
            if single.features.n_visual != instance.features.n_visual:
                real = instance.features.valid()[row].nonzero().flatten().tolist()
                order = [real.index(i) for i in order]
            return _merge(part, single, _grouped(single, torch.tensor([order])))

        _alone(found, again, instance, repr(part))
        for low, exact in halves(instance, list(instance.features)):
            _close(part, _merge(part, low, picks), _merge(part, exact, picks), instance)


def _close(part: Merger, halves: _Found, wholes: _Found, instance: Instance) -> None:
    for row, (half, whole) in enumerate(zip(halves.tokens, wholes.tokens, strict=True)):
        for i in half.keys() & whole.keys():
            low, high = half[i].double(), whole[i].double()
            if not torch.allclose(low, high, rtol=0.05, atol=0.05 * float(high.abs().max())):
                what = f"{low.tolist()}, float32 {high.tolist()}"
                refuse(f"{part!r}: merged token {i} of row {row} is off in half precision: {what}", instance)


def _drawn(instance: Instance, ranks: Tensor, counts: Sequence[int]) -> Picks:
    order = ranks.masked_fill(~instance.features.valid(), -1).argsort(1, descending=True)[:, : max(counts)]
    behind = torch.arange(max(counts)) >= torch.tensor(counts).unsqueeze(1)
    return _grouped(instance, order.masked_fill(behind, -1))


def _grouped(instance: Instance, order: Tensor) -> Picks:
    """Picks with groups: every real token joins one kept token, kept ones themselves, by equal shares."""
    valid = instance.features.valid()
    pairs, weights = [], []
    for row in range(len(order)):
        kept = [i for i in order[row].tolist() if i >= 0]
        real = valid[row].nonzero().flatten().tolist()
        to = [i if i in kept else kept[rank % len(kept)] for rank, i in enumerate(real)]
        pairs.append(torch.tensor(list(zip(real, to, strict=True))))
        weights.append(torch.tensor([1 / to.count(i) for i in to], dtype=torch.float64))
    pad = torch.nn.utils.rnn.pad_sequence
    chosen = torch.zeros_like(valid).scatter(1, order.clamp_min(0), True) & valid
    groups = Groups(
        torch.zeros_like(order[:, :1]).expand(valid.shape).masked_fill(~valid, -1),
        torch.zeros_like(order[:, :1]).expand(valid.shape).masked_fill(~valid, -1),
        {"centre": chosen, "salient": torch.zeros_like(valid), "static": torch.zeros_like(valid)},
        pad(pairs, batch_first=True, padding_value=-1),
        pad(weights, batch_first=True),
    )
    return Picks(order, groups)


def _merge(part: Merger, instance: Instance, picks: Picks) -> _Found:
    """Merged tokens of picks: finite, of the width of their space, at distinct real places, as many as there may be."""
    features, valid = instance.features, instance.features.valid()
    given = picks if part.needs_groups else Picks(picks.order)
    before = {n: features._signals[n].clone() for n in features}
    order = picks.order.clone()
    merged = part.merge_picks(features, given)
    sound_merged(part, merged, instance)
    again = part.merge_picks(features, given)
    if not torch.equal(merged.source, again.source) or not torch.equal(merged.tokens, again.tokens):
        refuse(f"{part!r}: merged tokens of the same features differ from call to call", instance)
    if not all(torch.equal(before[n], features._signals[n]) for n in before) or not torch.equal(order, picks.order):
        refuse(f"{part!r} changes the tensors that it was given", instance)
    space = working_precision(features._signals[merged.space])
    for row, source in enumerate(merged.source.tolist()):
        places = [i for i in source if i >= 0]
        kept, size = int((picks.order[row] >= 0).sum()), int(valid[row].sum())
        wanted = kept + (part.added(size - kept) if isinstance(part, Appending) else 0)
        if len(places) != wanted:
            refuse(f"{part!r} makes {len(places)} tokens of {kept} kept ones of {size} in row {row}", instance)
        if part.neutral and kept == size:
            same = same_numbers(merged.tokens[row, :kept], space[row, places])
            if places != sorted(places) or not same:
                refuse(f"{part!r}: neutral is True, and with nothing dropped row {row} becomes {source}", instance)
    return _merged_rows(picks, merged)


def _merged_rows(picks: Picks, merged: Merged) -> _Found:
    rows = [[i for i in row if i >= 0] for row in picks.order.tolist()]
    sequence = [[i for i in row if i >= 0] for row in merged.source.tolist()]
    tokens = [{i: merged.tokens[row, rank] for rank, i in enumerate(places)} for row, places in enumerate(sequence)]
    return _Found(rows, [{} for _ in rows], tokens, sequence)


def sound_merged(part: object, merged: Any, instance: Instance) -> None:
    """Refuse merged tokens of a wrong shape or space, at no places, or with NaN."""
    features, valid = instance.features, instance.features.valid()
    if not isinstance(merged, Merged) or not isinstance(merged.tokens, Tensor) or not isinstance(merged.source, Tensor):
        refuse(f"{part!r} must return Merged, got {merged!r}", instance)
    tokens, source = merged.tokens, merged.source
    if merged.space not in features._signals or not is_signal(merged.space):
        refuse(f"{part!r}: space {merged.space!r} is no signal that it was given", instance)
    width = features._signals[merged.space].shape[-1]
    if source.dtype != torch.long or source.ndim != 2 or tuple(tokens.shape) != (*source.shape, width):
        what = f"{tuple(tokens.shape)} tokens at {tuple(source.shape)} places of {source.dtype}"
        refuse(f"{part!r} returns {what} in the space of {merged.space!r}, {width} wide", instance)
    if len(source) != len(valid) or not tokens.is_floating_point():
        refuse(f"{part!r} returns {len(source)} rows of {tokens.dtype} for {len(valid)}", instance)
    for row, places in enumerate(source.tolist()):
        kept = [i for i in places if i != -1]
        if places[: len(kept)] != kept:
            refuse(f"{part!r}: padding stands before merged tokens in row {row}: {places}", instance)
        if len(set(kept)) < len(kept) or any(not 0 <= i < valid.shape[1] or not valid[row, i] for i in kept):
            refuse(
                f"{part!r}: merged tokens of row {row} stand at {kept}, not all of them distinct real ones", instance
            )
        if not bool(torch.isfinite(tokens[row, : len(kept)]).all()):
            refuse(f"{part!r}: a merged token of row {row} is NaN or infinite", instance)


def try_strategy(part: Strategy, instance: Instance) -> None:
    """Try budgets of one, a share and all: the same twice, rows apart, sound merged tokens."""
    sizes = instance.features.counts()
    for keep in (1, 0.5, 1.0):
        asked = Budget(keep).counts(sizes)
        whole = _chosen(part, instance, asked)
        _alone(whole, lambda one, row, k=asked: _chosen(part, one, (k[row],)), instance, repr(part))  # type: ignore[misc]


def _chosen(part: Strategy, instance: Instance, keep: Sequence[int]) -> _Found:
    selection = part.select(instance.features, tuple(keep))
    torch.manual_seed(torch.initial_seed() + 1)
    if part.select(instance.features, tuple(keep)).order.tolist() != selection.order.tolist():
        refuse(f"{part!r}: picks of the same features differ from call to call", instance)
    if selection.merged is None:
        rows = [[i for i in row if i >= 0] for row in selection.order.tolist()]
        return _Found(rows, [{} for _ in rows], [{} for _ in rows], [[] for _ in rows])
    sound_merged(part, selection.merged, instance)
    return _merged_rows(Picks(selection.order), selection.merged)
