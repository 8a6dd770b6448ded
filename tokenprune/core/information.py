"""From embeddings to pointwise mutual information, in log space (MI-Pruner, Eqns 14-17).

Pure functions on tensors; any leading batch dimensions. Half-precision input is cast to float32 first, because inside
bfloat16 log-probabilities are quantised to 2**-8 relative, which reorders tokens.

Shapes: similarities and log-probabilities are (..., N, M), row i the visual token that conditions, column j the
outcome. A mask over columns, (..., M), removes outcomes from the distribution; what stands in a removed column is
finite and meaningless, so reduce with the same mask.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tokenprune.core.features import working_precision
from tokenprune.kernels import usable

__all__ = [
    "cosine_partition",
    "cosine_products",
    "cosine_similarity",
    "log_conditional",
    "log_marginal",
    "log_partition",
    "pmi",
    "unit_norm",
]


def unit_norm(x: Tensor) -> Tensor:
    """Scale vectors along the last axis to norm 1; the zero vector stays zero (so that its cosine to all is 0).

    Parameters
    ----------
    x : Tensor, (..., d)

    Returns
    -------
    Tensor, (..., d), float32 or float64
    """
    x = working_precision(x)
    if x.dtype == torch.float64 and usable(x):
        from tokenprune.kernels.similarity import unit_rows  # needs Triton

        return unit_rows(x)
    # dividing by the largest entry first keeps the squares of huge or tiny vectors inside the range
    scale = x.abs().amax(-1, keepdim=True)
    x = x / torch.where(scale > 0, scale, 1.0)
    norm = x.norm(dim=-1, keepdim=True)
    return x / torch.where(norm > 0, norm, 1.0)


def _half(x: Tensor, y: Tensor) -> bool:
    return x.dtype == y.dtype and x.dtype in (torch.float16, torch.bfloat16)


def cosine_similarity(x: Tensor, y: Tensor) -> Tensor:
    """Cosine of every pair: (..., N, d), (..., M, d) -> (..., N, M) in float32 or better (Eqn 14 without tau)."""
    if _half(x, y) and x.ndim == y.ndim == 3 and x.shape[0] == y.shape[0] and usable(x, y):
        from tokenprune.kernels.similarity import half_cosine  # needs Triton

        return half_cosine(x, y)
    x, y = (unit_norm(x),) * 2 if x is y else (unit_norm(x), unit_norm(y))
    dtype = torch.promote_types(x.dtype, y.dtype)
    return x.to(dtype) @ y.to(dtype).mT


def cosine_products(x: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """What kernels make relevance of: (B, N, d), (B, M, d) -> (B, N, M).

    Dot products of half-precision tokens, and the factors of rows and columns that make them cosines; of other tokens
    their cosines, and None. Needs Triton.
    """
    if _half(x, y):
        from tokenprune.kernels.similarity import half_products

        table, rows, columns = half_products(x, y)
        return table, (rows, columns)
    return cosine_similarity(x, y).contiguous(), None


def log_partition(similarity: Tensor, tau: float, mask: Tensor | None = None) -> Tensor:
    """log sum_j exp(similarity_ij / tau), the log of a row's partition function: (..., N, M) -> (..., N)."""
    if similarity.dtype == torch.float32 and similarity.ndim == 3 and usable(similarity):
        from tokenprune.kernels.similarity import row_partition  # needs Triton

        return row_partition(similarity, 1 / tau, mask)
    logits = similarity * (1 / tau)
    if mask is not None:
        logits = logits.masked_fill(~mask.unsqueeze(-2), -math.inf)
    return torch.logsumexp(logits, dim=-1)


def cosine_partition(x: Tensor, tau: float, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cosine of every pair of one set of tokens and the log partition function of its rows, made together.

    (B, N, d), mask (B, N) -> (B, N, N), (B, N): the same as :func:`cosine_similarity` and :func:`log_partition`.
    """
    if _half(x, x) and usable(x):
        from tokenprune.kernels.similarity import half_products, row_partition  # needs Triton

        table, rows, columns = half_products(x, x)
        return table, row_partition(table, 1 / tau, mask, (rows, columns))
    table = cosine_similarity(x, x)
    return table, log_partition(table, tau, mask)


def log_conditional(similarity: Tensor, tau: float, mask: Tensor | None = None) -> Tensor:
    """log p(x_j | v_i) as a temperature-scaled softmax over j (Eqn 15).

    Parameters
    ----------
    similarity : Tensor, (..., N, M)
    tau : float
        Temperature, > 0.
    mask : bool Tensor, (..., M), optional
        True at outcomes that exist.

    Returns
    -------
    Tensor, (..., N, M)
        Natural-log probabilities.
    """
    return similarity * (1 / tau) - log_partition(similarity, tau, mask).unsqueeze(-1)


def log_marginal(log_conditional: Tensor, log_prior: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """log p(x_j) = log sum_i p(v_i) p(x_j | v_i), the law of total probability (Eqn 16).

    Parameters
    ----------
    log_conditional : Tensor, (..., N, M)
    log_prior : Tensor, (..., N), optional
        log p(v_i), normalised over i; uniform when absent (the paper's choice).
    mask : bool Tensor, (..., N), optional
        True at visual tokens that exist; only used with the uniform prior.

    Returns
    -------
    Tensor, (..., M)
    """
    if log_prior is None:
        if mask is None:
            return torch.logsumexp(log_conditional, dim=-2) - math.log(log_conditional.shape[-2])
        log_prior = torch.zeros_like(log_conditional[..., 0]).masked_fill(~mask, -math.inf)
        log_prior = log_prior - mask.sum(-1, keepdim=True).to(log_prior.dtype).log()
    return torch.logsumexp(log_conditional + log_prior.unsqueeze(-1), dim=-2)


def pmi(log_conditional: Tensor, log_marginal: Tensor) -> Tensor:
    """Pointwise mutual information log p(x_j | v_i) - log p(x_j) (Eqn 17), natural log.

    Plain tensor operations. Scorers that use it may be replaced by one kernel on a GPU; ``TOKENPRUNE_KERNELS=0`` in the
    environment switches kernels off.

    Outcomes of probability 0 get -inf, also where the marginal is 0 too (0/0), so that a maximum skips them.

    Parameters
    ----------
    log_conditional : Tensor, (..., N, M)
    log_marginal : Tensor, (..., M)

    Returns
    -------
    Tensor, (..., N, M)
    """
    table = log_conditional - log_marginal.unsqueeze(-2)
    return torch.where(log_conditional == -math.inf, -math.inf, table)
