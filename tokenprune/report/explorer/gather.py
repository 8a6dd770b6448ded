"""Measure what an explorer page shows: pick orders, the parts' heat maps, and the model's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tokenprune.components.scorers import PMI
from tokenprune.core.errors import ConfigError, FeatureError
from tokenprune.core.features import Features
from tokenprune.core.information import cosine_similarity, log_marginal, pmi
from tokenprune.core.registry import build
from tokenprune.core.schedule import LayerSchedule
from tokenprune.core.strategy import AnyStrategy, Strategy, TextScope
from tokenprune.data.items import Question
from tokenprune.hf.adapters.base import FROM_PIXELS, adapter_for
from tokenprune.hf.chat import words_of
from tokenprune.report.explorer.recording import recorded
from tokenprune.report.explorer.sweep import Frame, frame, growth, is_nested, ladder, likeness, merged_places
from tokenprune.report.pruning import Look, View, look
from tokenprune.report.seen import Panel, Seen, see_picture, see_video

__all__ = ["Exploration", "Sweep", "Word", "explore"]


@dataclass(frozen=True)
class Word:
    """A word of the prompt.

    Attributes
    ----------
    text : str
        With the space in front of it.
    columns : tuple of int
        Its tokens among those that count as the question; empty where it does not count.
    """

    text: str
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Sweep:
    """One strategy at every budget.

    Attributes
    ----------
    strategy : AnyStrategy
    scores : Tensor, (N,), or None
        What its scorer gave.
    likeness, own : str, bool
        What ``growth`` and ``nearness`` measure, and whether the strategy itself charges for it.
    order : tuple of int
        All picks, where one order serves all budgets; else empty.
    growth : list of list of (int, float)
        See :func:`~tokenprune.report.explorer.sweep.growth`.
    frames : tuple of Frame
        Where it does not: what is left at some budgets, ascending.
    views : tuple of View
        The answers at marked budgets.
    certain : mapping of int to float
        By marked budget the share of the best by the strategy's own objective that its picks are certain to reach;
        empty where nothing bounds the best.
    basis : str
        What that rests on.
    """

    strategy: AnyStrategy
    scores: Tensor | None
    likeness: str
    own: bool
    order: tuple[int, ...]
    growth: list[list[tuple[int, float]]]
    frames: tuple[Frame, ...]
    views: tuple[View, ...]
    certain: Mapping[int, float] = field(default_factory=dict)
    basis: str = ""


@dataclass(frozen=True)
class Exploration:
    """One picture and one question, looked into.

    Attributes
    ----------
    name : str
    question : Question or str
        With the right answer, where that is known.
    looked : Look
    words : tuple of Word
    pmi : Tensor, (N, T)
        Pointwise mutual information of each patch and each token of the question, in nats.
    pmi_by : str
        How it was made.
    maps : mapping of str to Tensor, (N,)
        Signals of the encoder.
    sweeps : tuple of Sweep
    n_layers : int
    kind : str
        "picture", "tiles" or "video".
    """

    name: str
    question: Question | str
    looked: Look
    words: tuple[Word, ...]
    pmi: Tensor
    pmi_by: str
    maps: Mapping[str, Tensor]
    sweeps: tuple[Sweep, ...]
    n_layers: int

    kind: str = "picture"

    @property
    def panels(self) -> tuple[Panel, ...]:
        """Where the tokens lie."""
        return self.looked.panels


@torch.no_grad()
def explore(
    model: Any,
    processor: Any,
    image: Image.Image | Sequence[Image.Image],
    question: Question | str,
    strategies: Sequence[str | Mapping[str, Any] | AnyStrategy],
    budgets: Sequence[int],
    *,
    name: str = "picture",
    max_new_tokens: int = 8,
) -> Exploration:
    """Look into what strategies do with one picture and one question.

    Parameters
    ----------
    model, processor
        As :func:`tokenprune.zoo.loading.load_model` returns them.
    image : Image or sequence of Image
        A picture, or the frames of a video.
    question : Question or str
    strategies : sequence
        What :func:`tokenprune.build` accepts.
    budgets : sequence of int
        Marked budgets: at these the model is asked. All others are replayed from pick orders.
    name : str, default "picture"
    max_new_tokens : int, default 8

    Raises
    ------
    UnsupportedError
        Where the picture's tokens lie is not known, or the model lacks a signal that a strategy reads.
    BudgetError
        A budget is larger than the number of visual tokens.
    """
    built = [build(strategy) for strategy in strategies]
    text = question if isinstance(question, str) else question.text
    marked = sorted(set(budgets), reverse=True)
    shown = text if isinstance(question, str) or question.prompt is None else question.prompt
    if isinstance(image, Image.Image):
        seen = see_picture(model, processor, image, shown, built)
    else:
        seen = see_video(model, processor, image, shown)
    looked = look(model, processor, seen.picture, text, built, marked, max_new_tokens, prompt=shown, seen=seen)
    adapter = adapter_for(model)

    def features_of(name: str, signals: frozenset[str], text: TextScope | None = None) -> Features:
        return recorded(model, processor, seen.inputs, seen.encoded, name, signals, seen.unit, text)

    base = features_of("explore", frozenset({"visual", "text"}))
    scorer = next((s for strategy in built if (s := _pmi_of(strategy)) is not None), PMI())
    sweeps = []
    for i, strategy in enumerate(built):
        views = tuple(row[i] for row in looked.views)
        if isinstance(strategy, LayerSchedule):
            entering = None
            if strategy.before is not None:
                entering = features_of(strategy.name, strategy.reads(adapter.available | FROM_PIXELS) | {"visual"})
            sweeps.append(_between_layers(strategy, views, base, entering, len(looked.full.kept), looked.n_layers))
        else:
            read = strategy.reads(adapter.available | FROM_PIXELS) | {"visual"}
            own = features_of(strategy.name, read, strategy.text)
            sweeps.append(_before_layers(strategy, views, own, marked))
    return Exploration(
        name,
        question,
        looked,
        _words(words_of(model, processor, seen.inputs), base.text.shape[1]),
        _pmi(scorer, base),
        repr(scorer),
        _maps(seen),
        tuple(sweeps),
        looked.n_layers,
        seen.kind,
    )


def _before_layers(strategy: AnyStrategy, views: tuple[View, ...], features: Features, marked: Sequence[int]) -> Sweep:
    """A strategy in front of the language model: one order, or choices made anew."""
    n = features.n_visual
    alike = likeness(strategy, features)
    whole = strategy.select(features, n)
    scores = None if whole.scores is None else whole.scores[0]
    certain, basis = _certain(strategy, features, marked)
    if is_nested(strategy):
        order = tuple(whole.order[0].tolist())
        grown = growth(order, alike.table)
        return Sweep(strategy, scores, alike.label, alike.own, order, grown, (), views, certain, basis)
    frames = []
    for keep in ladder(n, marked):
        chosen = strategy.select(features, keep)
        order = tuple(int(i) for i in chosen.order[0].tolist() if i >= 0)
        frames.append(frame(keep, order, alike.table, merged_places(chosen, features)))
    return Sweep(strategy, scores, alike.label, alike.own, (), [], tuple(frames), views, certain, basis)


def _certain(strategy: AnyStrategy, features: Features, marked: Sequence[int]) -> tuple[dict[int, float], str]:
    """At marked budgets the share of the best that is certain, and why; nothing where no bound is known."""
    found, basis = dict[int, float](), ""
    if not isinstance(strategy, Strategy):
        return found, basis
    for keep in marked:
        try:
            optimality = strategy.assess(features, strategy.select(features, keep)).optimality
        except ConfigError:
            return {}, ""
        assert optimality is not None
        if not bool(optimality.ratio[0].isnan()):
            found[keep], basis = float(optimality.ratio[0]), optimality.basis
    return found, basis


def _between_layers(
    schedule: LayerSchedule, views: tuple[View, ...], base: Features, entering: Features | None, n: int, n_layers: int
) -> Sweep:
    """A strategy between layers: what went on after each of its events, at the budgets at which the model ran."""
    alike = likeness(schedule, base)
    frames = []
    for view in sorted(views, key=lambda view: view.keep):
        present = list(range(n))
        if entering is not None:
            present = [int(i) for i in schedule.enter(entering, view.keep).sequence[0].tolist() if i >= 0]
        layers = [0] * n
        for layer, went_on in view.stages:
            for place in present:
                layers[place] = layer + 1
            present = [present[i] for i in went_on]
        for place in present:
            layers[place] = n_layers
        made = frame(view.keep, sorted(present), alike.table)
        frames.append(replace(made, layers=tuple(layers)))
    return Sweep(schedule, None, alike.label, alike.own, (), [], tuple(frames), views)


def _pmi_of(strategy: AnyStrategy) -> PMI | None:
    """The strategy's own way to measure mutual information, if it has one."""
    if not isinstance(strategy, Strategy):
        return None
    parts = (part for part in (strategy.scorer, strategy.selector) if part is not None)
    return next((p for part in parts for p in part.parts() if isinstance(p, PMI)), None)


def _pmi(scorer: PMI, features: Features) -> Tensor:
    """The table that the scorer reduces: (N, T)."""
    conditional = scorer.normalizer(cosine_similarity(features.visual, features.text), features.text_mask)
    marginal = log_marginal(conditional, scorer.prior.log_prior(features), features.visual_mask)
    return pmi(conditional, marginal)[0]


def _words(prompt: Sequence[tuple[bool, Sequence[str]]], counted: int) -> tuple[Word, ...]:
    """Join tokens to words: a new one begins with a space, or where counting begins or ends."""
    words: list[Word] = []
    column = 0
    for counts, tokens in prompt:
        fresh = True
        for token in tokens:
            columns = (column,) if counts else ()
            column += counts
            if fresh or token[:1].isspace() or words[-1].text[-1:].isspace() or token[:1] == "<":
                words.append(Word(token, columns))
            else:
                words[-1] = Word(words[-1].text + token, words[-1].columns + columns)
            fresh = False
    if column != counted:
        raise FeatureError(f"{column} tokens of the prompt count as the question, but {counted} were embedded")
    return tuple(words)


def _maps(seen: Seen) -> dict[str, Tensor]:
    """What the encoder says of each patch, where it says anything."""
    found = {}
    if "cls_attention" in seen.signals:
        found["attention of [CLS]"] = seen.signals["cls_attention"].float().mean(0)
    if "received_attention" in seen.signals:
        found["attention received from patches"] = seen.signals["received_attention"].float()
    return found
