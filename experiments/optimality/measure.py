"""How far from the best the picks are that strategies make, on what a trained model shows them.

    python -m experiments.optimality.measure --out experiments/optimality/results/embedded.json

For each strategy and budget ``Selection.optimality`` of every question: the share of the best that the picks are
certain to reach, by the objective that the strategy itself maximises. Where no share is known, how much more the best
could have. And a judge: on instances that an integer program solves exactly, the share that is truly reached beside the
one that is certain, so that what the bound gives away is seen.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

import tokenprune as tp
from experiments.ablations.where import Places
from tokenprune.components.objectives import MaximalMarginalRelevance, PMICoverage
from tokenprune.components.scorers import PMI
from tokenprune.components.selectors import Greedy
from tokenprune.core.errors import ConfigError
from tokenprune.core.kinds import Problem
from tokenprune.data.items import scene_items
from tokenprune.evaluation.runner import batches
from tokenprune.zoo.loading import load_model
from tokenprune_theory.optimum import best_coverage, best_sequence

COVERAGE: dict[str, Any] = {
    "selector": {"name": "greedy", "objective": "pmi-coverage"},
    "name": "greedy + pmi-coverage",
}
STRATEGIES: tuple[Any, ...] = (
    "mi-pruner",
    "mi-pruner:lam=0.7",
    "mi-pruner:lam=0.9",
    "mi-pruner:lam=1",
    "mi-pruner:tau=0.5",
    "mi-attention",
    COVERAGE,
    "mmtok",
    "divprune",
    "cdpruner",
    "similarity",
    "visionzip",
    "holov",
)
SMALL = 7
"""Tokens of an instance that the integer program of sequences solves in seconds."""


def shares(places: Places, strategy: tp.Strategy, keep: int) -> tuple[list[float], list[float], str]:
    """Of every question the share that is certain, what the best could have more, and what the bound rests on."""
    features, _ = places.features(strategy)
    found = strategy.assess(features, strategy.select(features, keep)).optimality
    assert found is not None
    return found.ratio.tolist(), found.gap.tolist(), found.basis


def judged_coverage(features: tp.Features, keep: int) -> list[tuple[float, float]]:
    """Of pmi-coverage over all tokens: the share truly reached, and the one that is certain."""
    objective = PMICoverage()
    strategy = tp.Strategy(None, Greedy(objective))
    found = strategy.assess(features, strategy.select(features, keep)).optimality
    assert found is not None
    tables = objective.start(features, torch.zeros(features.batch, features.n_visual)).table.double().numpy()
    best = [best_coverage(table[table.any(1)], keep) for table in tables]
    return list(zip((found.value / torch.tensor(best)).tolist(), found.ratio.tolist(), strict=True))


def judged_sequences(features: tp.Features, keep: int, draw: torch.Generator) -> list[tuple[float, float]]:
    """The same of Algorithm 1 on a few random tokens of each question, both shares counted from the bound's floor."""
    rows = [torch.randperm(features.n_visual, generator=draw)[:SMALL].sort().values for _ in range(features.batch)]
    objective = MaximalMarginalRelevance(0.5)
    scores = PMI().score(features)
    pairs = objective.pairs.table(features).dense()
    available = torch.zeros(features.batch, features.n_visual, dtype=torch.bool)
    for row, places in enumerate(rows):
        available[row, places] = True
    problem = Problem(features, scores, (keep,) * features.batch, available)
    found = objective.optimality(problem, Greedy(objective).select(problem))
    told = []
    for row, places in enumerate(rows):
        table = pairs[row][places][:, places].double().numpy()
        best = best_sequence((0.5 * scores[row, places]).double().numpy(), table, 0.5, keep)
        floor = float(found.floor[row])
        told.append(((float(found.value[row]) - floor) / (best - floor), float(found.ratio[row])))
    return told


def summary(values: list[float]) -> dict[str, float | int]:
    """Mean, lowest and highest."""
    mean = round(sum(values) / len(values), 4)
    return {"mean": mean, "lowest": round(min(values), 4), "highest": round(max(values), 4), "n": len(values)}


def both(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Of shares truly reached, and certain."""
    return {"reached": summary([p[0] for p in pairs]), "certain": summary([p[1] for p in pairs])}


@torch.no_grad()
def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="'embedded', a folder or a hub id")
    parser.add_argument("--budgets", nargs="+", type=int, default=[128, 64, 32])
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--judged", type=int, default=16, help="questions that the integer programs solve")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    start = time.perf_counter()
    model, processor = load_model(asked.model)
    certain: dict[tuple[str, int], list[float]] = defaultdict(list)
    more: dict[tuple[str, int], list[float]] = defaultdict(list)
    about: dict[str, str] = {}
    judge: dict[str, list[tuple[float, float]]] = defaultdict(list)
    draw = torch.Generator().manual_seed(asked.seed)
    for batch in batches(scene_items(["pope", "gqa", "textvqa"], asked.limit, asked.seed), 8):
        places = Places(model, processor, batch, asked.seed)
        for given in STRATEGIES:
            strategy = tp.build(given)
            assert isinstance(strategy, tp.Strategy)
            name = given if isinstance(given, str) else strategy.name
            for keep in asked.budgets:
                try:
                    ratios, gaps, about[name] = shares(places, strategy, keep)
                except ConfigError as error:
                    about[name] = f"no bound: {error}"
                    break
                certain[name, keep] += ratios
                more[name, keep] += gaps
        if len(judge["pmi-coverage, 8 of all"]) < asked.judged:
            features, _ = places.features(tp.build("mi-pruner"))
            judge["pmi-coverage, 8 of all"] += judged_coverage(features, 8)
            judge[f"mi-pruner, 4 of {SMALL}"] += judged_sequences(features, 4, draw)
    result = {
        "model": asked.model,
        "questions": asked.limit,
        "seed": asked.seed,
        "machine": {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__},
        "seconds": round(time.perf_counter() - start, 1),
        "basis": about,
        "certain": {
            f"{name} @ {keep}": summary(values)
            for (name, keep), values in certain.items()
            if not math.isnan(sum(values))
        },
        "more": {f"{name} @ {keep}": summary(values) for (name, keep), values in more.items()},
        "judge": {name: both(pairs) for name, pairs in judge.items()},
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
