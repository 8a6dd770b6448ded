"""Random numbers that belong to what they are drawn for, and not to a batch: each follows from content, place and seed.

Integers of 64 bits, whose sums and products do not depend on an order, on the device that holds the content: nothing is
read back, and a graph that was captured draws anew for what it is given.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fingerprint", "place_noise", "reseeded"]

_STEP = -0x61C8864680B583EB
"""2^64 divided by the golden ratio, odd, as a signed number."""


def fingerprint(values: Tensor, real: Tensor | None = None) -> Tensor:
    """A hash of each row: (B, N, d) or (B, M) -> int64 (B,).

    Zeros behind the last number of a row, as padding adds them, change nothing; nor does padding that ``real`` tells.

    Parameters
    ----------
    values : Tensor, (B, N, d) or (B, M)
        Any numbers; taken as float32, bit by bit.
    real : bool Tensor, (B, N), optional
        False at padding.
    """
    bits = values.detach().float().contiguous().view(torch.int32).long()
    if real is None:
        bits = bits.flatten(1)
        return _mixed((bits * _weights(torch.arange(bits.shape[1], device=bits.device))).sum(1))
    inner = bits.shape[2]
    rank = (real.long().cumsum(1) - 1).unsqueeze(-1)
    place = rank * inner + torch.arange(inner, device=bits.device)
    return _mixed((bits * _weights(place) * real.unsqueeze(-1)).sum((1, 2)))


def place_noise(fingerprints: Tensor, n: int, real: Tensor | None = None) -> Tensor:
    """Uniform numbers in [0, 1) for ``n`` places of each row: int64 (B,) -> float64 (B, n).

    Parameters
    ----------
    fingerprints : int64 Tensor, (B,)
    n : int
    real : bool Tensor, (B, n), optional
        Places are counted among these.
    """
    place = torch.arange(n, device=fingerprints.device).unsqueeze(0) if real is None else real.long().cumsum(1) - 1
    return _uniform(_mixed(fingerprints.unsqueeze(1) + (place + 1) * _STEP))


def reseeded(noise: Tensor, seed: int) -> Tensor:
    """Other uniform numbers for each of some numbers, as many as there are seeds: (B, n) -> float64 (B, n)."""
    offset = (seed + 1) * _STEP & 0xFFFF_FFFF_FFFF_FFFF
    signed = offset - 2**64 if offset >= 2**63 else offset
    return _uniform(_mixed(_mixed(noise.double().contiguous().view(torch.int64)) + signed))


def _mixed(x: Tensor) -> Tensor:
    """Spread every bit over all of them (the finaliser of splitmix64)."""
    x = (x ^ _shifted(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shifted(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """Move bits to the right, zeros from the left."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _weights(place: Tensor) -> Tensor:
    """An odd number for each place, so that no bit of what is multiplied gets lost."""
    return _mixed((place + 1) * _STEP) | 1


def _uniform(x: Tensor) -> Tensor:
    return _shifted(x, 11).double() * 2.0**-53
