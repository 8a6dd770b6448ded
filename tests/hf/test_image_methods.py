"""Methods for images on every family: neighbours in a batch do not matter, and everything kept is the model."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import tokenprune as tp
from tests.support.families import batch_of, families, model_of
from tokenprune.core.errors import TokenPruneWarning
from tokenprune.diagnostics.laws import forward
from tokenprune.hf.adapters import adapter_for
from tokenprune.hf.sources import refusal

METHODS = ("fastervlm", "scope", "hiprune", "trim", "prumerge", "prumerge-plus", "pyramiddrop", "flowcut")
MERGING = {"trim", "prumerge", "prumerge-plus"}
REFUSED = {"flowcut": "no survivors", "pyramiddrop": "acts between layers, which needs full attention"}
methods = pytest.mark.parametrize("name", METHODS)


def unit_of(family: str, name: str) -> Any:
    """Neighbours are those of one picture, not of a thumbnail and what lies behind it, nor of several tiles."""
    tiled = family in ("llava_next", "llava_onevision", "internvl", "idefics3", "smolvlm")
    return "tile" if name == "hiprune" and tiled else "image"


def rows_of(model: Any, name: str, keep: Any, unit: Any, inputs: dict[str, Any]) -> tuple[list[list[int]], Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TokenPruneWarning)
        with torch.no_grad(), tp.attach(model, name, keep, unit=unit, text="all") as run:
            logits = forward(model, inputs)
    selection = run.selections[0]
    return [selection.row(b) for b in range(len(selection.counts))], logits


@families
@methods
def test_a_prompt_is_pruned_as_it_is_alone(family: str, name: str) -> None:
    model = model_of(family)
    if why := refusal(adapter_for(model), tp.build(name)):
        assert REFUSED[name] in why
        assert (name, family) != ("flowcut", "llava")
        assert name == "flowcut" or family == "gemma3"
        return
    unit = unit_of(family, name)
    together, _ = rows_of(model, name, 0.4, unit, batch_of(family, "image"))
    alone = [rows_of(model, name, 0.4, unit, batch_of(family, "image", only=[b]))[0] for b in range(3)]
    assert together == [row for rows in alone for row in rows]


@families
@pytest.mark.parametrize("name", [name for name in METHODS if name not in MERGING])
def test_with_everything_kept_it_is_the_model(family: str, name: str) -> None:
    model, inputs = model_of(family), batch_of(family, "two-images")
    if refusal(adapter_for(model), tp.build(name)) is None:
        _, logits = rows_of(model, name, 1.0, unit_of(family, name), inputs)
        real = inputs["attention_mask"].bool()
        torch.testing.assert_close(logits[real], forward(model, inputs)[real])
