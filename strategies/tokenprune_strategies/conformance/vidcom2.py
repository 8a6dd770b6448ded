"""Replay of VidCom2's vectors: vLLM's picks, and the authors' own before their count is corrected."""

from __future__ import annotations

from torch import Tensor

from tokenprune.testing.conformance import Case
from tokenprune_strategies.conformance._video import features_of, per_frame, video_of
from tokenprune_strategies.vidcom2 import vidcom2


def replay(case: Case) -> dict[str, Tensor]:
    """Select twice."""
    hyper = case.hyper
    share = 1 - hyper["pruning_rate"]
    count = max(hyper["T"], int(hyper["T"] * hyper["tokens_per_frame"] * share))
    features = features_of(case)
    kept = vidcom2(share=share).select(features, count).indices[0]
    authors = vidcom2(share=share, faithful=True).select(features, count).indices[0]
    return {
        "kept_idx": kept,
        "tokens_per_frame": per_frame(case, kept),
        "reference_kept_idx": authors,
        "budget_per_frame": per_frame(case, authors),
        "tokens": video_of(case)[kept],
    }
