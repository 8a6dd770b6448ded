"""Tables: aggregators that reduce them, normalizers of similarities, and those over pairs of visual tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tokenprune.core.errors import CheckError, FeatureError
from tokenprune.core.kinds import Aggregator, Normalizer, PairTable, Pairwise, aggregated
from tokenprune.testing.instances import Instance, halves, noisy, refuse, row_of, same_numbers

__all__ = ["try_aggregator", "try_normalizer", "try_pairwise"]


def try_aggregator(part: Aggregator) -> int:
    """Shape, the same twice, other rows, and columns that the mask leaves out."""
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((1, 2), (2, 3), (3, 1), (4, 5)):
        log_p = torch.randn(2, rows, columns, dtype=torch.float64, generator=generator).log_softmax(-1)
        table = log_p - log_p.logsumexp(1, keepdim=True)
        what = f"table {table.tolist()}, log weights {log_p.tolist()}"
        try:
            whole = aggregated(part, table, log_p, torch.ones(2, columns, dtype=torch.bool))
        except FeatureError as error:
            raise CheckError(f"{error}; on {what}") from error
        if not same_numbers(whole, aggregated(part, table, log_p, torch.ones(2, columns, dtype=torch.bool))):
            raise CheckError(f"{part!r}: the same table gives other numbers from call to call; on {what}")
        if not same_numbers(
            whole[:1], aggregated(part, table[:1], log_p[:1], torch.ones(1, columns, dtype=torch.bool))
        ):
            raise CheckError(f"{part!r}: other rows of the batch decide a row; on {what}")
        for row in range(rows):
            some = aggregated(part, table[:, row : row + 1], log_p[:, row : row + 1], None)
            if not same_numbers(whole[:, row : row + 1], some):
                raise CheckError(f"{part!r}: other tokens decide the number of token {row}; on {what}")
        for content in (7.0, -7.0):
            more, weights = (torch.cat([x, torch.full_like(x[..., :1], content)], -1) for x in (table, log_p))
            mask = torch.arange(columns + 1).expand(2, -1) < columns
            for order in (1, -1):  # what is left out may stand first
                turned = [x.flip(-1) if order < 0 else x for x in (more, weights, mask)]
                if not same_numbers(whole, aggregated(part, *turned)):
                    raise CheckError(f"{part!r}: columns that the mask leaves out decide; on {what}")
    return 4


def try_normalizer(part: Normalizer) -> int:
    """Probabilities, in two steps as in one, and columns that the mask leaves out."""
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((1, 2), (2, 3), (4, 5)):
        similarity = torch.rand(2, rows, columns, dtype=torch.float64, generator=generator) * 2 - 1
        what = f"similarity {similarity.tolist()}"
        log_p = part(similarity)
        if not isinstance(log_p, Tensor) or log_p.shape != similarity.shape:
            raise CheckError(f"{part!r} must return a table {tuple(similarity.shape)}; on {what}")
        if not same_numbers(log_p.exp().sum(-1), torch.ones(2, rows)):
            raise CheckError(f"{part!r}: probabilities of a row do not sum to 1: {log_p.exp().tolist()}; on {what}")
        some = part.log_prob(similarity[..., :1], part.statistics(similarity))
        if not same_numbers(some.exp(), log_p[..., :1].exp()):
            raise CheckError(f"{part!r}: log_prob of some columns is not that of the whole table; on {what}")
        if not same_numbers(part(similarity[:1, -1:]).exp(), log_p[:1, -1:].exp()):
            raise CheckError(f"{part!r}: other rows of the table decide a row; on {what}")
        for content in (7.0, -7.0):
            more = torch.cat([similarity, torch.full_like(similarity[..., :1], content)], -1)
            mask = torch.arange(columns + 1).expand(2, -1) < columns
            masked = part(more, mask)[..., :columns]
            turned = part(more.flip(-1), mask.flip(-1)).flip(-1)[..., :columns]
            if not same_numbers(masked.exp(), log_p.exp()) or not same_numbers(turned.exp(), log_p.exp()):
                raise CheckError(f"{part!r}: columns that the mask leaves out decide; on {what}")
    return 3


def try_pairwise(part: Pairwise, instance: Instance) -> None:
    """One table however it is read, the same twice, finite, and rows apart."""
    valid = instance.features.valid()
    both = valid.unsqueeze(1) & valid.unsqueeze(2)
    dense = _dense(part, instance)
    if not torch.equal(dense[both], _dense(part, instance)[both]):
        refuse(f"{part!r}: the table of the same features differs from call to call", instance)
    if not bool(torch.isfinite(dense[both]).all()):
        refuse(f"{part!r}: an entry of real tokens is NaN or infinite: {dense.tolist()}", instance)
    n = valid.shape[1]
    table = part.table(instance.features)
    columns = torch.stack([table.column(torch.full((len(valid),), j)) for j in range(n)], dim=-1)
    # each row's own column: what one row asks for is nothing to another
    turned = torch.stack([(torch.arange(len(valid)) + j) % n for j in range(n)], dim=1)
    several = table.columns(turned).mT
    blocks = torch.cat([block for _, block in part.table(instance.features).blocks()], dim=1)
    expected = dense.gather(2, turned.unsqueeze(1).expand(-1, n, -1))
    seen = both.gather(2, turned.unsqueeze(1).expand(-1, n, -1))
    for name, got, wanted, real in (
        ("column", columns, dense, both),
        ("columns", several, expected, seen),
        ("blocks", blocks, dense, both),
    ):
        if got.shape != wanted.shape or not same_numbers(got[real], wanted[real]):
            refuse(f"{part!r}: {name} gives other entries than dense: {got.tolist()}, {wanted.tolist()}", instance)
    _rows_apart(part, instance, dense)
    for pair in halves(instance, list(instance.features)):
        half, whole = (_dense(part, one)[both].double() for one in pair)
        if torch.allclose(half, whole, rtol=0.05, atol=0.05 * float(whole.abs().max())):
            continue
        refuse(f"{part!r}: entries of half precision are off: {half.tolist()}, float32 {whole.tolist()}", instance)


def _dense(part: Pairwise, instance: Instance) -> Tensor:
    table = part.table(instance.features)
    if not isinstance(table, PairTable):
        refuse(f"{part!r} must return a PairTable, got {table!r}", instance)
    dense = table.dense()
    b, n = instance.features.valid().shape
    if not isinstance(dense, Tensor) or tuple(dense.shape) != (b, n, n):
        got = tuple(dense.shape) if isinstance(dense, Tensor) else type(dense).__name__
        refuse(f"{part!r}: dense must be of shape {(b, n, n)}, got {got}", instance)
    return dense


def _rows_apart(part: Pairwise, instance: Instance, dense: Tensor) -> None:
    valid = instance.features.valid()
    for row in range(len(valid)):
        real = valid[row].nonzero().flatten()
        own = dense[row][real][:, real]
        cut: Callable[[Tensor], Tensor] = lambda x, real=real: x[0][real][:, real]  # type: ignore[misc]  # noqa: E731
        for cause, alone in (
            ("padding or other rows of the batch decide", _dense(part, row_of(instance, row))[0]),
            ("other rows of the batch decide", cut(_dense(part, row_of(instance, row, padded=True)))),
        ):
            if same_numbers(own, alone):
                continue
            shaken = _dense(part, noisy(row_of(instance, row), 0))[0]
            if same_numbers(shaken, _dense(part, row_of(instance, row))[0]):
                refuse(f"{part!r}: {cause} row {row}: {own.tolist()}, alone {alone.tolist()}", instance)
