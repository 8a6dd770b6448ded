"""What a selector found besides its picks: segments, roles, who joins whom; on its way to mergers and later stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenprune.core.errors import MissingSignalError, closest

__all__ = ["Groups", "Picks", "offset_groups", "stacked"]


@dataclass(frozen=True)
class Groups:
    """The structure behind a set of picks; every part is optional.

    Parameters
    ----------
    segment : int64 Tensor, (B, N), optional
        Number of the segment (run of frames, crop, cluster) of each token, -1 at padding.
    part : int64 Tensor, (B, N), optional
        Finer groups inside segments, numbered over the whole row: where a later stage gives each group its share, that
        is what it counts in. -1 at tokens of no part.
    roles : mapping of str to bool Tensor, (B, N)
        What tokens are: "centre", "salient", "static", or names of your own. A token may have several.
    members : int64 Tensor, (B, P, 2), optional
        Pairs (token, kept token that it joins), -1 as padding. Membership may overlap: a token may join several kept
        ones, and several frames may make up one token.
    weights : Tensor, (B, P), optional
        Share of each pair's token in what becomes of the kept one; 0 at padding. A kept token that no pair names stays
        as it is.
    """

    segment: Tensor | None = None
    part: Tensor | None = None
    roles: Mapping[str, Tensor] = field(default_factory=dict)
    members: Tensor | None = None
    weights: Tensor | None = None

    def role(self, name: str) -> Tensor:
        """Bool (B, N), True at tokens of that role.

        Raises
        ------
        MissingSignalError
            The selector names no such role.
        """
        if name not in self.roles:
            raise MissingSignalError(f"no role {name!r} was handed on by the selector; {closest(name, self.roles)}")
        return self.roles[name]


@dataclass(frozen=True)
class Picks:
    """What a selector returns.

    Parameters
    ----------
    order : int64 Tensor, (B, K)
        Positions in the order picked, -1 where a row keeps fewer.
    groups : Groups, optional
        For a merger that reads them, and for stages inside the language model.
    """

    order: Tensor
    groups: Groups | None = None


def stacked(rows: list[Picks]) -> Picks:
    """Put picks of single rows, each (1, ...) and of its own size, into one batch; all must say the same things."""
    width = max(row.order.shape[1] for row in rows)
    order = _padded([row.order[0] for row in rows], -1)[:, :width]
    groups = [row.groups for row in rows]
    if any(group is None for group in groups):
        return Picks(order)
    found: list[Groups] = [group for group in groups if group is not None]
    return Picks(
        order,
        Groups(
            _stack([g.segment for g in found], -1),
            _stack([g.part for g in found], -1),
            {name: _padded([g.roles[name][0] for g in found], False) for name in found[0].roles},
            _stack([g.members for g in found], -1),
            _stack([g.weights for g in found], 0),
        ),
    )


def _stack(values: list[Tensor | None], fill: float) -> Tensor | None:
    known = [value[0] for value in values if value is not None]
    return _padded(known, fill) if len(known) == len(values) else None


def _padded(values: list[Tensor], fill: float) -> Tensor:
    return pad_sequence(values, batch_first=True, padding_value=fill).to(values[0].dtype).contiguous()


def offset_groups(groups: Groups, width: int, rows: int) -> Groups:
    """Groups of single frames, (B F, n), as those of whole units, (B, F n): positions and numbers move apart.

    Parameters
    ----------
    groups : Groups
    width : int
        Tokens of a frame.
    rows : int
        Units B.
    """

    def numbered(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        by_frame = value.view(rows, -1, value.shape[-1])
        most = int(value.max()) + 1
        step = torch.arange(by_frame.shape[1], device=value.device).view(1, -1, 1) * max(most, 0)
        return by_frame.where(by_frame < 0, by_frame + step).flatten(1)

    members = groups.members
    if members is not None:
        frames = members.shape[0] // rows
        step = torch.arange(frames, device=members.device).repeat(rows).view(-1, 1, 1) * width
        members = members.where(members < 0, members + step).view(rows, -1, 2)
    return Groups(
        numbered(groups.segment),
        numbered(groups.part),
        {name: mask.reshape(rows, -1) for name, mask in groups.roles.items()},
        members,
        None if groups.weights is None else groups.weights.reshape(rows, -1),
    )
