"""Every strategy on trained seeds, asked about clips: ``python -m experiments.clips.compare CHECKPOINT --out DIR``.

DIR holds an ordinary folder of results, which resumes. Several processes fill it together where RANK and WORLD_SIZE say
so.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from experiments.trainings.package import read_model
from experiments.trainings.qwen_folder import CLIPS_TEMPLATE, write_processor
from tokenprune.core.registry import list_strategies
from tokenprune.data.items import clip_items
from tokenprune.evaluation.compare import comparison, environment
from tokenprune.results.team import Team
from tokenprune.zoo.embedded_video import read_processor

BUDGETS = (28, 14)
"""Of 256 tokens what 227 and 114 are of 2,048."""


def main() -> None:
    """Ask."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--strategies", nargs="+", help="default all")
    parser.add_argument("--budgets", nargs="+", type=int, default=BUDGETS)
    parser.add_argument("--questions", type=int, default=840)
    parser.add_argument("--seed", type=int, default=0, help="of the questions")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    model = read_model(arguments.checkpoint).to(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        write_processor(Path(folder), CLIPS_TEMPLATE)
        processor = read_processor(Path(folder))
    torch.set_grad_enabled(False)
    found = comparison(
        model,
        processor,
        clip_items(None, arguments.questions, arguments.seed),
        arguments.out,
        {"model": "embedded-video", "training": arguments.checkpoint.name, "data": "clips", "seed": arguments.seed},
        strategies=arguments.strategies or list_strategies(),
        budgets=arguments.budgets,
        batch_size=arguments.batch_size,
        note=print,
        team=Team.from_environment(),
        facts=environment("embedded-video", arguments.device, "float32", arguments.seed),
    )
    for row in found.rows:
        if (row.task, row.metric) == ("all", "accuracy"):
            print(f"{row.strategy:16} {row.keep:4} {100 * row.value:6.1f}  {row.n}", flush=True)
    for failure in found.failed:
        print(failure)


if __name__ == "__main__":
    main()
