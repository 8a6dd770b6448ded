"""Replay of ApET's vectors."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.components.layerwise.basis import BasisMerge, FarthestPoints, ReconstructionError
from tokenprune.core.ranking import TopK
from tokenprune.testing.conformance import Case, Replayed
from tokenprune_strategies.apet import apet
from tokenprune_strategies.conformance._sequence import spliced


def replay(case: Case) -> dict[str, Tensor | Replayed]:
    """Tell the recorded places apart: encoder, language model (two model families), frames of a video."""
    return _PLACES[case.hyper["kind"]](case)


def _encoder(case: Case) -> dict[str, Tensor | Replayed]:
    before = apet(basis=case.hyper["basis"], faithful=True).before
    assert before is not None
    return _selected(case, _with_ridge(before, case), case.inputs["features"], "encoder")


def _language_model(case: Case) -> dict[str, Tensor | Replayed]:
    stage = apet(basis=case.hyper["basis"], faithful=True).events[0].strategy
    start, n = case.hyper["image_start"], case.hyper["N"]
    sequence = case.inputs["seq"]
    got = _selected(case, _with_ridge(stage, case), sequence[start : start + n], "visual")
    length = len(sequence) - n + case.hyper["keep"]
    got["seq_out_len"] = torch.tensor(length)
    got["position_ids"] = torch.arange(length)
    return got


def _qwen(case: Case) -> dict[str, Tensor | Replayed]:
    stage = apet(basis=case.hyper["basis"], faithful=True).events[0].strategy
    assert isinstance(stage.merger, BasisMerge)
    # this model family's code puts half of the basis token over half of what was there, and keeps positions
    stage = replace(stage, merger=replace(stage.merger, blend=case.hyper["blend"]), positions="keep")
    start, n = case.hyper["image_start"], case.hyper["N"]
    sequence = case.inputs["seq"]
    got = _selected(case, _with_ridge(stage, case), sequence[start : start + n], "visual")
    kept = got["kept"]
    assert isinstance(kept, Tensor)
    got["position_ids"] = spliced(torch.arange(len(sequence)), start, n, kept + start)
    return got


def _video(case: Case) -> dict[str, Tensor | Replayed]:
    """A frame becomes [CLS], the kept tokens with all others merged into them, largest error first, and the basis."""
    tokens, hyper = case.inputs["features"], case.hyper
    points = FarthestPoints(hyper["basis"])
    features = tp.Features(tokens, extra={"basis_start": case.inputs["start"]})
    strategy = tp.Strategy(
        ReconstructionError(points, hyper["ridge"], double=False), TopK(), BasisMerge(points, spare=False), name="apet"
    )
    selection = strategy.select(features, hyper["keep"])
    assert selection.scores is not None
    assert selection.merged is not None
    basis = points.of(features, "visual")
    rank = selection.order.argsort(dim=1).argsort(dim=1)
    by_error = selection.merged.tokens.gather(1, rank.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
    raw = tokens.gather(1, basis.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
    out = torch.cat([case.inputs["cls"].unsqueeze(1), by_error, raw], dim=1)
    return {
        "fps": basis,
        "errors": Replayed(selection.scores, rounded=True),
        "kept_by_error": selection.order,
        "tokens": Replayed(out, rounded=True),
    }


def _with_ridge(strategy: tp.Strategy, case: Case) -> tp.Strategy:
    assert isinstance(strategy.scorer, ReconstructionError)
    return replace(strategy, scorer=replace(strategy.scorer, ridge=case.hyper["ridge"]))


def _selected(case: Case, strategy: tp.Strategy, tokens: Tensor, signal: str) -> dict[str, Tensor | Replayed]:
    features = tp.Features(
        tokens[None],
        encoder=tokens[None] if signal == "encoder" else None,
        extra={"basis_start": case.inputs["start"]},
    )
    selection = strategy.select(features, case.hyper["keep"])
    assert selection.scores is not None
    assert selection.merged is not None
    return {
        "fps": FarthestPoints(case.hyper["basis"]).of(features, signal)[0],
        "errors": Replayed(selection.scores[0], rounded=True),
        "kept": selection.indices[0],
        "kept_by_error": selection.order[0],
        "tokens": Replayed(selection.merged.tokens[0], rounded=True),
    }


_PLACES = {"stage1": _encoder, "stage2_llm": _language_model, "qwen_llm": _qwen, "video_frame": _video}
