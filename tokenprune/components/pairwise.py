"""How alike two visual tokens are, as tables that are read column by column.

A greedy selector reads one column a pick, so the table itself is only kept where it is small (``DENSE_LIMIT``);
otherwise what normalises a row is reduced in blocks of rows and columns are computed when asked for. Where gains never
rise, picks of long inputs come in rounds (:mod:`tokenprune.components.rounds`, :mod:`tokenprune.kernels.rounds`): a
table of a round's tokens, and columns of many picks by one product. Memory is then O(N * block), time O(N^2 d) once
plus O(N d) a pick.
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
from tokenprune.components.rounds import log_partitions
from tokenprune.core.errors import ConfigError
from tokenprune.core.features import Features, on_host
from tokenprune.core.indexing import gather_tokens
from tokenprune.core.information import cosine_partition, cosine_similarity, unit_norm
from tokenprune.core.kinds import Normalizer, PairTable, Pairwise, check_choice, entries_of, extrema_of, overridden
from tokenprune.kernels import usable

__all__ = ["Cosine", "CosineTable", "DeferredTable", "SelfMarginal", "SelfPMI", "SelfPMITable", "reduced", "too_long"]

SelfMarginal = Literal["uniform", "total", "stationary", "sinkhorn"]

DENSE_LIMIT = 2048
"""Up to this many tokens the N x N cosine matrix of a unit is kept (16 MiB in float32)."""

DENSE_BYTES = 2**30
"""Largest cosine matrix that is kept on any accelerator, all units together: 16,384 tokens of one unit in float32."""

DENSE_SHARE = 4
"""On one with much memory it may take this part of it, where nothing works in rounds: 65,536 tokens on 80 GiB."""

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


def _pictures(features: Features, signal: str) -> Tensor | None:
    """Which picture each row shows, (B,), counted from 0 as they come; None where each has one of its own.

    Several questions about one picture are rows that are equal to the bit: what follows from the picture alone is
    made once. On the host, and where the cosine matrix is kept; looking would make an accelerator wait.
    """
    tokens, mask = features[signal], features.visual_mask
    if len(tokens) < 2 or not on_host(tokens) or not _kept(tokens):
        return None
    first: list[int] = []
    row: list[int] = []
    for b, mine in enumerate(tokens):
        for picture, a in enumerate(first):
            # one token tells most apart
            same = torch.equal(mine[:1], tokens[a, :1]) and torch.equal(mine, tokens[a])
            if same and (mask is None or torch.equal(mask[a], mask[b])):
                row.append(picture)
                break
        else:
            row.append(len(first))
            first.append(b)
    return None if len(first) == len(row) else torch.tensor(row)


def _firsts(row: Tensor) -> list[int]:
    """A row of each picture."""
    return [row.tolist().index(picture) for picture in range(int(row.max()) + 1)]


class CosineTable(PairTable):
    """Cosine of every pair of tokens, kept whole up to ``DENSE_LIMIT`` tokens and recomputed by columns beyond.

    Parameters
    ----------
    tokens : Tensor, (P, N, d)
    gram : Tensor, (P, N, N), optional
        Their cosines, where they are known.
    row : int64 Tensor, (B,), optional
        Which of them each row of the table is about: pictures that several questions ask about are kept once. Only
        where the matrix is kept; all other numbers of rows here are then B.
    """

    def __init__(self, tokens: Tensor, gram: Tensor | None = None, row: Tensor | None = None) -> None:
        self.tokens = tokens
        self.row = row
        self._given = gram is not None
        self._keep = _kept(tokens)
        if gram is not None:
            self.gram = gram

    def about(self, row: Tensor) -> CosineTable:
        """The same cosines, of one row for each question."""
        return CosineTable(self.tokens, self.gram, row)

    @cached_property
    def gram(self) -> Tensor | None:
        """The matrix (P, N, N), made when it is first read; None where it is not kept."""
        return self._whole() if self._keep else None

    def _rows(self, batch: int) -> Tensor:
        return torch.arange(batch, device=self.tokens.device) if self.row is None else self.row

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
        row = self._rows(index.shape[0])
        if self.gram is not None:
            return self.gram[row, index]
        return (self.unit @ self.unit[row, index].unsqueeze(-1)).squeeze(-1)

    def columns(self, indices: Tensor) -> Tensor:
        """Cosine of all tokens to some: (B, C) -> (B, C, N)."""
        if self.gram is None:
            return super().columns(indices)
        return gather_tokens(self.gram, indices) if self.row is None else self.gram[self.row.unsqueeze(1), indices]

    @property
    def long(self) -> bool:
        """Whether there is no matrix."""
        return not self._keep and not self._given and self.row is None

    def between(self, some: Tensor | None, others: Tensor) -> Tensor:
        """Cosines of some tokens, all for None, with others of the same unit: (B, R), (B, C) -> (B, R, C)."""
        if self.gram is not None:
            row = self._rows(len(others)).view(-1, 1, 1)
            rows = torch.arange(self.tokens.shape[1], device=others.device)[None] if some is None else some
            return self.gram[row, rows.unsqueeze(2), others.unsqueeze(1)]
        left = self.unit if some is None else gather_tokens(self.unit, some)
        return left @ gather_tokens(self.unit, others).mT

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield (rows, cosines of those rows to all tokens (B, rows, N)), ``BLOCK`` rows at a time."""
        n = self.tokens.shape[1]
        if self.gram is not None and not on_host(self.tokens) and self.gram.nbytes <= DENSE_BYTES:
            yield slice(0, n), self.gram
            return
        for start in range(0, n, BLOCK):
            rows = slice(start, start + BLOCK)
            if self.gram is None:
                yield rows, self.unit[:, rows] @ self.unit.mT
            else:
                yield rows, self.gram[:, rows] if self.row is None else self.gram[self.row, rows]

    def dense(self) -> Tensor:
        """(B, N, N)."""
        if self.gram is None:
            return self._whole()
        return self.gram if self.row is None else self.gram[self.row]

    def entries(self) -> dict[str, Any] | None:
        """Cosines as they are; kernels read a matrix for each row."""
        return None if self.gram is None or self.row is not None else {"entry": "cosine", "cosine": self.gram}

    def extrema(self) -> dict[str, Any] | None:
        """Cosines as they are, of inputs that are too long for a matrix."""
        if self._given or self.row is not None or self.tokens.dtype == torch.float64 or not too_long(self.tokens):
            return None
        return {"entry": "cosine", "tokens": self.tokens}


def _size(tokens: Tensor) -> int:
    """Bytes of the cosine matrix."""
    batch, n, _ = tokens.shape
    return batch * n * n * max(4, tokens.element_size())


def _kept(tokens: Tensor) -> bool:
    """Whether the cosine matrix is kept whole; accelerators have room for more and are slow at making columns."""
    if on_host(tokens):
        return tokens.shape[1] <= DENSE_LIMIT
    size = _size(tokens)
    return size <= DENSE_BYTES or (tokens.is_cuda and size <= _memory(tokens.device) // DENSE_SHARE)


def too_long(tokens: Tensor) -> bool:
    """Whether tokens are so many that programs work in rounds (:mod:`tokenprune.kernels.rounds`) where they can.

    Not while a graph is captured: the host reads back how far a round came.
    """
    small = tokens.shape[1] <= DENSE_LIMIT if on_host(tokens) else _size(tokens) <= DENSE_BYTES
    return not small and usable(tokens) and not (tokens.is_cuda and torch.cuda.is_current_stream_capturing())


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

    def extrema(self) -> dict[str, Any] | None:
        """As the table's."""
        return extrema_of(self._table)

    @property
    def long(self) -> bool:
        """As the table."""
        return self._table.long and not overridden(self._table, "between")

    def between(self, some: Tensor | None, others: Tensor) -> Tensor:
        """(B, R), (B, C) -> (B, R, C)."""
        return self._table.between(some, others)


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
        tokens, row = features[self.signal], _pictures(features, self.signal)
        return CosineTable(tokens) if row is None else CosineTable(tokens[_firsts(row)]).about(row)


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

    @property
    def long(self) -> bool:
        """As the cosines."""
        return self.cosine.long

    def between(self, some: Tensor | None, others: Tensor) -> Tensor:
        """D of some candidates, all for None, with some tokens: (B, R), (B, C) -> (B, R, C)."""
        statistics = self.statistics if some is None else gather_tokens(self.statistics, some)
        log_prob = self.normalizer.log_prob(self.cosine.between(some, others), statistics)
        return _finite(log_prob - self.log_marginal.gather(1, others).unsqueeze(1))

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
        return self._of(entries_of(self.cosine))

    def extrema(self) -> dict[str, Any] | None:
        """Likewise."""
        return self._of(extrema_of(self.cosine))

    def _of(self, cosines: dict[str, Any] | None) -> dict[str, Any] | None:
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
        row = _pictures(features, "visual")
        if row is None:
            return SelfPMITable(*self._normalised(features))
        firsts = _firsts(row)
        mask = None if features.visual_mask is None else features.visual_mask[firsts]
        pictures = Features(features.visual[firsts], visual_mask=mask, check=False)
        cosine, normalizer, statistics, log_marginal = self._normalised(pictures)
        return SelfPMITable(cosine.about(row), normalizer, statistics[row], log_marginal[row])

    def _normalised(self, features: Features) -> tuple[CosineTable, Normalizer, Tensor, Tensor]:
        """Cosines, and what makes them PMI: statistics of the rows and the log of the marginal."""
        mask = features.visual_mask
        plain = type(self.normalizer) is Softmax
        tau = getattr(self.normalizer, "tau", 1.0)
        if plain and features.visual.dtype != torch.float64 and too_long(features.visual):
            from tokenprune.kernels import rounds  # needs Triton

            cosine = CosineTable(features.visual)
            statistics = rounds.log_partitions(features.visual, tau, mask).unsqueeze(-1)
        elif plain and not on_host(features.visual) and _kept(features.visual):
            gram, log_z = cosine_partition(features.visual, tau, mask)
            cosine, statistics = CosineTable(features.visual, gram), log_z.unsqueeze(-1)
        elif plain and on_host(features.visual) and not _kept(features.visual):
            cosine = CosineTable(features.visual)
            statistics = log_partitions(cosine.unit, tau, mask, BLOCK).unsqueeze(-1)
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
        return cosine, self.normalizer, statistics, log_marginal


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


def _sinkhorn(cosine: CosineTable, tau: float, valid: Tensor, steps: int = 100) -> Tensor:
    """log u with exp(cos_ij / tau + log u_i + log u_j) summing to 1/N over each row and column: (B, N).

    Scaled so that its diagonal is 1, the kernel has no entry above 1, because it is positive semidefinite, and the
    scaling vector lies between N^-1.5 and N^-0.5: products of the kernel with it neither overflow nor lose anything to
    what underflows, whatever the temperature. For the same reason N times the scaled kernel has eigenvalues between
    0 and 1, so that a step of 2/3 divides a small error by 3 (1/2, the usual one, by 2). Rows then sum to 1/N within a
    relative 1e-6, or 32 units in the last place where that is more.
    """
    diagonal = _diagonal(cosine)
    n = valid.sum(1, keepdim=True).to(diagonal.dtype)
    tolerance = max(1e-6, 32 * torch.finfo(diagonal.dtype).eps)
    kernel = partial(_scaled_kernel, tau=tau, diagonal=diagonal)
    # one table, made once, where the cosines are one
    whole = None if cosine.gram is None else kernel(slice(None), cosine.gram)
    v = valid.to(diagonal.dtype)
    for number in range(steps):
        column = v.unsqueeze(-1)
        times = reduced(cosine, partial(_times, kernel=kernel, column=column)) if whole is None else whole @ column
        sums = torch.where(valid, n * v * times.squeeze(-1), 1.0)
        off = (sums - 1).abs().amax(1, keepdim=True)
        if float(off.max()) <= tolerance:
            break
        # from 1 a half step is exact for groups of equal tokens; a row that is there stays, whatever others still need
        v = torch.where(off <= tolerance, v, v * sums ** (-1 / 2 if number == 0 else -2 / 3))
    return torch.where(valid, v.log() - diagonal / (2 * tau), 0.0)  # what stands at padding is finite


def _diagonal(cosine: CosineTable) -> Tensor:
    """Cosine of each token with itself, 0 for the zero vector: (B, N)."""
    return cosine.unit.square().sum(-1) if cosine.gram is None else cosine.gram.diagonal(dim1=1, dim2=2)


def _scaled_kernel(rows: slice, block: Tensor, *, tau: float, diagonal: Tensor) -> Tensor:
    """exp(cos / tau) of some rows, scaled by rows and columns to a diagonal of 1."""
    return (block - diagonal[:, rows].unsqueeze(2) / 2 - diagonal.unsqueeze(1) / 2).div_(tau).exp_()


def _times(rows: slice, block: Tensor, *, kernel: Callable[[slice, Tensor], Tensor], column: Tensor) -> Tensor:
    return kernel(rows, block) @ column
