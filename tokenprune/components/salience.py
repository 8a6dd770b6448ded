"""Scores that a named signal of the encoder, or of a contrastive model, holds already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tokenprune.components.aggregators import Mean
from tokenprune.core.errors import ConfigError
from tokenprune.core.features import Features, is_signal, signal_of, working_precision
from tokenprune.core.information import cosine_similarity
from tokenprune.core.kinds import Scorer, check_choice

__all__ = ["JointContrast", "SignalScore"]


@dataclass(frozen=True)
class SignalScore(Scorer):
    """A signal as it is, reduced over heads where it has any.

    Parameters
    ----------
    signal : str, default "cls_attention"
        Name of a signal over visual tokens, of any layer of the encoder: ``"mean_attention@9/24"``,
        ``"cls_attention@-1"``. A name that is no built-in signal is looked for among those of plugins and ``extra``.
    reduce : str, default "mean"
        "mean" or "sum" over heads.
    """

    signal: str = "cls_attention"
    reduce: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        check_choice(self, "reduce", ("mean", "sum"))
        if is_signal(self.signal) and signal_of(self.signal).shape not in ("b n", "b h n"):
            raise ConfigError(
                f"SignalScore.signal: {self.signal!r} is {signal_of(self.signal).shape}; one number a token is needed "
                "(b n), or one for each head (b h n)"
            )

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The signal."""
        return frozenset({self.signal})

    def score(self, features: Features) -> Tensor:
        """The signal, (B, N)."""
        value = working_precision(features[self.signal])
        if value.ndim == 2:
            return value
        return value.mean(1) if self.reduce == "mean" else value.sum(1)


@dataclass(frozen=True)
class JointContrast(Scorer):
    """Share of each patch in a softmax over patches of its signed product with the text (TRIM).

    In a contrastive model's joint space, where both its signals are given, products are plain (neither side is
    normalised) and the sign is negative: patches *least* similar to the text that describes the picture come first.
    Else the cosine to the prompt's tokens in projection space, mean over them, with its natural sign.

    Parameters
    ----------
    sign : int, optional
        1 or -1; by default -1 in the joint space and 1 in projection space.
    """

    sign: Literal[1, -1] | None = None
    requires = frozenset({"visual", "text"})
    prefers = frozenset({"joint_visual", "joint_text"})

    def __post_init__(self) -> None:
        if self.sign not in (None, 1, -1):
            raise ConfigError(f"JointContrast.sign must be 1, -1 or None, got {self.sign!r}")

    def score(self, features: Features) -> Tensor:
        """Probabilities over the real tokens of each row, (B, N)."""
        joint = all(name in features for name in self.prefers)
        sign = (-1 if joint else 1) if self.sign is None else self.sign
        if joint:
            products = working_precision(features["joint_visual"]) @ working_precision(features["joint_text"]).mT
            logits = products.mean(-1)
        else:
            logits = Mean()(cosine_similarity(features.visual, features.text), mask=features.text_mask)
        return (sign * logits).masked_fill(~features.valid(), -torch.inf).softmax(-1)
