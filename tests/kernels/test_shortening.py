"""Sequences are shortened as by a loop over their tokens: kept ones in order, then the mean, in seats left over."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenprune.kernels.shortening import Sequence, shortened


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENPRUNE_KERNELS", "interpret")


def padded(rows: list[list[int]], width: int, fill: int = -1) -> Tensor:
    return torch.tensor([row[:width] + [fill] * (width - len(row)) for row in rows])


def looped(
    kinds: list[str], scores: list[float], states: Tensor, kept: int, used: int, made: int
) -> tuple[list[int], list[int], Tensor, list[int], list[int]]:
    """Sources, places of visual tokens, states, their numbers before, and places of text behind them."""
    shown = [place for place, kind in enumerate(kinds) if kind == "v"]
    ranked = sorted(range(len(shown)), key=lambda i: (-scores[i], i))
    left = sorted(ranked[:kept])
    pool = ranked[kept : kept + used]
    mean = [pool[0]] if made and pool else []
    going = [shown[i] for i in left + mean]
    seats = sorted(going)
    sources, new, visual, numbers = [], [], [], []
    queue = list(zip(left + mean, going, strict=True))
    for place, kind in enumerate(kinds):
        if kind == "v" and place not in seats:
            continue
        if kind == "v":
            number, source = queue.pop(0)
            visual.append(len(sources))
            numbers.append(number)
            whole = states[[shown[i] for i in pool]].mean(0) if mean and number == mean[0] else states[source]
        else:
            source, whole = place, states[place]
        sources.append(source)
        new.append(whole)
    end = max(visual)
    behind = [place for place, source in enumerate(sources) if kinds[source] == "t" and place > end]
    return sources, visual, torch.stack(new), numbers, behind


@settings(max_examples=6, phases=[Phase.explicit, Phase.generate])
@given(data=st.data())
def test_rows_are_those_of_a_loop(data: st.DataObject, device: str) -> None:
    batch = data.draw(st.integers(1, 2))
    front, ends = st.lists(st.sampled_from("vvtf"), min_size=2, max_size=7), st.sampled_from(["", "v", "tt"])
    kinds = [["t", *data.draw(front), "v", *data.draw(ends), "t"] for _ in range(batch)]
    length, units = max(map(len, kinds)), [[i for i, kind in enumerate(row) if kind == "v"] for row in kinds]
    most = max(map(len, units))
    scores = torch.tensor(
        [data.draw(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=most, max_size=most))] * batch
    )
    counts = []
    for shown in units:
        kept = data.draw(st.integers(1, len(shown)))
        used = data.draw(st.integers(0, len(shown) - kept))
        counts.append((kept, used, int(used > 0 and data.draw(st.booleans()))))
    hidden = torch.randn(batch, length, 5, generator=torch.Generator().manual_seed(0))
    behind = [
        [i for i, kind in enumerate(row) if kind == "t" and i > max(shown)]
        for row, shown in zip(kinds, units, strict=True)
    ]
    spoken = max(map(len, behind))
    numbers = [
        [shown.index(i) if i in shown else -1 for i in range(len(row))] for row, shown in zip(kinds, units, strict=True)
    ]
    place = torch.arange(length).expand(batch, -1).contiguous()
    mask = padded([[1] * len(row) for row in kinds], length, 0).bool()
    text = padded([[int(kind == "t") for kind in row] for row in kinds], length, 0).bool()
    rows, visual = padded(behind, spoken), padded(units, most)
    order = padded([list(range(len(shown))) for shown in units], most)
    now = Sequence(mask, text, place, place + 3, padded(numbers, length), visual, order, rows, rows)
    now = Sequence(*(getattr(now, name).to(device) for name in Sequence.__dataclass_fields__))
    want = [
        looped(row, scores[i].tolist(), hidden[i], *count)
        for i, (row, count) in enumerate(zip(kinds, counts, strict=True))
    ]
    room = max(kept + made for kept, _, made in counts)
    width = max(len(sources) for sources, *_ in want)
    told = torch.tensor(counts).T.contiguous().to(device)
    at_places = scores.gather(1, now.number.clamp_min(0).cpu())
    with torch.no_grad():
        options = {"room": room, "width": width, "most": max(used for _, used, _ in counts)}
        after, states = shortened(now, hidden.to(device), at_places.to(device), told, **options)
    for i, (sources, seats, whole, origin, behind_all) in enumerate(want):
        said = behind_all[:spoken]  # text between kept tokens and dropped ones is now behind, too
        assert after.mask[i].sum() == len(sources)
        assert after.source[i, : len(sources)].tolist() == sources
        assert after.visual[i].tolist() == seats + [-1] * (room - len(seats))
        assert after.origin[i].tolist() == origin + [-1] * (room - len(seats))
        assert after.behind[i].tolist() == said + [-1] * (spoken - len(said))
        assert after.rows[i].tolist() == said + [max(seats[-1], *said, -1)] * (spoken - len(said))
        assert after.positions[i, : len(sources)].tolist() == list(range(3, 3 + len(sources)))
        assert [after.number[i, seat].item() for seat in seats] == list(range(len(seats)))
        torch.testing.assert_close(states[i, : len(sources)].cpu(), whole)
