"""How much text-guided strategies owe to a model's alignment of visual tokens with words.

    python experiments/ablations/alignment.py --out results/alignment

The model stays as it is, and what strategies are shown is turned away from the words: visual tokens v become
``cos(a) v + sin(a) J v`` with a fixed random J, orthogonal and antisymmetric. That is a rotation, so that visual tokens
keep every cosine among themselves, while their cosines to text shrink to ``strength`` = cos(a) of what they were, plus
noise. Strategies that read no text must not change at all, which is part of the table.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.core.budget import Budget, Keep, Unit
from tokenprune.core.strategy import AnyStrategy, Positions
from tokenprune.data.items import scene_items
from tokenprune.evaluation.compare import compare, environment
from tokenprune.zoo.loading import load_model

STRATEGIES = ("mi-pruner", "mi-pruner:lam=0.7", "mi-pruner:lam=1", "similarity", "cdpruner", "mmtok", "divprune")
STRENGTHS = (1.0, 0.75, 0.5, 0.25, 0.0)


def turned(visual: Tensor, strength: float, seed: int = 0) -> Tensor:
    """Turn tokens (B, N, d), d even, in d / 2 random planes at once by the angle with that cosine."""
    d = visual.shape[-1]
    draw = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(d, d, generator=draw, dtype=torch.float64))
    basis = basis.to(visual)
    here = visual @ basis
    across = torch.cat([-here[..., d // 2 :], here[..., : d // 2]], -1) @ basis.mT
    return strength * visual + math.sqrt(1 - strength**2) * across


@dataclass(frozen=True)
class Turned(AnyStrategy):
    """A strategy that is shown visual tokens turned away from the text; it must not merge."""

    strategy: AnyStrategy
    strength: float
    name: str = field(init=False)
    positions: Positions = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.strategy.name)
        object.__setattr__(self, "positions", self.strategy.positions)

    @property
    def requires(self) -> frozenset[str]:
        """As the strategy."""
        return self.strategy.requires

    @property
    def merges(self) -> bool:
        """Never."""
        return False

    def reads(self, given: Container[str] = ()) -> frozenset[str]:
        """As the strategy."""
        return self.strategy.reads(given)

    def select(self, features: tp.Features, keep: Keep | Budget, *, unit: Unit | None = None) -> tp.Selection:
        """Choose among the turned tokens."""
        return self.strategy.select(features.replace(visual=turned(features.visual, self.strength)), keep, unit=unit)


def rows(strategies: Sequence[str], strengths: Sequence[float]) -> list[dict[str, Any]]:
    """What takes part, by label."""
    return [
        {"label": f"{name} @ {strength:g}", "strategy": Turned(tp.build(name), strength)}
        for name in strategies
        for strength in strengths
    ]


def main() -> None:
    """Compare, and print accuracy by strategy and strength."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--strengths", nargs="+", type=float, default=list(STRENGTHS))
    parser.add_argument("--model", default="embedded", help="'embedded', a folder or a hub id")
    parser.add_argument("--keep", type=int, default=64)
    parser.add_argument("--limit", type=int, default=204)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    model, processor = load_model(asked.model)
    items = scene_items(None, asked.limit, asked.seed)
    config = {"experiment": "alignment", "seed": asked.seed, "limit": asked.limit}
    table = compare(
        model,
        processor,
        items,
        asked.out,
        config,
        strategies=rows(asked.strategies, asked.strengths),
        budgets=(asked.keep,),
        facts=environment(asked.model, "cpu", "float32", asked.seed),
        progress=lambda done, total, what: print(f"\r{done}/{total} {what:40.40s}", end="", flush=True),
    )
    print()
    for task in ("all", "scenes-gqa", "scenes-textvqa"):
        found = {
            row.strategy: row.value
            for row in table
            if (row.task, row.family, row.metric) == (task, "all", "accuracy") and " @ " in row.strategy
        }
        print(f"\n{task:24s}" + "".join(f"{strength:>8g}" for strength in asked.strengths))
        for name in asked.strategies:
            values = (found[f"{name} @ {strength:g}"] for strength in asked.strengths)
            print(f"{name:24s}" + "".join(f"{100 * value:8.1f}" for value in values))


if __name__ == "__main__":
    main()
