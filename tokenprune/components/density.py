"""Density-peak clustering over nearest neighbours (DPC-kNN), as several methods use it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tokenprune.core.errors import OptionTypeError
from tokenprune.core.features import working_precision

__all__ = ["density_peaks", "peaks", "peaks_of_rows"]


def peaks(tokens: Tensor, neighbours: int, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How much of a density peak each token is.

    A token's density is exp(-mean of its ``neighbours`` smallest squared distances, its own 0 among them), with
    distances divided by sqrt(d). A peak is dense and far from anything denser: density times distance to the nearest
    denser token, which for the densest one counts as the largest distance there is. Densities are compared as
    logarithms, so that far-apart tokens do not underflow. Of equally dense tokens (two that are each other's nearest,
    say) the one with the lower index counts as denser.

    Parameters
    ----------
    tokens : Tensor, (m, d)
    neighbours : int
        From 1 to m.
    noise : Tensor, (m,), optional
        Numbers in [0, 1); a millionth of them is added to the densities, which breaks ties as published code does.

    Returns
    -------
    peak : float64 Tensor, (m,)
        Logarithm of density times distance.
    distance : Tensor, (m, m)
    """
    if isinstance(neighbours, bool) or not isinstance(neighbours, int) or not 1 <= neighbours <= len(tokens):
        raise OptionTypeError(f"density_peaks: neighbours must be an int from 1 to {len(tokens)}, got {neighbours!r}")
    x = working_precision(tokens)
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / math.sqrt(x.shape[-1])
    density = -distance.topk(neighbours, largest=False).values.pow(2).mean(-1).double()
    if noise is not None:
        density = (density.exp() + 1e-6 * noise).log()
    denser = density.unsqueeze(0) > density.unsqueeze(1)
    denser |= (density.unsqueeze(0) == density.unsqueeze(1)).tril(-1)
    separation = distance.masked_fill(~denser, math.inf).amin(-1)
    separation = torch.where(separation.isinf(), distance.max(), separation)
    return density + separation.double().clamp_min(torch.finfo(torch.float64).tiny).log(), distance


def density_peaks(
    tokens: Tensor, n_clusters: int, noise: Tensor | None = None, *, neighbours: int | None = None
) -> tuple[Tensor, Tensor]:
    """Cluster tokens around the highest density peaks (see :func:`peaks`); the rest joins the nearest centre.

    Parameters
    ----------
    tokens : Tensor, (m, d)
    n_clusters : int
        From 1 to m.
    noise : Tensor, (m,), optional
        As in :func:`peaks`.
    neighbours : int, optional
        Nearest neighbours that a density is made of, from 1 to m; by default as many as there are clusters.

    Returns
    -------
    centres : Tensor, (n_clusters,)
        Indices, highest peak first.
    member_of : Tensor, (m,)
        Number of each token's centre; of equally near ones the higher peak.
    """
    peak, distance = peaks(tokens, n_clusters if neighbours is None else neighbours, noise)
    centres = peak.argsort(descending=True, stable=True)[:n_clusters]
    member_of = distance[:, centres].argmin(-1)
    member_of[centres] = torch.arange(n_clusters, device=centres.device)
    return centres, member_of


def peaks_of_rows(tokens: Tensor, there: Tensor, clusters: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """:func:`density_peaks` of several rows of tokens, whose numbers only the device knows: nothing is read back.

    Parameters
    ----------
    tokens : Tensor, (B, m, d)
    there : bool Tensor, (B, m)
        True at tokens that exist, which come first.
    clusters : int64 Tensor, (B,)
        How many clusters a row has, and neighbours a density is made of: from 0 to the row's tokens, at most ``most``.
    most : int

    Returns
    -------
    centres : int64 Tensor, (B, most)
        Indices, highest peak first, -1 as padding.
    member_of : int64 Tensor, (B, m)
        Number of each token's centre, ``most`` where there is no token.
    """
    x = working_precision(tokens)
    width = x.shape[1]
    both = there.unsqueeze(1) & there.unsqueeze(2)
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / math.sqrt(x.shape[-1])
    nearest = distance.masked_fill(~both, math.inf).topk(min(most, width), largest=False).values
    counted = torch.arange(nearest.shape[-1], device=x.device) < clusters.view(-1, 1, 1)
    square = nearest.pow(2).where(counted, 0).sum(-1)
    density = -(square / clusters.clamp_min(1).unsqueeze(1)).double()
    denser = density.unsqueeze(1) > density.unsqueeze(2)
    denser |= (density.unsqueeze(1) == density.unsqueeze(2)).tril(-1)
    separation = distance.masked_fill(~(denser & both), math.inf).amin(-1)
    largest = distance.masked_fill(~both, 0).amax((1, 2)).unsqueeze(1)
    separation = torch.where(separation.isinf(), largest, separation)
    peak = density + separation.double().clamp_min(torch.finfo(torch.float64).tiny).log()
    order = peak.masked_fill(~there, -math.inf).argsort(dim=1, descending=True, stable=True)
    order = torch.nn.functional.pad(order, (0, max(0, most - width)))[:, :most]
    real = torch.arange(most, device=x.device) < clusters.unsqueeze(1)
    away = distance.gather(2, order.unsqueeze(1).expand(-1, width, -1))
    member_of = away.masked_fill(~real.unsqueeze(1), math.inf).argmin(-1).where(there, most)
    # a centre is its own, even where another is as near
    own = torch.nn.functional.pad(member_of, (0, 1))
    own.scatter_(1, order.where(real, width), torch.arange(most, device=x.device).expand_as(order))
    return order.where(real, -1), own[:, :width]
