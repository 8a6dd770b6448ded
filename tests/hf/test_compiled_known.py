"""Encoders run without what follows from the sizes of pictures alone: same features, and nothing to wait for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.waiting import watched
from tokenprune.hf.adapters import adapter_for
from tokenprune.hf.adapters.base import ModelAdapter
from tokenprune.hf.compiled.known import Known, OtherCourse
from tokenprune.hf.compiled.stages import sight
from tokenprune.hf.encoded import observed, vision_in
from tokenprune.zoo.tiny import FAMILIES, tiny_inputs, tiny_model

CASES = [
    pytest.param(name, kind, marks=() if kind == "image" or "video" in kind else pytest.mark.slow)
    for name, family in FAMILIES.items()
    for kind in family.kinds
    if kind != "text"
]


def seen(adapter: ModelAdapter, inputs: Any) -> tuple[Any, dict[str, Tensor], Known]:
    """A function of pixels that encodes and reads every signal; pixels; what follows from what else it reads."""
    vision = vision_in(adapter, inputs)
    pixels = {name: value for name, value in vision.items() if isinstance(value, Tensor) and value.is_floating_point()}
    rest = {name: value for name, value in vision.items() if name not in pixels}

    def see(**given: Tensor) -> dict[str, Tensor]:
        return sight(adapter, observed(adapter, adapter.available - {"visual", "text"}, {**rest, **given}))

    given = [value for value in rest.values() if isinstance(value, Tensor)]
    return see, pixels, Known(given, told=adapter.told(vision) is not None)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_other_pictures_of_the_same_sizes(name: str, kind: Any) -> None:
    see, pixels, known = seen(adapter_for(tiny_model(name)), tiny_inputs(name, kind, 2))
    known.noted(see, **pixels)
    torch.manual_seed(5)
    # tiles that are padding stay padding
    other = {key: torch.randn_like(value) * (value != 0) for key, value in pixels.items()}
    with torch.no_grad():
        want = see(**other)
    with watched(known.holds) as found:
        got = known.replayed(see, **other)
    assert got.keys() == want.keys()
    assert all(torch.equal(got[key], want[key]) for key in want)
    # what is copied to the host for this is known; on a CPU nothing is copied
    assert [place for place in found if not place.startswith("tolist")] == [], found


def test_most_of_what_qwen_works_out_is_left_out() -> None:
    see, pixels, known = seen(adapter_for(tiny_model("qwen2_5_vl")), tiny_inputs("qwen2_5_vl", "image", 1))
    known.noted(see, **pixels)
    assert len(known) > 50


def test_memory_that_is_written_to_is_no_constant() -> None:
    size = torch.tensor([3])

    def function(x: Tensor) -> Tensor:
        room = torch.zeros(int(size))  # known, but filled with what is not
        room += x
        first = room[:1]
        places = torch.arange(3)
        places.mul_(2)
        table = torch.zeros(6)
        table[places] = x
        return torch.cat([room * 2, first, table, places.float(), torch.tensor([5.0])])

    known = Known([size])
    known.noted(function, x=torch.ones(3))
    for value in (torch.arange(3.0), torch.full((3,), 7.0)):
        assert torch.equal(known.replayed(function, x=value), function(value))
        assert torch.equal(known.replayed(function, x=value), function(value))


def test_random_numbers_are_drawn_each_time() -> None:
    known = Known([])
    known.noted(lambda x: x + torch.rand(2), x=torch.zeros(2))
    a, b = (known.replayed(lambda x: x + torch.rand(2), x=torch.zeros(2)) for _ in range(2))
    assert not torch.equal(a, b)


def test_masks_that_are_known_are_counted_once() -> None:
    mask = torch.tensor([True, False, True])
    known = Known([mask])

    def function(x: Tensor) -> Tensor:
        out = x.clone()
        out[~mask] = 0
        return torch.cat([x[mask], out])

    known.noted(function, x=torch.ones(3))
    x = torch.arange(3.0) + 1
    with watched() as found:
        got = known.replayed(function, x=x)
    assert torch.equal(got, function(x))
    assert found == []


def test_what_was_asked_before_is_known_too() -> None:
    """Places, counts, yes or no; a measurement never."""

    def function(x: Tensor) -> Tensor:
        there = x != 0
        factor = 2.0 if bool(there.all()) else 3.0
        return x[there] * factor * int(there.sum()) + float(x.sum())

    known = Known([], told=True)
    known.noted(function, x=torch.tensor([1.0, 0.0, 2.0]))
    other = torch.tensor([5.0, 0.0, 7.0])
    with watched(known.holds) as found:
        got = known.replayed(function, x=other)
    assert torch.equal(got, function(other))
    assert len(found) == 1  # the sum
    unlike = torch.tensor([0.0, 5.0, 7.0])
    assert not torch.equal(known.replayed(function, x=unlike), function(unlike))


def test_a_capture_takes_the_course_that_was_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers asks whether a stream is captured, and then does not look whether a mask hides anything."""

    def function(x: Tensor) -> Tensor:
        return x * 2 if not torch.cuda.is_current_stream_capturing() and bool(mask.all()) else x + 1 - 1

    mask = torch.tensor([True, True])
    known = Known([mask])
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    known.noted(function, x=torch.ones(2))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert torch.equal(known.replayed(function, x=torch.arange(2.0)), torch.tensor([0.0, 2.0]))
    assert torch.cuda.is_current_stream_capturing()


def test_tiles_of_padding_are_told_on_the_host() -> None:
    adapter, inputs = adapter_for(tiny_model("idefics3")), tiny_inputs("idefics3", "two-images", 3)
    told = adapter.told(inputs)
    tiles = inputs["pixel_values"].flatten(0, 1)
    assert told == tuple(not bool(tile.any()) for tile in tiles)
    assert any(told)
    assert not all(told)
    # a picture that is black but for one pixel is none
    nearly = torch.zeros_like(inputs["pixel_values"])
    nearly[0, 0, 0, 1, 1] = 1
    assert adapter.told({"pixel_values": nearly}) == (False, *[True] * (len(tiles) - 1))


def test_another_course_is_refused() -> None:
    known = Known([])

    def function(x: Tensor) -> Tensor:
        return x + 1 if len(x) == 2 else x * 2 - 1

    known.noted(function, x=torch.ones(2))
    with pytest.raises(OtherCourse, match=r"operation 0 is aten\.mul"):
        known.replayed(function, x=torch.ones(3))
    known.noted(lambda x: (x + 1) * 2, x=torch.ones(2))
    with pytest.raises(OtherCourse, match="1 operations instead of 2"):
        known.replayed(lambda x: x + 1, x=torch.ones(2))


def test_inference_mode_outside() -> None:
    known = Known([torch.tensor([2])])
    with torch.inference_mode():
        known.noted(lambda x: x * torch.arange(2), x=torch.ones(2))
        assert known.replayed(lambda x: x * torch.arange(2), x=torch.ones(2)).tolist() == [0, 1]
