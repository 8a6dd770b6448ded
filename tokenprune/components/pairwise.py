"""How alike two visual tokens are, as tables that are read column by column.

A greedy selector reads one column a pick, so the table itself is only kept where it is small (``DENSE_LIMIT``);
otherwise columns are computed when asked for, and what normalises a row is reduced in blocks of rows. Memory is then
O(N * block), time O(N^2 d) once plus O(N d) a pick.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from tokenprune.components.normalizers import Softmax
from tokenprune.core.errors import ConfigError
from tokenprune.core.features import Features, on_host, working_precision
from tokenprune.core.indexing import gather_tokens
from tokenprune.core.information import cosine_partition, cosine_similarity, unit_norm
from tokenprune.core.kinds import Normalizer, PairTable, Pairwise, check_choice, entries_of

__all__ = ["Cosine", "CosineTable", "DeferredTable", "SelfMarginal", "SelfPMI", "SelfPMITable", "reduced"]

SelfMarginal = Literal["uniform", "total", "stationary", "sinkhorn"]

DENSE_LIMIT = 2048
"""Up to this many tokens the N x N cosine matrix of a unit is kept (16 MiB in float32)."""

DENSE_BYTES = 2**30
"""Largest cosine matrix that is kept on any accelerator, all units together: 16,384 tokens of one unit in float32."""

DENSE_SHARE = 4
"""On one with much memory it may take this part of it: 65,536 tokens on a card of 80 GiB."""

BLOCK = 256
"""Rows reduced at a time where it is not."""


def reduced(table: PairTable, reduce: Callable[[slice, Tensor], Tensor]) -> Tensor:
    """Reduce a table block by block: (rows, block (B, rows, N)) -> (B, rows, ...), of all rows (B, N, ...).

    Results go into one tensor. Kept one by one, each would lie behind the block that was freed and keep an allocator
    of the host from using its room again, and in the end as much memory is taken as by the whole table.
    """
    whole: Tensor | None = None
    for rows, block in table.blocks():
        part = reduce(rows, block)
        if whole is None:
            whole = part.new_empty((part.shape[0], block.shape[2], *part.shape[2:]))
        whole[:, rows] = part
    assert whole is not None
    return whole


class CosineTable(PairTable):
    """Cosine of every pair of tokens, kept whole up to ``DENSE_LIMIT`` tokens and recomputed by columns beyond."""

    def __init__(self, tokens: Tensor, gram: Tensor | None = None) -> None:
        self.tokens = tokens
        self.gram = self._whole() if gram is None and _kept(tokens) else gram

    @cached_property
    def unit(self) -> Tensor:
        """Tokens of norm 1, (B, N, d)."""
        return unit_norm(self.tokens)

    def _whole(self) -> Tensor:
        if self.tokens.dtype == torch.float64:  # what is asked for then asks for unit tokens too
            return self.unit @ self.unit.mT
        return cosine_similarity(self.tokens, self.tokens)

    def column(self, index: Tensor) -> Tensor:
        """Cosine of all tokens to one token a row: (B,) -> (B, N)."""
        row = torch.arange(index.shape[0], device=index.device)
        if self.gram is not None:
            return self.gram[row, index]
        return (self.unit @ self.unit[row, index].unsqueeze(-1)).squeeze(-1)

    def columns(self, indices: Tensor) -> Tensor:
        """Cosine of all tokens to some: (B, C) -> (B, C, N)."""
        return super().columns(indices) if self.gram is None else gather_tokens(self.gram, indices)

    def between(self, some: Tensor, others: Tensor) -> Tensor:
        """Cosines of some tokens with others of the same unit: (B, R) and (B, C) positions -> (B, R, C)."""
        if self.gram is not None:
            row = torch.arange(len(some), device=some.device).view(-1, 1, 1)
            return self.gram[row, some.unsqueeze(2), others.unsqueeze(1)]
        return gather_tokens(self.unit, some) @ gather_tokens(self.unit, others).mT

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield (rows, cosines of those rows to all tokens (B, rows, N)), ``BLOCK`` rows at a time."""
        n = self.tokens.shape[1]
        if self.gram is not None and not on_host(self.tokens) and self.gram.nbytes <= DENSE_BYTES:
            yield slice(0, n), self.gram
            return
        for start in range(0, n, BLOCK):
            rows = slice(start, start + BLOCK)
            yield rows, (self.unit[:, rows] @ self.unit.mT if self.gram is None else self.gram[:, rows])

    def dense(self) -> Tensor:
        """(B, N, N)."""
        return self._whole() if self.gram is None else self.gram

    def entries(self) -> dict[str, Any] | None:
        """Cosines as they are."""
        return None if self.gram is None else {"entry": "cosine", "cosine": self.gram}


def _kept(tokens: Tensor) -> bool:
    """Whether the cosine matrix is kept whole; accelerators have room for more and are slow at making columns."""
    batch, n, _ = tokens.shape
    if on_host(tokens):
        return n <= DENSE_LIMIT
    size = batch * n * n * max(4, tokens.element_size())
    return size <= DENSE_BYTES or (tokens.is_cuda and size <= _memory(tokens.device) // DENSE_SHARE)


def _memory(device: torch.device) -> int:
    """Bytes that an accelerator has, whoever uses them: the same at every call."""
    return int(torch.cuda.get_device_properties(device).total_memory)


class DeferredTable(PairTable):
    """A table that is made when it is first read."""

    def __init__(self, pairs: Pairwise, features: Features) -> None:
        self._pairs, self._features = pairs, features

    @cached_property
    def _table(self) -> PairTable:
        return self._pairs.table(self._features)

    def column(self, index: Tensor) -> Tensor:
        """(B,) -> (B, N)."""
        return self._table.column(index)

    def columns(self, indices: Tensor) -> Tensor:
        """(B, C) -> (B, C, N)."""
        return self._table.columns(indices)

    def dense(self) -> Tensor:
        """(B, N, N)."""
        return self._table.dense()

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """As the table's."""
        return self._table.blocks()

    def entries(self) -> dict[str, Any] | None:
        """As the table's."""
        return entries_of(self._table)


@dataclass(frozen=True)
class Cosine(Pairwise):
    """Cosine similarity of a signal's tokens.

    Parameters
    ----------
    signal : str, default "visual"
        Which signal; its shape must be (B, N, width).
    """

    signal: str = "visual"

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The signal compared."""
        return frozenset({self.signal})

    def table(self, features: Features) -> CosineTable:
        """Cosine table of the signal."""
        return CosineTable(features[self.signal])


class SelfPMITable(PairTable):
    """D_ij = log p(v_j | v_i) - log p(v_j), candidate i against selected j; not symmetric in general."""

    def __init__(self, cosine: CosineTable, normalizer: Normalizer, statistics: Tensor, log_marginal: Tensor) -> None:
        self.cosine = cosine
        self.normalizer = normalizer
        self.statistics = statistics
        self.log_marginal = log_marginal

    def column(self, index: Tensor) -> Tensor:
        """D_{.,j} for one token a row: (B,) -> (B, N)."""
        return self.columns(index.unsqueeze(1)).squeeze(1)

    def columns(self, indices: Tensor) -> Tensor:
        """D_{.,j} for some tokens a row: (B, C) -> (B, C, N)."""
        cosine = self.cosine.columns(indices).unsqueeze(-1)
        log_prob = self.normalizer.log_prob(cosine, self.statistics.unsqueeze(1)).squeeze(-1)
        return _finite(log_prob - self.log_marginal.gather(1, indices).unsqueeze(-1))

    def dense(self) -> Tensor:
        """(B, N, N)."""
        log_prob = self.normalizer.log_prob(self.cosine.dense(), self.statistics)
        return _finite(log_prob - self.log_marginal.unsqueeze(-2))

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield (rows, D of those rows with all tokens), as the cosines come."""
        for rows, cosine in self.cosine.blocks():
            log_prob = self.normalizer.log_prob(cosine, self.statistics[:, rows])
            yield rows, _finite(log_prob - self.log_marginal.unsqueeze(-2))

    def entries(self) -> dict[str, Any] | None:
        """Softmax of the cosines, less the marginal."""
        cosines = entries_of(self.cosine)
        if cosines is None or not isinstance(self.normalizer, Softmax) or type(self.normalizer) is not Softmax:
            return None
        return {
            **cosines,
            "entry": "pmi",
            "scale": 1 / self.normalizer.tau,
            "statistics": self.statistics.squeeze(-1),
            "marginal": self.log_marginal,
        }


def _finite(table: Tensor) -> Tensor:
    """Exchange -inf (an outcome of probability 0) for the log of the smallest positive number.

    A candidate that the selected token makes impossible is not redundant at all; with -inf its gain would be infinite
    and relevance could no longer tell such candidates apart.
    """
    return table.clamp_min(math.log(torch.finfo(table.dtype).tiny))


@dataclass(frozen=True)
class SelfPMI(Pairwise):
    """Pointwise mutual information between visual tokens (MI-Pruner, Eqns 15 and 17 with x = v).

    Parameters
    ----------
    normalizer : Normalizer, default ``Softmax(0.1)``
    marginal : str, default "uniform"
        What stands for p(v_j). ``uniform`` is the paper's 1/N, which the row softmax contradicts (its own law of
        total probability gives another marginal). ``total``: that one, the mean of the rows. ``stationary``: the
        prior under which the rows' marginal is the prior itself; D becomes symmetric. ``sinkhorn``: scale the kernel
        until both marginals are uniform, as the paper assumes; D becomes symmetric. The last two need a softmax.
    """

    normalizer: Normalizer = Softmax()  # noqa: RUF009  (immutable)
    marginal: SelfMarginal = "uniform"
    requires = frozenset({"visual"})

    def __post_init__(self) -> None:
        check_choice(self, "marginal", get_args(SelfMarginal))
        if self.marginal in ("stationary", "sinkhorn") and not isinstance(self.normalizer, Softmax):
            raise ConfigError(f"SelfPMI.marginal {self.marginal!r} needs normalizer 'softmax', got {self.normalizer!r}")

    def table(self, features: Features) -> SelfPMITable:
        """Reduce the rows of the cosine table block by block; columns come later."""
        mask = features.visual_mask
        if type(self.normalizer) is Softmax and not on_host(features.visual) and _kept(features.visual):
            gram, log_z = cosine_partition(features.visual, self.normalizer.tau, mask)
            cosine, statistics = CosineTable(features.visual, gram), log_z.unsqueeze(-1)
        else:
            cosine = CosineTable(features.visual)
            statistics = reduced(cosine, lambda _, block: self.normalizer.statistics(block, mask))
        valid = features.valid()
        log_n = features.log_size(statistics.dtype)
        if self.marginal == "uniform":
            log_marginal = -log_n.expand(valid.shape)
        elif self.marginal == "total":
            log_marginal = _log_row_mean(cosine, self.normalizer, statistics, mask) - log_n
        elif self.marginal == "stationary":
            log_z = statistics.squeeze(-1)
            log_marginal = log_z - torch.logsumexp(log_z.masked_fill(~valid, -math.inf), dim=1, keepdim=True)
        else:
            assert isinstance(self.normalizer, Softmax)
            log_u = _sinkhorn(cosine, self.normalizer.tau, valid)
            statistics, log_marginal = -(log_u + log_n).unsqueeze(-1), -(log_u + log_n)
        return SelfPMITable(cosine, self.normalizer, statistics, log_marginal)


def _log_row_mean(cosine: CosineTable, normalizer: Normalizer, statistics: Tensor, mask: Tensor | None) -> Tensor:
    """log sum_i p(v_j | v_i) over real rows, blocks folded by logaddexp: (B, N)."""
    total: Tensor | None = None
    for rows, block in cosine.blocks():
        log_prob = normalizer.log_prob(block, statistics[:, rows])
        if mask is not None:
            log_prob = log_prob.masked_fill(~mask[:, rows].unsqueeze(-1), -math.inf)
        part = torch.logsumexp(log_prob, dim=1)
        total = part if total is None else torch.logaddexp(total, part)
    assert total is not None
    return total


def _log_sums(_rows: slice, block: Tensor, *, tau: float, seen: Tensor) -> Tensor:
    return torch.logsumexp(block / tau + seen, dim=-1)


def _sinkhorn(cosine: CosineTable, tau: float, valid: Tensor, steps: int = 200, tolerance: float = 1e-6) -> Tensor:
    """log u with exp(cos_ij / tau + log u_i + log u_j) summing to 1/N over each row and column: (B, N)."""
    n = valid.sum(1, keepdim=True).to(working_precision(cosine.tokens).dtype)
    log_u = torch.zeros_like(valid, dtype=n.dtype) - n.log()
    for _ in range(steps):
        seen = log_u.masked_fill(~valid, -math.inf).unsqueeze(1)
        row = reduced(cosine, partial(_log_sums, tau=tau, seen=seen))
        step = (-n.log() - row - log_u) / 2
        log_u = log_u + step
        if float(step[valid].abs().max()) < tolerance:
            break
    return log_u
