"""Every strategy at every budget on trainings: ``python -m experiments.trainings.compare CHECKPOINT ... --out DIR``.

What ``tokenprune compare`` does, on checkpoints and on the sets of scenes that they were trained on. DIR holds a folder
for each training, and in it an ordinary folder of results for each set, which resumes;
``experiments.trainings.collect`` makes one table of several. Several processes fill it
together where RANK and WORLD_SIZE say so.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from experiments.trainings.package import kind_of, read_model
from tokenprune.core.registry import build, list_strategies
from tokenprune.core.strategy import Strategy
from tokenprune.data.items import scene_items
from tokenprune.evaluation.compare import comparison, environment
from tokenprune.results.team import Team


def strategies() -> list[str]:
    """All that choose within a picture: those that compare the frames of videos are left out."""
    found = []
    for name in list_strategies():
        built = build(name)
        stage = built if isinstance(built, Strategy) else getattr(built, "before", None)
        if stage is None or "frames" not in stage.requires:
            found.append(name)
    return found


def main() -> None:
    """Ask."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--styles", nargs="+", help="sets of scenes; default those that the kind was trained on")
    parser.add_argument("--families", nargs="+", help="question types; default all")
    parser.add_argument("--strategies", nargs="+", help="default all that choose within a picture")
    parser.add_argument("--budgets", nargs="+", type=int, help="default those of the kind")
    parser.add_argument("--questions", type=int, default=340, help="of each set of scenes")
    parser.add_argument("--seed", type=int, default=0, help="of the questions")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    for checkpoint in arguments.checkpoints:
        ask(checkpoint, arguments)


def ask(checkpoint: Path, arguments: argparse.Namespace) -> None:
    """All about one training."""
    kind = kind_of(checkpoint)
    model, processor = read_model(checkpoint).to(arguments.device), kind.processor()
    for style in arguments.styles or kind.styles:
        found = comparison(
            model,
            processor,
            scene_items(arguments.families, arguments.questions, arguments.seed, style),
            arguments.out / checkpoint.name / style,
            {"model": kind.model, "training": checkpoint.name, "scenes": style},
            strategies=arguments.strategies or strategies(),
            budgets=arguments.budgets or kind.budgets,
            batch_size=arguments.batch_size,
            note=print,
            team=Team.from_environment(),
            facts=environment(kind.model, arguments.device, "float32", arguments.seed),
        )
        for row in found.rows:
            if (row.task, row.metric) == ("all", "accuracy"):
                told = f"{row.strategy:16} {row.keep:4} {100 * row.value:6.1f}  {row.n}"
                print(f"{checkpoint.name} {style:8} {told}", flush=True)
        for failure in found.failed:
            print(failure)


if __name__ == "__main__":
    main()
