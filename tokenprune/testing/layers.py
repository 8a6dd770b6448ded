"""What acts between layers, of the language model or of the vision encoder: run on numbers, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenprune.core.budget import Budget
from tokenprune.core.encoder_kinds import EncoderStage, EncoderView
from tokenprune.core.errors import CheckError, UnsupportedError
from tokenprune.core.features import Features, is_signal, signal_of
from tokenprune.core.indexing import gather_tokens
from tokenprune.core.layer_kinds import DecodeRule, KeepRule, LayerContext, Measure
from tokenprune.core.schedule import LAYER_SIGNALS, LayerEvent, LayerSchedule
from tokenprune.testing.instances import Instance, noisy, refuse, row_of, same_numbers
from tokenprune.testing.picks import sound_merged

__all__ = ["LAYER_SHAPES", "depths", "try_decode_rule", "try_measure", "try_rule", "try_schedule", "try_stage"]

LAYER_SHAPES: Final[Mapping[str, str]] = {
    name: meaning.rpartition(", ")[2] for name, meaning in LAYER_SIGNALS.items() if not is_signal(name)
}
"""Shapes of signals that exist between layers only, as :data:`~tokenprune.core.schedule.LAYER_SIGNALS` gives them."""


def depths(part: LayerSchedule) -> tuple[int, ...]:
    """Decoder layers of models to try: deep and shallow where layers are scaled, else the least there may be."""
    if part.reference_layers is not None:
        return (8, 4)
    for depth in range(2, 129):
        try:
            part.placed(depth)
            part.decoding_layer(depth)
        except UnsupportedError:
            continue
        return (depth + 1, depth + 4)
    raise CheckError(f"{part!r} acts in no language model of up to 128 layers")


def shapes_between(part: LayerSchedule, depth: int) -> dict[str, str]:
    """Signals that a run needs of each layer, under names of their own: ``attention#7``."""
    found = {}
    for layer, event in part.placed(depth):
        for name in _read(event) & LAYER_SIGNALS.keys() - {"part"}:
            shape = signal_of(name).shape if is_signal(name) else LAYER_SHAPES[name]
            rows = "t" if event.rows == "text" else "1"
            found[f"{name}#{layer}"] = shape.replace(" r ", f" {rows} ")
    return found


def _read(event: LayerEvent) -> frozenset[str]:
    """What is collected for an event: rows of text come with the text and its mask."""
    return event.requires | ({"visual", "text"} if event.reads_text else {"visual"})


@dataclass(frozen=True)
class _Ran:
    """Tokens of each row after the start and after every act, and how many each layer saw."""

    after: list[list[list[int]]]
    counts: list[tuple[int, ...]]


def try_schedule(part: LayerSchedule, instance: Instance, depth: int) -> None:
    """Run all acts in turn: sound at each place, rows apart, and as many tokens as the schedule says beforehand."""
    sizes = instance.features.counts()
    for keep in (1, 0.5, 1.0):
        budget = Budget(keep).counts(sizes)
        ran = _run(part, instance, budget, depth)
        again = _run(part, instance, budget, depth)
        if ran.after != again.after:
            refuse(f"{part.name!r}: the same numbers leave other tokens from run to run", instance)
        if part.uses_budget and not part.own_counts and part.follows:
            for row, size in enumerate(sizes):
                said = part.tokens_per_layer(size, depth, budget[row])
                if ran.counts[row] != said:
                    what = f"{said} tokens in {depth} layers, {ran.counts[row]} were there"
                    refuse(f"{part.name!r} says of {size} tokens and a budget of {budget[row]}: {what}", instance)
        for row in range(len(sizes)):
            _row_alone(part, instance, budget[row], depth, ran, row)


def _row_alone(part: LayerSchedule, instance: Instance, keep: int, depth: int, ran: _Ran, row: int) -> None:
    real = instance.features.valid()[row].nonzero().flatten().tolist()
    for padded in (False, True):
        single = row_of(instance, row, padded=padded)
        alone = _run(part, single, (keep,), depth)
        names = list(range(instance.features.n_visual)) if padded else real
        steps = [[names[i] for i in step[0]] for step in alone.after]
        if steps == [step[row] for step in ran.after]:
            continue
        if any(_run(part, noisy(single, seed), (keep,), depth).after != alone.after for seed in range(2)):
            continue
        cause = "other rows of the batch decide" if padded else "padding or other rows of the batch decide"
        what = f"{[step[row] for step in ran.after]} are left, alone {steps}"
        refuse(f"{part.name!r}: {cause} row {row}: {what}", instance)


def _run(part: LayerSchedule, instance: Instance, budget: Sequence[int], depth: int) -> _Ran:
    features = instance.features
    entered = part.enter(features, Budget(tuple(budget)))
    if entered.merged is not None:
        sound_merged(part.before, entered.merged, instance)
    origin = [row[row >= 0] for row in entered.sequence]
    context = part.begin(tuple(budget), tuple(map(len, origin)), depth)
    groups = None if entered.groups is None else entered.groups.part
    if part.measures:
        context = part.measure(_between(features, origin, None, part.measures, groups), context)
    acts, after, counts = dict(part.placed(depth)), [[o.tolist() for o in origin]], []
    for layer in range(depth):
        counts.append(tuple(map(len, origin)))
        if layer not in acts:
            continue
        event, context = acts[layer], replace(context, layer=layer)
        given = _between(features, origin, layer, event, groups)
        _try_counts(event.rule, replace(context, present=tuple(given.counts())), instance)
        selection, context = event.decide(given, context)
        if selection.merged is not None:
            there = replace(instance, features=given)
            sound_merged(event.strategy, selection.merged, there)
        origin = [o[row[row >= 0]] for o, row in zip(origin, selection.sequence, strict=True)]
        after.append([o.tolist() for o in origin])
    return _Ran(after, list(zip(*counts, strict=True)))


def _between(
    features: Features,
    origin: list[Tensor],
    layer: int | None,
    reads: LayerEvent | tuple[Measure, ...],
    groups: Tensor | None,
) -> Features:
    """What exists at a layer, for the tokens that are still there; at the start where there is none."""
    if isinstance(reads, LayerEvent):
        needs = _read(reads)
    else:
        needs = frozenset().union(*(measure.required_signals() for measure in reads))
    places = pad_sequence(origin, batch_first=True, padding_value=-1)
    given: dict[str, Any] = {}
    own: dict[str, Tensor] = {}
    for name in sorted(needs - {"visual"}):
        if name == "part" and groups is not None:
            own[name] = groups.gather(1, places.clamp_min(0)).masked_fill(places < 0, -1)
            continue
        key = name if layer is None or name not in LAYER_SIGNALS else f"{name}#{layer}"
        if key not in features:
            continue  # measured before, or missing: the event says so
        shape = (signal_of(name).shape if is_signal(name) else LAYER_SHAPES[name]).split()
        value = features._signals[key]
        if "n" in shape:
            axis = shape.index("n")
            value = gather_tokens(value.movedim(axis, 1), places).movedim(1, axis)
        (given if is_signal(name) else own)[name] = value
    visual = features._signals["visual" if layer is None else f"visual#{layer}"]
    return Features(
        gather_tokens(visual, places),
        visual_mask=places >= 0,
        text_mask=features.text_mask if "text" in given else None,
        extra=own or None,
        check=True,
        sizes=None,
        **given,
    )


def _try_counts(part: KeepRule, context: LayerContext, where: object) -> tuple[int, ...]:
    counts = part.counts(context)
    sound = isinstance(counts, tuple) and all(isinstance(c, int) and not isinstance(c, bool) for c in counts)
    if not sound or len(counts) != len(context.keep):
        raise CheckError(
            f"{part!r} must return a whole number for each of {len(context.keep)} units, got {counts!r}\n"
            f"smallest instance found: {context if where is None else where}"
        )
    if part.counts(context) != counts:
        raise CheckError(f"{part!r}: the same context gives other counts\nsmallest instance found: {context}")
    return counts


def try_rule(part: KeepRule) -> int:
    """Whole numbers, one for each unit, which does not depend on the others; -1 where counts follow from measures."""
    if not part.follows:
        return -1
    tried = 0
    for sizes in ((1,), (2, 5), (7, 3, 12)):
        for layers, layer in (((2,), 2), ((1, 3, 5), 3)):
            keep = tuple((n + 1) // 2 for n in sizes)
            context = LayerContext(keep, sizes, sizes, 8, layers, layer)
            counts = _try_counts(part, context, None)
            for unit, count in enumerate(counts):
                alone = replace(context, keep=keep[unit : unit + 1], entered=sizes[unit : unit + 1])
                alone = replace(alone, present=sizes[unit : unit + 1])
                if _try_counts(part, alone, None) != (count,):
                    what = f"other units decide how many tokens unit {unit} keeps: {count} among them"
                    raise CheckError(f"{part!r}: {what}\nsmallest instance found: {context}")
            tried += 1
    return tried


def try_decode_rule(part: DecodeRule, instance: Instance) -> None:
    """Real tokens only, the same twice, rows apart."""

    def seen(one: Instance, first: bool) -> Tensor:
        valid = one.features.valid()
        attention = one.scores.abs().masked_fill(~valid, 0)
        before = None if first else attention.flip(0) if len(attention) == 1 else attention * 0.5 + valid * 0.1
        visible = part.visible(attention, before, valid)
        if not isinstance(visible, Tensor) or visible.dtype != torch.bool or visible.shape != valid.shape:
            refuse(f"{part!r} must return bool {tuple(valid.shape)}, got {visible!r}", one)
        if bool((visible & ~valid).any()):
            refuse(f"{part!r} shows padding: {visible.tolist()}", one)
        if not torch.equal(visible, part.visible(attention, before, valid)):
            refuse(f"{part!r}: the same attention shows other tokens from call to call", one)
        return visible

    whole = seen(instance, True)
    for row in range(len(whole)):
        real = instance.features.valid()[row]
        if not torch.equal(seen(row_of(instance, row), True)[0], whole[row, real]):
            refuse(f"{part!r}: padding or other rows of the batch decide what row {row} sees", instance)
    seen(instance, False)


def try_measure(part: Measure, instance: Instance) -> None:
    """Batch first, the same twice, rows apart."""
    features = instance.features
    whole = part.measure(features)
    if not isinstance(whole, Tensor) or whole.ndim < 1 or len(whole) != features.batch:
        refuse(f"{part!r} must return a tensor of {features.batch} rows, got {whole!r}", instance)
    if not torch.equal(whole, part.measure(features)):
        refuse(f"{part!r}: the same features measure otherwise from call to call", instance)
    for row in range(features.batch):
        if not same_numbers(part.measure(row_of(instance, row, padded=True).features)[0], whole[row]):
            refuse(f"{part!r}: other rows of the batch decide what row {row} measures", instance)


def try_stage(part: EncoderStage) -> int:
    """Scores and counts of pictures in a batch: sound, apart from one another, and all but the budget gone in time."""
    generator, tried, last = torch.Generator().manual_seed(0), 0, 6
    for sizes in ((4,), (5, 3), (6, 4, 8)):
        n = max(sizes)
        valid = torch.stack([torch.arange(n) < size for size in sizes])
        keep = tuple(max(1, size // 2) for size in sizes)
        before: Tensor | None = None
        alone: list[Tensor | None] = [None] * len(sizes)
        for layer in range(last):
            logits = torch.randn(len(sizes), 2, n, dtype=torch.float64, generator=generator)
            attention = logits.masked_fill(~valid.unsqueeze(1), -torch.inf).softmax(-1) * 0.9
            values = torch.randn(len(sizes), 2, n + 1, 3, dtype=torch.float64, generator=generator)
            values[:, :, 1:] *= valid[:, None, :, None]
            view = EncoderView(attention, values, valid, sizes, keep, layer, last)
            before, counts = _seen(part, view, before)
            for row, size in enumerate(sizes):
                one = EncoderView(
                    attention[row : row + 1, :, :size],
                    values[row : row + 1, :, : size + 1],
                    valid[row : row + 1, :size],
                    sizes[row : row + 1],
                    keep[row : row + 1],
                    layer,
                    last,
                )
                alone[row], count = _seen(part, one, alone[row])
                scores = alone[row]
                assert scores is not None
                if not same_numbers(scores[0], before[row, :size]):
                    raise CheckError(_seen_wrong(part, "padding or other pictures decide the scores", view, row))
                if (None if counts is None else counts[row]) != (None if count is None else count[0]):
                    raise CheckError(_seen_wrong(part, "other pictures decide how many patches stay", view, row))
            tried += 1
    return tried


def _seen(part: EncoderStage, view: EncoderView, before: Tensor | None) -> tuple[Tensor, tuple[int, ...] | None]:
    scores, counts = part.score(view, before), part.counts(view)
    shape = tuple(view.valid.shape)
    if not isinstance(scores, Tensor) or tuple(scores.shape) != shape:
        raise CheckError(_seen_wrong(part, f"scores must be of shape {shape}, got {scores!r}", view))
    if not bool(torch.isfinite(scores[view.valid]).all()):
        raise CheckError(_seen_wrong(part, f"a score is NaN or infinite: {scores.tolist()}", view))
    if not torch.equal(scores[view.valid], part.score(view, before)[view.valid]):
        raise CheckError(_seen_wrong(part, "the same view gives other scores from call to call", view))
    if counts is not None and (len(counts) != shape[0] or not all(isinstance(c, int) for c in counts)):
        raise CheckError(_seen_wrong(part, f"counts must be {shape[0]} whole numbers, got {counts!r}", view))
    if view.layer == view.last - 1 and (counts is None or any(c > k for c, k in zip(counts, view.keep, strict=True))):
        raise CheckError(_seen_wrong(part, f"more than {view.keep} are left before the last layer: {counts}", view))
    return scores, counts


def _seen_wrong(part: EncoderStage, what: str, view: EncoderView, row: int | None = None) -> str:
    where = "" if row is None else f" of picture {row}"
    return f"{part!r}: {what}{where}\nsmallest instance found: {view}"
