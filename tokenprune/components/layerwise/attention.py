"""What the language model's own attention says about visual tokens, and which text rows may speak."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.components.scorers import ClsAttention
from tokenprune.core.features import Features, working_precision
from tokenprune.core.kinds import Scorer, check_count, check_number
from tokenprune.core.layer_kinds import Measure
from tokenprune.core.ranking import relevance

__all__ = [
    "AttentionInformation",
    "AttentionRows",
    "JointAttention",
    "Raters",
    "pseudo_information",
    "rope_weight",
    "text_relevance",
]


def text_relevance(visual: Tensor, text: Tensor, visual_mask: Tensor, text_mask: Tensor | None) -> Tensor:
    """Mean over visual tokens of softmax_j(v_i . t_j): (B, N, d), (B, T, d) -> (B, T), 0 at padding."""
    logits = working_precision(visual) @ working_precision(text).mT
    if text_mask is not None:
        logits = logits.masked_fill(~text_mask.unsqueeze(1), -math.inf)
    weight = visual_mask.to(logits.dtype).unsqueeze(-1)
    return (logits.softmax(-1) * weight).sum(1) / weight.sum(1)


@dataclass(frozen=True)
class Raters(Measure):
    """Text tokens whose relevance to the image lies above the mean (SparseVLM, Sec. 3.2).

    Meant for the embeddings that enter the language model; products are neither normalised nor scaled. Where no token
    lies above the mean (a single one, or all alike) all are raters.
    """

    name: str = "raters"
    requires = frozenset({"visual", "text"})

    def measure(self, features: Features) -> Tensor:
        """Bool (B, T)."""
        weight = text_relevance(features.visual, features.text, features.valid(), features.text_mask)
        real = torch.ones_like(weight, dtype=torch.bool) if features.text_mask is None else features.text_mask
        mean = weight.sum(1, keepdim=True) / real.sum(1, keepdim=True)
        raters = (weight > mean) & real
        return torch.where(raters.any(1, keepdim=True), raters, real)


def rope_weight(rows: Tensor, columns: Tensor, frequencies: Tensor) -> Tensor:
    """Product that rotary embedding alone gives two all-one vectors: 2 / sqrt(d) * sum_i cos((p - q) f_i).

    Parameters
    ----------
    rows, columns : Tensor, (B, R) and (B, N)
        Positions.
    frequencies : Tensor, (B, d / 2)
        Inverse frequencies of the rotary embedding.

    Returns
    -------
    Tensor, (B, R, N)
        sqrt(d) at distance 0, falling with it; not always positive at large distances.
    """
    distance = (rows.unsqueeze(-1) - columns.unsqueeze(1)).to(torch.float32)
    # one frequency at a time: the table over all of them at once would be d / 2 times as large
    total = torch.zeros_like(distance)
    for f in frequencies.to(torch.float32).unbind(-1):
        total += torch.cos(distance * f.view(-1, 1, 1))
    return total * (2 / math.sqrt(2 * frequencies.shape[-1]))


@dataclass(frozen=True)
class AttentionRows(Scorer):
    """Attention that a language-model layer pays to each visual token, averaged over heads and rows.

    Parameters
    ----------
    raters : str, optional
        Name of a measured mask over rows, (B, R); all real rows speak without one.
    debias : bool, default False
        Divide by the weight that rotary embedding gives the distance alone (SparseVLM+).
    floor : float, default 0.1
        That weight counts as at least this share of its value at distance 0. It never comes into play at distances
        below 700 with heads of 128; further away the weight crosses zero, and dividing by it would explode or flip
        the sign. 0 switches the floor off.
    heads : int, optional
        Only so many heads speak, those with the largest sum over rows and visual tokens (all where there are fewer).
    """

    raters: str | None = None
    debias: bool = False
    floor: float = 0.1
    heads: int | None = None

    def __post_init__(self) -> None:
        check_number(self, "floor", 0, 1)
        if self.heads is not None:
            check_count(self, "heads", 1)

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """Attention, and what the options need."""
        needs = {"attention"} | ({self.raters} if self.raters else set())
        return frozenset(needs | ({"text_positions", "visual_positions", "rope_frequencies"} if self.debias else set()))

    def score(self, features: Features) -> Tensor:
        """Mean attention, (B, N)."""
        attention = working_precision(features["attention"])
        if self.debias:
            frequencies = features["rope_frequencies"]
            weight = rope_weight(features["text_positions"], features["visual_positions"], frequencies)
            if self.floor:
                weight = weight.clamp_min(self.floor * math.sqrt(2 * frequencies.shape[-1]))
            attention = attention / weight.unsqueeze(1)
        rows = self._rows(features, attention)
        attention = attention.masked_fill(~rows[:, None, :, None], 0)
        if self.heads is not None and self.heads < attention.shape[1]:
            best = attention.sum((2, 3)).argsort(dim=1, descending=True, stable=True)[:, : self.heads]
            attention = attention.gather(1, best[:, :, None, None].expand(-1, -1, *attention.shape[2:]))
        return attention.mean(1).sum(1) / rows.sum(1, keepdim=True)

    def _rows(self, features: Features, attention: Tensor) -> Tensor:
        if self.raters is not None:
            return features[self.raters].bool()
        return real_rows(features, attention)


def real_rows(features: Features, attention: Tensor) -> Tensor:
    """Bool (B, R): rows of text tokens that exist; rows that do not belong to the text tokens all count."""
    mask = features.text_mask
    if mask is not None and mask.shape[1] == attention.shape[2]:
        return mask
    return attention.new_ones(attention.shape[0], attention.shape[2], dtype=torch.bool)


def pseudo_information(attention: Tensor, rows: Tensor) -> Tensor:
    """Information that text rows share with visual columns, summed over heads, in bits (AutoPrune, Sec. 3).

    p(x, y) = attention / number of rows, p(x) uniform, p(y) the column sums. Rows of attention over visual tokens
    alone sum to less than 1, so this is not a mutual information of a distribution; it orders samples.

    Parameters
    ----------
    attention : Tensor, (B, H, R, N)
    rows : bool Tensor, (B, R)
        Rows that count.

    Returns
    -------
    Tensor, (B,)
    """
    n_rows = rows.sum(1).view(-1, 1, 1, 1)
    joint = attention.masked_fill(~rows[:, None, :, None], 0) / n_rows
    independent = joint.sum(2, keepdim=True) / n_rows
    return (joint * (joint / (independent + 1e-6)).clamp_min(1e-6).log2()).sum((1, 2, 3))


@dataclass(frozen=True)
class AttentionInformation(Measure):
    """:func:`pseudo_information` of a layer's attention, summed over heads."""

    name: str = "information"
    requires = frozenset({"attention"})

    def measure(self, features: Features) -> Tensor:
        """Bits, (B,)."""
        attention = working_precision(features["attention"])
        return pseudo_information(attention, real_rows(features, attention))


@dataclass(frozen=True)
class JointAttention(Scorer):
    """Encoder salience plus weight * information * text attention (AutoPrune's cut after the first layer).

    Parameters
    ----------
    salience : Scorer, default ``ClsAttention()``
        The encoder's own score.
    weight : float, default 0.3
        Of the text's attention, which is also multiplied by its information per row.
    """

    salience: Scorer = ClsAttention()  # noqa: RUF009  (immutable)
    weight: float = 0.3
    requires = frozenset({"attention"})

    def score(self, features: Features) -> Tensor:
        """Joint score, (B, N)."""
        attention = working_precision(features["attention"])
        rows = real_rows(features, attention)
        information = pseudo_information(attention, rows) / rows.sum(1)
        spoken = AttentionRows().score(features)
        return relevance(self.salience, features) + self.weight * information.unsqueeze(-1) * spoken
