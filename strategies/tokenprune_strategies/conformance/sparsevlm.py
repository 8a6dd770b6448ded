"""Replay of SparseVLM's vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.components.layerwise.attention import text_relevance
from tokenprune.components.layerwise.recycle import Recycle
from tokenprune.core.indexing import as_mask, gather_tokens
from tokenprune.core.layer_kinds import KeepRule, LayerContext
from tokenprune.testing.conformance import Case, Replayed
from tokenprune_strategies.conformance._sequence import spliced
from tokenprune_strategies.sparsevlm import sparsevlm


@dataclass(frozen=True)
class _Given(KeepRule):
    """The recorded run's own list, never all tokens."""

    listed: tuple[int, ...]

    def counts(self, context: LayerContext) -> tuple[int, ...]:
        listed = self.listed[context.layers.index(context.layer)]
        return tuple(min(listed, present - 1) for present in context.present)


def replay(case: Case) -> dict[str, Tensor | Replayed]:
    """Act at every recorded place on what the one before left (the recorded layers change nothing)."""
    hyper = case.hyper
    start, n = hyper["image_start"], hyper["N"]
    visual, text = case.inputs["vis_embed"][None], case.inputs["text_embed"][None]
    version = "v2" if hyper["version"].startswith("2") else "v1"
    schedule = sparsevlm(version=version, layers=tuple(hyper["pruning_loc"]), faithful=True)  # type: ignore[arg-type]
    rule = _Given(tuple(hyper["keep_list"]))
    schedule = replace(schedule, events=tuple(replace(event, rule=rule) for event in schedule.events))

    embeddings = tp.Features(visual, text)
    context = schedule.begin((n,), (n,), max(hyper["pruning_loc"]) + 2)
    context = schedule.measure(embeddings, context)
    relevance = text_relevance(visual, text, embeddings.valid(), None)[0]
    got: dict[str, Tensor | Replayed] = {
        "rater_scores": relevance,
        "raters": context.measured["raters"][0].nonzero().flatten(),
    }
    positions = torch.arange(start + n + text.shape[1])
    origin = torch.arange(n)
    for stage, (layer, event) in enumerate(schedule.placed(context.n_layers)):
        n_now = visual.shape[1]
        extra = {
            "visual_positions": positions[None, start : start + n_now],
            "text_positions": positions[None, start + n_now :],
        }
        if hyper.get("head_dim_for_rope"):
            pairs = torch.arange(0, hyper["head_dim_for_rope"], 2) / hyper["head_dim_for_rope"]
            extra["rope_frequencies"] = (10000.0**-pairs)[None]
        if f"noise_{stage}" in case.inputs:
            extra["density_noise"] = case.inputs[f"noise_{stage}"][None]
        features = tp.Features(visual, text, attention=case.inputs[f"attn_text_vis_{stage}"][None], extra=extra)
        selection, context = event.decide(features, replace(context, layer=layer))
        assert selection.scores is not None
        merger = event.strategy.merger
        kept = selection.indices[0]
        sequence = selection.sequence[0]
        new = gather_tokens(visual, selection.sequence) if selection.merged is None else selection.merged.tokens
        origin = torch.cat([origin[kept], torch.full((len(sequence) - len(kept),), -1)])
        if schedule.positions == "compact":
            positions = positions[: len(positions) - n_now + len(sequence)]
        else:
            positions = spliced(positions, start, n_now, positions[start + sequence])
        got |= {
            f"kept_{stage}": kept,
            f"orig_ids_{stage}": origin,
            f"position_ids_{stage}": positions,
            f"scores_{stage}": selection.scores[0],
            f"vis_out_{stage}": Replayed(new[0], rounded=True),
        }
        if isinstance(merger, Recycle):
            dropped = ~as_mask(selection.indices, n_now)[0]
            got[f"recycled_{stage}"] = merger.best_of(selection.scores[0], dropped)
            got[f"merged_{stage}"] = Replayed(new[0, len(kept) :], rounded=True)
        visual = new
    return got
