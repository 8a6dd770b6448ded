"""MI-Attention: encoder attention chooses first, the MI-based score fills the rest."""

from __future__ import annotations

from typing import Literal

import tokenprune as tp
from tokenprune.components import mergers, normalizers, objectives, pairwise, scorers, selectors
from tokenprune.core.errors import ConfigError


def mi_attention(
    *,
    form: Literal["vispruner", "visionzip"] = "vispruner",
    share: float | None = None,
    salience: tp.Scorer = scorers.ClsAttention(),  # noqa: B008  (immutable)
    lam: float = 0.5,
    tau: float = 0.1,
    marginal: pairwise.SelfMarginal = "uniform",
    seed_redundancy: bool = True,
) -> tp.Strategy:
    """MI-Attention (MI-Pruner, Sec. 3.2): two rounds, the similarity of Eqn 5 replaced by the score of Eqn 21.

    Cost
        O(H N) for round 1, O(N T d) + O(N^2 d) for the score of round 2, O(K N) for its picks.
    Differences
        None known; there is no official code. The paper leaves open whether round 2 sees round 1's tokens as selected
        (``seed_redundancy``).
    Whole
        :func:`tokenprune_strategies.reference.mi_attention.mi_attention`: the method as one loop.

    Parameters
    ----------
    form : str, default "vispruner"
        ``vispruner``: round 2 fills the budget with tokens. ``visionzip``: round 2 chooses the centres that every
        dropped token is merged into, before the projector.
    share : float, optional
        Round 1's share of the budget; 0.5 for ``vispruner``, 54/64 for ``visionzip``.
    salience : Scorer, default ``cls-attention``
        Round 1's score; ``received-attention`` for encoders without [CLS].
    lam, tau, marginal : defaults 0.5, 0.1, "uniform"
        As in ``mi-pruner``.
    seed_redundancy : bool, default True
        Whether round 2 counts round 1's tokens as selected (the paper does not say).
    """
    if form not in ("vispruner", "visionzip"):
        raise ConfigError(f"mi-attention: form must be 'vispruner' or 'visionzip', got {form!r}")
    merges = form == "visionzip"
    share = (54 / 64 if merges else 0.5) if share is None else share
    normalizer = normalizers.Softmax(tau)
    objective = objectives.MaximalMarginalRelevance(lam, pairwise.SelfPMI(normalizer, marginal))
    return tp.Strategy(
        scorers.PMI(normalizer),
        selectors.TwoStage(salience, selectors.Greedy(objective), share, seed_redundancy),
        merger=mergers.NearestCentre(share) if merges else None,
        positions="compact" if merges else "keep",
        name="mi-attention",
    )
