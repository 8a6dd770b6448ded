"""Facility location: every row of a table is served by its best pick."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from tokenprune.components.normalizers import Softmax
from tokenprune.components.objectives.remade import Similar, too_long
from tokenprune.core.errors import ConfigError
from tokenprune.core.features import Features, on_host
from tokenprune.core.information import cosine_similarity, log_conditional
from tokenprune.core.kinds import Normalizer, Objective, check_number
from tokenprune.kernels import usable

__all__ = ["CoverState", "Coverage", "FacilityLocation", "LongCoverState", "PMICoverage", "softmax_coverage"]


def softmax_coverage(
    rows: Tensor, tokens: Tensor, tau: float, row_mask: Tensor | None = None, token_mask: Tensor | None = None
) -> Tensor:
    """How much each token covers each row: softmax over tokens of cosine / tau, divided by the number of rows.

    Parameters
    ----------
    rows, tokens : Tensor, (B, R, d) and (B, N, d)
    tau : float
    row_mask, token_mask : bool Tensor, (B, R) and (B, N), optional
        True where real; padding covers and is covered by nothing.

    Returns
    -------
    Tensor, (B, R, N)
        Non-negative; sums to 1 over both axes.
    """
    table = log_conditional(cosine_similarity(rows, tokens), tau, token_mask).exp()
    if token_mask is not None:
        table = table.masked_fill(~token_mask.unsqueeze(1), 0)
    if row_mask is None:
        return table / rows.shape[1]
    return table.masked_fill(~row_mask.unsqueeze(2), 0) / row_mask.sum(1).view(-1, 1, 1)


@dataclass(frozen=True)
class CoverState:
    """The table (B, R, N) and what each row has of its best pick (B, R)."""

    table: Tensor
    best: Tensor

    @classmethod
    def of(cls, table: Tensor, *rest: Tensor) -> Self:
        """Nothing is covered. A token's column is laid out in one piece on the host, where single ones are read."""
        if on_host(table):
            table = table.mT.contiguous().mT
        return cls(table, torch.zeros_like(table[:, :, 0]), *rest)

    def rises(self) -> Tensor:
        """What each token adds to the rows that it serves better than the picks, (B, N).

        Added up in float64 and rounded, so that the order of addition decides nothing.
        """
        rise = (self.table - self.best.unsqueeze(-1)).clamp_min_(0)
        return rise.sum(1, dtype=torch.float64).to(rise.dtype)

    def among(self, candidates: Tensor) -> CoverState:
        """The state in which some tokens (B, C) are all there are."""
        row = torch.arange(len(candidates), device=candidates.device).unsqueeze(1)
        return replace(self, table=self.table.mT[row, candidates].mT)

    def column(self, index: Tensor) -> Tensor:
        """What one token serves: (B,) -> (B, R)."""
        return self.table.gather(2, index.view(-1, 1, 1).expand(-1, self.table.shape[1], 1)).squeeze(-1)


@dataclass(frozen=True)
class LongCoverState(CoverState):
    """The same for long inputs: the table holds rows of text (B, T, N), those of visual tokens are made when read.

    ``there`` (B, C) are the tokens that the state is about, all of them by default.
    """

    similar: Similar
    there: Tensor | None = None

    def rises(self) -> Tensor:
        """Some columns at a time, (B, N) or (B, C)."""
        index = self.there
        if index is None:
            index = torch.arange(self.table.shape[2], device=self.table.device).expand(len(self.table), -1)
        found = [CoverState(part, self.best).rises() for part in self._parts(index)]
        return torch.cat(found, 1)

    def among(self, candidates: Tensor) -> CoverState:
        """Without their columns."""
        return replace(self, there=candidates)

    def column(self, index: Tensor) -> Tensor:
        """(B,) -> (B, T + N)."""
        return next(self._parts(index.unsqueeze(1))).squeeze(-1)

    def _parts(self, index: Tensor) -> Iterator[Tensor]:
        row = torch.arange(len(index), device=index.device).unsqueeze(1)
        for which, columns in self.similar.columns(index):
            text = self.table.mT[row, index[:, which]]
            yield torch.cat([text, columns[:, : text.shape[1]]], 2).mT


class Coverage(Objective):
    """f(S) = sum over rows r of max_{j in S} M_rj for a non-negative table M: monotone and submodular.

    Greedy is therefore within 1 - 1/e of the best set. A pick costs O(R N).
    """

    submodular = True
    monotone = True
    non_increasing_gains = True
    uses_scores = False

    def gains(self, state: CoverState) -> Tensor:
        """What each candidate adds to the rows it serves better than the picks."""
        return state.rises()

    def gains_of(self, state: CoverState, candidates: Tensor) -> Tensor:
        """What some candidates add."""
        return self.gains(state.among(candidates))

    def take(self, state: CoverState, index: Tensor) -> CoverState:
        """Let the pick serve the rows it serves better."""
        served = torch.maximum(state.best, state.column(index.clamp_min(0)))
        return replace(state, best=torch.where((index >= 0).unsqueeze(-1), served, state.best))

    def run(self, state: CoverState, available: Tensor, counts: tuple[int, ...], repeats: bool) -> Tensor | None:
        """A program for tables in float32."""
        if type(state) is LongCoverState or not usable(state.table) or state.table.dtype != torch.float32:
            return None
        from tokenprune.kernels.coverage import greedy_coverage  # needs Triton

        return greedy_coverage(state.table, state.best, available, counts, repeats=repeats)

    def value(self, state: CoverState) -> Tensor:
        """f of the picks, (B,)."""
        return state.best.sum(1)


@dataclass(frozen=True)
class FacilityLocation(Coverage):
    """f(S) = sum over rows r of max_{j in S} M_rj, rows being text tokens and, weighed by alpha, visual ones (MMTok).

    Text rows are compared with the visual tokens, visual rows with one another in the encoder's space; a softmax over
    the candidates turns each row into a distribution. Monotone and submodular, so greedy is within 1 - 1/e of the
    best. A pick costs O((T + N) N). On the host the visual rows of long inputs are made again where they are read
    (:mod:`tokenprune.components.objectives.remade`): O((T + N) C) memory for the C columns that are read at a time.

    Parameters
    ----------
    alpha : float, default 0.5
        Weight of the visual rows, in [0, 100]; 0 leaves them out.
    tau_text : float or None, default 0.02
        Temperature of the text rows; None leaves them out.
    tau_visual : float, default 0.2
        Temperature of the visual rows.
    signal : str, default "encoder"
        Space in which visual tokens are compared.
    """

    alpha: float = 0.5
    tau_text: float | None = 0.02
    tau_visual: float = 0.2
    signal: str = "encoder"

    def __post_init__(self) -> None:
        check_number(self, "alpha", 0, 100)
        check_number(self, "tau_visual", 0, 100, open_low=True)
        if self.tau_text is not None:
            check_number(self, "tau_text", 0, 100, open_low=True)
        elif self.alpha == 0:
            raise ConfigError("FacilityLocation: alpha=0 and tau_text=None leave no row to cover")

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The text, unless it is left out, and the signal compared, unless alpha is 0."""
        return frozenset(
            {"visual"} | ({"text"} if self.tau_text is not None else set()) | ({self.signal} if self.alpha else set())
        )

    def start(self, features: Features, scores: Tensor) -> CoverState:
        """Both tables, stacked; nothing is covered. Of long inputs on the host there is no table of visual rows."""
        tables = []
        mask = features.visual_mask
        if self.tau_text is not None:
            tables.append(softmax_coverage(features.text, features.visual, self.tau_text, features.text_mask, mask))
        if self.alpha:
            encoded = features[self.signal]
            if too_long(encoded):
                return self._long(features, tables)
            tables.append(self.alpha * softmax_coverage(encoded, encoded, self.tau_visual, mask, mask))
        table = torch.cat(tables, dim=1)
        return CoverState.of(table)

    def _long(self, features: Features, text: list[Tensor]) -> LongCoverState:
        similar = Similar.of(features[self.signal], self.tau_visual, self.alpha, features.visual_mask)
        batch, n, _ = similar.unit.shape
        rows = text[0] if text else similar.unit.new_zeros(batch, 0, n)
        return LongCoverState(rows, similar.unit.new_zeros(batch, rows.shape[1] + n), similar)


@dataclass(frozen=True)
class PMICoverage(Coverage):
    """f(S) = sum over text tokens j of q_j max_{i in S} exp PMI(v_i; t_j): facility location over the PMI table.

    q_j is the text marginal, so q_j exp PMI(v_i; t_j) is p(t_j | v_i) and f(S) the sum of every text token's best
    conditional probability. Unlike Algorithm 1's score it is a monotone submodular set function, so the guarantee of
    1 - 1/e holds for it. It stops gaining once every text token is served; the rest of a budget is then filled in
    index order, so combine it with few tokens or a long prompt.

    Parameters
    ----------
    normalizer : Normalizer, default ``Softmax(0.1)``
    """

    normalizer: Normalizer = Softmax()  # noqa: RUF009  (immutable)
    requires = frozenset({"visual", "text"})
    gains_of = Objective.gains_of  # a row a text token: all gains cost less than choosing among them

    def start(self, features: Features, scores: Tensor) -> CoverState:
        """The conditional distributions, text tokens down; nothing is covered."""
        similarity = cosine_similarity(features.visual, features.text)
        table = self.normalizer(similarity, features.text_mask).exp().mT
        for mask, axis in ((features.text_mask, 2), (features.visual_mask, 1)):
            if mask is not None:
                table = table.masked_fill(~mask.unsqueeze(axis), 0)
        return CoverState.of(table)
