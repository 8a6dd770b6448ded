"""Which of the prompt's tokens speak: a scorer that listens to the ones that say something about the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from tokenprune.components.normalizers import Softmax
from tokenprune.components.scorers import PMI
from tokenprune.core.errors import OptionTypeError
from tokenprune.core.features import Features, working_precision
from tokenprune.core.indexing import as_mask
from tokenprune.core.information import cosine_similarity
from tokenprune.core.kinds import Normalizer, Scorer, check_choice, check_number
from tokenprune.core.ranking import top_k

__all__ = ["By", "Speaking", "text_information", "text_norms"]

By = Literal["information", "norm"]


def text_information(features: Features, normalizer: Normalizer) -> Tensor:
    """What each text token says about where in the picture to look, (B, T), in nats; 0 at padding.

    The divergence of p(v_i | t_j), which is p(t_j | v_i) made to sum to one over the picture, from the uniform
    distribution: 0 for a token that every visual token calls for alike, at most log N. An attention sink is such a
    token.
    """
    log_p = normalizer(cosine_similarity(features.visual, features.text), features.text_mask)
    log_p = log_p.masked_fill(~features.valid().unsqueeze(-1), -math.inf)
    # a column of an outcome that no visual token allows says nothing
    log_q = log_p - torch.logsumexp(log_p, dim=1, keepdim=True).clamp_min(torch.finfo(log_p.dtype).min)
    terms = log_q.exp() * (log_q + features.log_size(log_q.dtype).unsqueeze(-1))
    found = terms.masked_fill(log_q.isinf(), 0).sum(1).clamp_min(0)
    return found if features.text_mask is None else found.masked_fill(~features.text_mask, 0)


def text_norms(features: Features) -> Tensor:
    """Minus how far the log of each text token's norm is from the row's median, (B, T): sinks stand out by it."""
    norms = working_precision(features.text).norm(dim=-1)
    logs = norms.clamp_min(torch.finfo(norms.dtype).tiny).log()
    real = torch.ones_like(logs, dtype=torch.bool) if features.text_mask is None else features.text_mask
    median: Tensor = logs.masked_fill(~real, math.nan).nanmedian(1, keepdim=True).values
    distance: Tensor = -(logs - median).abs()
    return distance


@dataclass(frozen=True)
class Speaking(Scorer):
    """Another scorer, which is shown the text tokens that say most.

    Parameters
    ----------
    scorer : Scorer, default ``PMI()``
        Reads ``text`` (``pmi``, ``similarity``, ``text-alignment`` ...).
    share : float, default 0.5
        Of the text tokens that speak, in (0, 1]; at least one, rounded up. With 1 this is the scorer itself.
    by : str, default "information"
        ``information``: the divergence that a token induces over the picture (:func:`text_information`). ``norm``:
        tokens whose norm is near the median, so that attention sinks are silent (:func:`text_norms`).
    normalizer : Normalizer, default ``Softmax(0.1)``
        p(t_j | v_i) of ``information``.
    """

    scorer: Scorer = PMI()  # noqa: RUF009  (immutable)
    share: float = 0.5
    by: By = "information"
    normalizer: Normalizer = Softmax()  # noqa: RUF009
    requires = frozenset({"visual", "text"})

    def __post_init__(self) -> None:
        check_number(self, "share", 0, 1, open_low=True)
        check_choice(self, "by", get_args(By))
        if not isinstance(self.scorer, Scorer) or "text" not in self.scorer.required_signals():
            raise OptionTypeError(f"Speaking.scorer must be a scorer that reads the text, got {self.scorer!r}")

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """As ``scorer``."""
        return self.scorer.higher_is_better

    def speakers(self, features: Features) -> Tensor:
        """Bool (B, T): text tokens that speak; the first ones where several say as much."""
        said = text_information(features, self.normalizer) if self.by == "information" else text_norms(features)
        real = torch.ones_like(said, dtype=torch.bool) if features.text_mask is None else features.text_mask
        counts = tuple(max(1, math.ceil(self.share * n - 1e-9)) for n in real.sum(1).tolist())
        order = top_k(said, counts, real)
        return as_mask(order, said.shape[1])

    def score(self, features: Features) -> Tensor:
        """What ``scorer`` says of the tokens that speak, (B, N)."""
        if self.share == 1:
            return self.scorer.score(features)
        return self.scorer.score(features.replace(text_mask=self.speakers(features), check=False))
