"""What papers say of position ids, strategy by strategy: nothing else fails where one is lost."""

from __future__ import annotations

from typing import Any

import pytest

import tokenprune as tp
from tokenprune.core.strategy import Strategy

CONSECUTIVE = ["divprune", "vispruner", "visionzip", "scope", {"strategy": "mi-attention", "form": "visionzip"}]
AS_THEY_WERE = ["mi-pruner", "mi-attention", "random"]


@pytest.mark.parametrize(
    ("spec", "positions"), [*((s, "compact") for s in CONSECUTIVE), *((s, "keep") for s in AS_THEY_WERE)]
)
def test_position_ids_are_those_of_the_method(spec: Any, positions: str) -> None:
    built = tp.build(spec)
    assert isinstance(built, Strategy)
    assert built.positions == positions
