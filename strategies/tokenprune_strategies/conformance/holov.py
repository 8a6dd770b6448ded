"""Replay of HoloV's vectors."""

from __future__ import annotations

from torch import Tensor

import tokenprune as tp
from tokenprune.testing.conformance import Case
from tokenprune_strategies.holov import holov


def replay(case: Case) -> dict[str, Tensor]:
    """Select; places that are lost are position -1 and zero vectors on both sides."""
    features = tp.Features(case.inputs["tokens"], cls_attention=case.inputs["attention"])
    strategy = holov(crops=case.hyper["num_patches"], faithful=True)
    selection = strategy.select(features, case.hyper["new_image_token_num"])
    assert selection.merged is not None
    return {"tokens_out": selection.merged.tokens, "positions": selection.sequence}
