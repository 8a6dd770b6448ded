"""MI-Pruner: pointwise mutual information with the prompt, less redundancy with what is kept, selected greedily."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components import aggregators, normalizers, objectives, pairwise, priors, scorers, selectors
from tokenprune.core.errors import ConfigError, OptionTypeError, closest

PRESETS = {"open-ended": 0.5, "closed-form": 1.0}
"""lambda as the paper tunes it: 0.5 for GQA and MM-Vet, 1 for SQA, TextVQA, MME and POPE (Sec. 5.5)."""


def mi_pruner(
    *,
    preset: str | None = None,
    lam: float | None = None,
    tau: float = 0.1,
    normalizer: tp.Normalizer | None = None,
    aggregator: tp.Aggregator = aggregators.Max(),  # noqa: B008  (immutable)
    prior: tp.Prior = priors.Uniform(),  # noqa: B008
    marginal: pairwise.SelfMarginal = "uniform",
    optimizer: selectors.Optimizer = "vectorized",
) -> tp.Strategy:
    """MI-Pruner, Algorithm 1: argmax over i of lam * max_j PMI(v_i; t_j) - (1 - lam) * max_{j in S} PMI(v_i; v_j).

    Cost
        O(N T d) for relevance, O(N^2 d) for redundancy and O(K N) for the picks; with ``lam=1`` relevance alone.
    Differences
        None known; there is no official code. The paper leaves open what counts as text (here the prompt's own words)
        and what the first pick is (here the highest relevance).
    Whole
        :func:`tokenprune_strategies.reference.mi_pruner.mi_pruner`: the method as one loop.

    Parameters
    ----------
    preset : str, optional
        "open-ended" (lam 0.5, the default) or "closed-form" (lam 1).
    lam : float, optional
        Weight of relevance in [0, 1]; overrides the preset. With 1 this is top-k and no pairwise term is computed.
    tau : float, default 0.1
        Temperature of both softmaxes (Eqn 14).
    normalizer : Normalizer, optional
        ``softmax`` with ``tau`` by default; ``minmax`` is the paper's ablation B.2.
    aggregator : Aggregator, default ``max``
        ``mean`` is Eqn 18.
    prior : Prior, default ``uniform``
        p(v_i) in the text marginal (Eqn 16).
    marginal : str, default "uniform"
        p(v_j) of the redundancy; see :class:`~tokenprune.components.pairwise.SelfPMI`.
    optimizer : str, default "vectorized"
        See :class:`~tokenprune.components.selectors.Greedy`.
    """
    if preset is not None and preset not in PRESETS:
        raise ConfigError(f"mi-pruner: no preset {preset!r}; {closest(str(preset), PRESETS)}")
    lam = PRESETS[preset or "open-ended"] if lam is None else lam
    if normalizer is None:
        normalizer = normalizers.Softmax(tau)
    elif tau != 0.1:
        raise OptionTypeError("mi-pruner: give tau, or a normalizer with its own temperature, not both")
    objective = objectives.MaximalMarginalRelevance(lam, pairwise.SelfPMI(normalizer, marginal))
    greedy = selectors.Greedy(objective, optimizer)
    selector = selectors.TopK() if objective.relevance_only else greedy
    return tp.Strategy(scorers.PMI(normalizer, aggregator, prior), selector, name="mi-pruner")
