"""What rows of attention pay to each token, without the map."""

from __future__ import annotations

import pytest
import torch

from tokenprune.kernels.spoken import spoken


@pytest.mark.parametrize(
    ("heads", "groups", "length", "width", "rows"), [(4, 2, 70, 12, 5), (2, 2, 20, 16, 3), (2, 1, 130, 64, 40)]
)
def test_it_is_the_sum_over_a_map(heads: int, groups: int, length: int, width: int, rows: int, device: str) -> None:
    draw = torch.Generator().manual_seed(length)
    query = torch.randn(2, length, heads, width, generator=draw).transpose(1, 2)
    key = torch.randn(2, groups, length, width, generator=draw)
    places = torch.arange(length - rows, length).expand(2, -1).contiguous()
    real = places.clone()
    real[0, -1] = -1
    scale = width**-0.5
    logits = query @ key.repeat_interleave(heads // groups, 1).mT * scale
    weights = logits.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -torch.inf).softmax(-1)
    want = weights.gather(2, places[:, None, :, None].expand(-1, heads, -1, length))
    want = want.masked_fill((real < 0)[:, None, :, None], 0).mean(1).sum(1)
    with torch.no_grad():
        got = spoken(query.to(device), key.to(device), places.to(device), real.to(device), scale)
        half = spoken(query.to(device).half(), key.to(device).half(), places.to(device), real.to(device), scale)
    torch.testing.assert_close(got.cpu(), want)
    torch.testing.assert_close(half.cpu(), want, rtol=2e-2, atol=2e-3)
