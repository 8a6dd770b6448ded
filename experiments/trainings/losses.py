"""What the trainings ask of their models; every loss has a value for each model, (K,)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.embedded.batches import IGNORED
from experiments.embedded.labels import SIGN
from experiments.embedded.losses import branches_of
from experiments.embedded.vocabulary import EOS
from experiments.trainings.network import Blocks, State, answer, encode_pictures

LOSSES = ("answers", "end", "dense", "place")
"""``answers``: cross-entropy of the answers' tokens. ``end``: where an answer ends, in rows whose questions see few
visual tokens; what such an answer should be is not trained. ``dense``: what each patch shows, and does.
``place``: row and column of
a token."""

STARVED = 8
"""One row in so many asks its questions with few visual tokens in sight."""


def reading(x: Tensor, state: State, head: str) -> Tensor:
    """What a linear head reads from x (K, ..., d), in float32: (K, n, classes)."""
    weight, bias = (state[f"heads.{head}.{part}"].float() for part in ("weight", "bias"))
    return torch.baddbmm(bias[:, None], x.flatten(1, -2), weight.mT)


def entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross-entropy: logits (K, n, classes), targets and weights (n,)."""
    models = len(logits)
    each = F.cross_entropy(logits.flatten(0, 1), targets.repeat(models), reduction="none").unflatten(0, (models, -1))
    return (each * weights).sum(1) / weights.sum().clamp_min(1)


def dense_loss(state: State, features: Tensor, batch: Mapping[str, Tensor], order: Tensor) -> Tensor:
    """Patch labels; patches with an object and patches without count the same in all.

    Of clips, whose labels have ``motions``, what things do between two frames, too: things that move and things that
    stay count the same.
    """
    features = features.float()
    labels = {
        name: values.unflatten(1, (-1, len(order)))[:, :, order].flatten().long() for name, values in batch.items()
    }
    objects, colors, characters = (labels[name] for name in ("objects", "colors", "characters"))
    seen, letter = (objects > 0).float(), (characters > 0).float()
    blank = ((objects == SIGN) & (characters == 0)).float()
    by_object = reading(features, state, "object")
    by_character = reading(features, state, "character")
    loss = (
        entropy(by_object, objects, seen)
        + entropy(by_object, objects, 1 - seen)
        + 0.5 * entropy(reading(features, state, "color"), colors, seen)
        + 0.7 * entropy(by_character, characters, letter)
        + 0.2 * entropy(by_character, characters, blank)
    )
    if "motions" in labels:
        moved = (labels["motions"] > 0).float()
        by_motion = reading(features, state, "motion")
        loss = loss + entropy(by_motion, labels["motions"], moved) + entropy(by_motion, labels["motions"], seen - moved)
    return loss


def place_loss(state: State, visual: Tensor, centres: Tensor) -> Tensor:
    """Squared error of a token's row and column, both from -1 to 1."""
    read = reading(visual.float(), state, "place")
    target = centres.repeat(read.shape[1] // len(centres), 1)
    return (read - target).square().mean((1, 2))


def starved_rows(rows: int, tokens: int, device: str) -> tuple[Tensor, Tensor]:
    """Which visual tokens questions may look at, (rows, tokens), and which rows see few of them, (rows,).

    One row in eight keeps a share between none and a half, drawn for each row.
    """
    starved = torch.arange(rows, device=device) < rows // STARVED
    share = torch.where(starved, torch.rand(rows, device=device) / 2, 2.0)
    return torch.rand(rows, tokens, device=device) < share[:, None], starved


def answer_losses(logits: Tensor, targets: Tensor, starved: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of answers in full sight, and of "does it end here" in starved rows.

    Parameters
    ----------
    logits : Tensor of shape (K, B, L, words)
    targets : Tensor of long, (B, L)
        ``IGNORED`` where nothing is said.
    starved : Tensor of bool, (B,)
    """
    logits = logits.float()
    said = (targets != IGNORED).float()
    full = entropy(logits.flatten(1, 2), targets.clamp_min(0).flatten(), (said * ~starved[:, None]).flatten())
    everything = logits.logsumexp(-1)
    others = torch.cat([logits[..., :EOS], logits[..., EOS + 1 :]], -1).logsumexp(-1)
    ends = (targets == EOS).float()
    loss = everything - torch.where(ends.bool(), logits[..., EOS], others)
    weight = said * starved[:, None]
    return full, (loss * weight).sum((1, 2)) / weight.sum().clamp_min(1)


@dataclass(frozen=True)
class Compiled:
    """The functions that do the work: as they are, or compiled."""

    blocks: Blocks = field(default_factory=Blocks)
    dense: Callable[..., Tensor] = dense_loss
    answers: Callable[..., tuple[Tensor, Tensor]] = answer_losses

    @classmethod
    def made(cls) -> Compiled:
        """Compiled, once for each shape."""
        return cls(Blocks.compiled(), *(torch.compile(f, dynamic=False) for f in (dense_loss, answer_losses)))


EAGER = Compiled()


def losses(
    state: State,
    config: Any,
    patches: Tensor,
    batch: Mapping[str, Tensor],
    seen: Mapping[str, Tensor],
    sight: tuple[Tensor, Tensor],
    answers: bool = True,
    compiled: Compiled = EAGER,
) -> Tensor:
    """All losses in the order of ``LOSSES``: (losses, K).

    Parameters
    ----------
    state : mapping
        Of K models, in the dtype of the computation.
    config : Qwen3VLConfig
    patches : Tensor
        As :func:`~experiments.trainings.network.patches_of` returns it.
    batch : mapping
        Tensors of a :class:`~experiments.embedded.batches.Batch`, without the pictures.
    seen : mapping
        As :meth:`~experiments.trainings.network.Seen.tensors` returns it.
    sight : tuple of Tensor
        As :func:`starved_rows` returns it.
    answers : bool, default True
        Whether questions are asked at all.
    compiled : Compiled
    """
    blocks = compiled.blocks
    visual, features = encode_pictures(state, config, patches, seen, blocks)
    nothing = torch.zeros(len(features), device=features.device)
    full = end = dense = nothing
    if answers:
        logits = answer(state, config, visual, branches_of(dict(batch)), seen, sight[0], blocks)
        full, end = compiled.answers(logits, batch["targets"].long(), sight[1])
    labelled = ("objects", "colors", "characters", *(("motions",) if patches.shape[1] > 1 else ()))
    labels = {name: batch[name] for name in labelled}
    heads = {name: state[name] for name in state if name.startswith("heads.")}
    dense = compiled.dense(heads, features, labels, seen["order"])
    return torch.stack([full, end, dense, place_loss(state, visual[0], seen["centres"])])
