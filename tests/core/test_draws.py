"""Random numbers that follow from content: uniform, independent of the batch, as the published generator makes them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import tokenprune as tp
from tokenprune.core.draws import _STEP, _mixed, fingerprint, place_noise, reseeded

SPLITMIX = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
"""First outputs of splitmix64 for seed 0, as its author's C program prints them."""


def test_bits_are_mixed_as_splitmix64_does() -> None:
    found = _mixed(torch.arange(1, 5) * _STEP)
    assert [number % 2**64 for number in found.tolist()] == SPLITMIX


@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 2**20))
def test_a_row_has_the_same_numbers_in_any_batch(batch: int, n: int, seed: int) -> None:
    visual = torch.randn(batch, n, 5, generator=torch.Generator().manual_seed(seed))
    together = reseeded(place_noise(fingerprint(visual), n), seed)
    for row in range(batch):
        alone = visual[row : row + 1]
        assert torch.equal(reseeded(place_noise(fingerprint(alone), n), seed)[0], together[row])
    order = torch.randperm(batch)
    assert torch.equal(reseeded(place_noise(fingerprint(visual[order]), n), seed), together[order])


@given(st.data())
def test_padding_changes_nothing_wherever_it_stands(data: st.DataObject) -> None:
    n, more = data.draw(st.integers(1, 12)), data.draw(st.integers(0, 6))
    visual = torch.randn(1, n, 3, generator=torch.Generator().manual_seed(n))
    places = sorted(data.draw(st.permutations(range(n + more)))[:n])
    padded, real = torch.zeros(1, n + more, 3), torch.zeros(1, n + more, dtype=torch.bool)
    padded[:, places], real[:, places] = visual, True
    own = place_noise(fingerprint(visual), n)
    assert torch.equal(place_noise(fingerprint(padded, real), n + more, real)[real], own[0])
    behind = torch.nn.functional.pad(visual.flatten(1), (0, more))
    assert torch.equal(fingerprint(behind), fingerprint(visual.flatten(1)))


def test_numbers_are_uniform_and_those_of_two_seeds_have_nothing_in_common() -> None:
    noise = place_noise(fingerprint(torch.arange(200.0).unsqueeze(1)), 500)
    first, second = (reseeded(noise, seed).flatten().numpy() for seed in (0, 1))
    for numbers in (noise.flatten().numpy(), first, second):
        assert stats.kstest(numbers, "uniform").pvalue > 1e-3
        assert 0 <= numbers.min() <= numbers.max() < 1
    assert abs(stats.pearsonr(first, second).statistic) < 0.01
    # neighbours: in place, and pictures that differ in one number
    assert abs(stats.pearsonr(noise[:, 1:].flatten().numpy(), noise[:, :-1].flatten().numpy()).statistic) < 0.01
    assert abs(stats.pearsonr(noise[1:].flatten().numpy(), noise[:-1].flatten().numpy()).statistic) < 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_number_of_a_picture_counts(dtype: torch.dtype) -> None:
    visual = torch.arange(24.0).view(1, 8, 3).to(dtype)
    own = fingerprint(visual)
    for i in range(24):
        other = visual.clone()
        other.view(-1)[i] += 1
        assert not torch.equal(fingerprint(other), own)


def test_every_token_is_kept_as_often_as_any_other() -> None:
    visual = torch.randn(2000, 12, 2, generator=torch.Generator().manual_seed(0))
    kept = tp.build("random").select(tp.Features(visual), 3).indices
    counts = torch.bincount(kept.flatten(), minlength=12).numpy()
    assert stats.chisquare(counts).pvalue > 1e-3
