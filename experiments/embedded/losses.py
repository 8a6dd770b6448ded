"""What the training asks of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.embedded.batches import IGNORED
from experiments.embedded.labels import SIGN
from experiments.embedded.network import SIDE, Branches, Heads, answer, encode, normalize, project
from experiments.embedded.vocabulary import ID
from tokenprune.data.scenes.world import COLORS, NAMES

ALIGNED = [ID[name] for name in NAMES] + [ID["sign"]] + [ID[color] for color in COLORS]
"""Words that the alignment loss pulls patches towards: what a patch shows, and its colour."""


@dataclass(frozen=True)
class Weights:
    """How much each loss counts.

    Attributes
    ----------
    answers : float, default 1
        Cross-entropy of the answers' tokens.
    dense : float, default 0
        What each patch shows: object, tint, character.
    present : float, default 0
        Which categories the picture shows, from [CLS].
    align : float, default 0
        Projected patches towards the embeddings of the words for what they show (as SigLIP does with captions).
    place : float, default 0
        Row and column of a projected token.
    """

    answers: float = 1.0
    dense: float = 0.0
    present: float = 0.0
    align: float = 0.0
    place: float = 0.0


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp_min(1)


def dense_loss(heads: Heads, features: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Patch labels; patches with an object and patches without count the same in all."""
    features = features.float().flatten(0, 1)
    objects, colors, characters = (batch[name].flatten().long() for name in ("objects", "colors", "characters"))
    seen = (objects > 0).float()
    by_object = F.cross_entropy(heads.object(features), objects, reduction="none")
    by_color = F.cross_entropy(heads.color(features), colors, reduction="none")
    by_character = F.cross_entropy(heads.character(features), characters, reduction="none")
    letter = (characters > 0).float()
    blank_plate = ((objects == SIGN) & (characters == 0)).float()
    return (
        _mean(by_object, seen)
        + _mean(by_object, 1 - seen)
        + 0.5 * _mean(by_color, seen)
        + 0.7 * _mean(by_character, letter)
        + 0.2 * _mean(by_character, blank_plate)
    )


def present_loss(heads: Heads, cls: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Binary cross-entropy over categories, from [CLS]."""
    target = batch["present"].float()
    return F.binary_cross_entropy_with_logits(heads.present(cls.float()), target, reduction="none").sum(1).mean() / 8


def cosines(model: Any, visual: Tensor) -> Tensor:
    """Cosine of every projected patch with every word of ``ALIGNED``: (B, SIDE**2, words)."""
    words = model.model.language_model.embed_tokens.weight[torch.tensor(ALIGNED, device=visual.device)]
    return F.normalize(visual.float(), dim=-1) @ F.normalize(words.float(), dim=-1).T


def align_loss(model: Any, visual: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Sigmoid loss on the cosine of projected patches and word embeddings."""
    logits = 10 * cosines(model, visual) - 5
    objects, colors = batch["objects"].long(), batch["colors"].long()
    target = F.one_hot(objects, SIGN + 1)[..., 1:]
    target = torch.cat([target, F.one_hot(colors, len(COLORS) + 1)[..., 1:]], -1).float()
    return _mean(F.softplus(-logits), target) + (F.softplus(logits) * (1 - target)).sum(-1).mean()


def place_loss(heads: Heads, visual: Tensor) -> Tensor:
    """Squared error of a token's row and column, both from -1 to 1."""
    line = torch.linspace(-1, 1, SIDE, device=visual.device)
    target = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).flatten(0, 1)
    return F.mse_loss(heads.place(visual.float()), target.expand(len(visual), -1, -1))


def branches_of(batch: dict[str, Tensor]) -> Branches:
    """Questions of a batch."""
    return Branches(batch["tokens"].long(), batch["branch"].long(), batch["offset"].long())


def losses(
    model: Any, heads: Heads, batch: dict[str, Tensor], weights: Weights, dtype: torch.dtype
) -> dict[str, Tensor]:
    """All losses that count, by name."""
    features, cls = encode(model, normalize(batch["images"], dtype))
    visual = project(model, features)
    found = {}
    if weights.answers:
        logits = answer(model, visual, branches_of(batch))
        found["answers"] = F.cross_entropy(
            logits.float().flatten(0, 1), batch["targets"].flatten().long(), ignore_index=IGNORED
        )
    if weights.dense:
        found["dense"] = dense_loss(heads, features, batch)
    if weights.present:
        found["present"] = present_loss(heads, cls, batch)
    if weights.align:
        found["align"] = align_loss(model, visual, batch)
    if weights.place:
        found["place"] = place_loss(heads, visual)
    return found
