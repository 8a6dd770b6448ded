"""Two published methods as plugins: short, and the same as what ships, in a model and on features."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tokenprune as tp
from tests.support.llava import QUESTIONS, N
from tokenprune.zoo.tiny import tiny_llava

PACKAGE = Path(__file__).parents[1] / "plugin_package/tokenprune_example_plugin"
PAIRS = [("hierarchical", "hiprune"), ("absorbing", "prumerge")]
both = pytest.mark.parametrize(("name", "ships"), PAIRS)


def of_plugin(name: str) -> Callable[..., tp.Strategy]:
    found: Callable[..., tp.Strategy] = runpy.run_path(str(PACKAGE / f"{name}.py"), run_name=name)[name]
    return found


@both
def test_they_are_short(name: str, ships: str) -> None:
    assert len((PACKAGE / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 60


@both
@pytest.mark.parametrize("keep", [1, 7, N, [2, N, 11]], ids=str)
def test_they_do_as_what_ships(prompts: Any, name: str, ships: str, keep: Any) -> None:
    model, inputs = tiny_llava(side=5, encoder_layers=6), prompts(QUESTIONS)
    options: dict[str, Any] = {"alpha": 0.9} if ships == "hiprune" else {"neighbours": 5}
    logits = []
    for strategy in (of_plugin(name)(**options), tp.build(ships, **options)):
        with torch.no_grad(), tp.attach(model, strategy, keep) as run:
            logits.append(model(**inputs).logits)
    torch.testing.assert_close(*logits)
    assert run.tokens_after == (sum(keep) if isinstance(keep, list) else 3 * keep)
