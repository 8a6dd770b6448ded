"""Where tokens lie is known for rows of different sizes and units of several pictures, in every family that says it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.core.features import Grid
from tokenprune.hf.encoded import takes_encoded
from tokenprune.zoo.tiny import FAMILIES, picture, tiny_inputs, tiny_model, tiny_processor


class Watched(tp.Scorer):
    """Scores nothing; keeps what it was given."""

    requires = frozenset({"places"})

    def __init__(self) -> None:
        self.seen: list[tp.Features] = []

    def score(self, features: tp.Features) -> Tensor:
        self.seen.append(features)
        return features.visual.float().norm(dim=-1)


CENTRED = {"scorer": {"name": "pmi", "prior": "centre"}, "selector": "top-k"}


@pytest.mark.parametrize("unit", ["image", "sample", "tile"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_token_has_a_place(family: str, unit: Any) -> None:
    model, inputs, scorer = tiny_model(family), tiny_inputs(family, "two-images", 3), Watched()
    with tp.attach(model, tp.Strategy(scorer), 0.5, unit=unit) as run:
        model(**inputs)
    (features,) = scorer.seen
    assert features.pictures is not None
    assert [sum(grid.size for grid in grids) for grids in features.pictures] == features.counts()
    assert [len(places) for places in run.history[-1].places] == features.counts()
    places = features["places"]
    assert bool(((places >= 0).all(2) == features.valid()).all())
    for row, count in zip(places.tolist(), features.counts(), strict=True):
        assert len({tuple(place) for place in row[:count]}) == count
    if unit == "tile":
        assert all(len(grids) == 1 for grids in features.pictures)


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision", "qwen2_5_vl", "internvl", "idefics3"])
@torch.no_grad()
def test_a_prior_of_places_does_not_depend_on_the_batch(family: str) -> None:
    """Pictures of different sizes, together and one by one."""
    model, processor = tiny_model(family), tiny_processor(family)
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what color is the dog ?"}]}]
    text = processor.apply_chat_template(message, add_generation_prompt=True)
    shown = [picture(seed).resize(size) for seed, size in enumerate([(64, 64), (200, 70), (40, 160)])]
    together = processor(images=[[one] for one in shown], text=[text] * 3, padding=True, return_tensors="pt")
    with tp.attach(model, CENTRED, 5) as run:
        model(**together)
    alone = []
    for one in shown:
        with tp.attach(model, CENTRED, 5) as single:
            model(**processor(images=[[one]], text=[text], return_tensors="pt"))
        alone.append(single.selections[-1].indices[0].tolist())
    assert run.selections[-1].indices.tolist() == alone


def test_the_prior_of_the_middle() -> None:
    prior = tp.core.registry.registry.build_component("priors", "centre")
    grids = [[Grid(3, 3), Grid(1, 2)], [Grid(2, 2)]]
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[1, 4:] = False
    log = prior.log_prior(tp.Features(torch.randn(2, 11, 4), visual_mask=mask, grid=grids))
    torch.testing.assert_close(log.exp().sum(1), torch.ones(2))
    assert int(log[0].argmax()) == 4
    assert torch.equal(log[0, [0, 2, 6]], log[0, [8, 8, 8]])
    torch.testing.assert_close(log[0, 9], log[0, 10])
    assert log[1, :4].tolist() == pytest.approx([-math.log(4)] * 4)
    assert bool(torch.isinf(log[1, 4:]).all())
    alone = prior.log_prior(tp.Features(torch.randn(1, 9, 4), grid=Grid(3, 3)))
    torch.testing.assert_close(alone[0], log[0, :9] - torch.logsumexp(log[0, :9], 0))


def test_pictures_of_a_row() -> None:
    grids = [[Grid(1, 2), Grid(2, 1, 2)], [Grid(3, 2)]]
    features = tp.Features(torch.randn(2, 6, 4), grid=grids)
    assert features.pictures == ((Grid(1, 2), Grid(2, 1, 2)), (Grid(3, 2),))
    assert features.grids is None
    assert features["places"][0].tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 1, 0], [2, 0, 0], [2, 1, 0]]
    assert "places" in features
    assert "frames" not in features
    with pytest.raises(tp.core.errors.MissingSignalError, match="several pictures"):
        features["frames"]
    assert features.replace(visual=features.visual * 2).pictures == features.pictures
    with pytest.raises(tp.core.errors.FeatureError, match="grid has 5 cells in row 1"):
        tp.Features(torch.randn(2, 6, 4), grid=[[Grid(1, 6)], [Grid(1, 2), Grid(1, 3)]])
    for wrong in ([[], [Grid(3, 2)]], [[Grid(3, 2)], ["x"]], 3):
        with pytest.raises(tp.core.errors.FeatureTypeError, match="or one for each row"):
            tp.Features(torch.randn(2, 6, 4), grid=wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(not takes_encoded(tiny_model("llava")), reason="needs transformers >= 5.18")
@torch.no_grad()
def test_a_part_that_needs_places_is_refused_where_nobody_knows_them() -> None:
    """Features that were encoded elsewhere come without grids."""
    model, inputs = tiny_model("qwen2_5_vl"), tiny_inputs("qwen2_5_vl", "image", 1)
    encoded = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
    given = {name: value for name, value in inputs.items() if name != "pixel_values"}
    with (
        pytest.raises(tp.core.errors.UnsupportedError, match=r"row and column of each token.*encoded elsewhere"),
        tp.attach(model, CENTRED, 5),
    ):
        model(**given, mm_encoder_outputs={"image": encoded})


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision", "internvl", "idefics3"])
@pytest.mark.parametrize("size", [(10, 200), (200, 10), (3, 3)])
@torch.no_grad()
def test_extreme_shapes_in_tiles(family: str, size: tuple[int, int]) -> None:
    model, processor = tiny_model(family), tiny_processor(family)
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what color ?"}]}]
    text = processor.apply_chat_template(message, add_generation_prompt=True)
    inputs = processor(images=[[picture().resize(size)]], text=[text], return_tensors="pt")
    with tp.attach(model, CENTRED, 2) as run:
        model(**inputs)
    assert run.tokens_after == 2
