"""Tables of the paper, asked of several trained models: ``python -m experiments.paper.ask FOLDER ... --out DIR``.

Each FOLDER is a model (``experiments.trainings.package`` writes them) or the name of one that ships; DIR holds a folder
for each, as ``tokenprune table N --painted`` writes it. One process asks everything, since starting takes longer than a
table of a small model; several fill the folders together where RANK and WORLD_SIZE say so.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenprune.cli import app

LIMITS = {"1": 1000, "8": 150, "5": 200, "fig-6a": 200, "fig-6b": 200, "fig-6c": 200}
"""Questions of each table, most important first."""
SEED = "21"
"""Of the questions; no choice was made on them."""


def main() -> None:
    """Ask."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tables", nargs="+", choices=LIMITS, default=[*LIMITS])
    parser.add_argument("--limit", type=int, help="questions of each table; by default those of the page")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    for number in arguments.tables:
        for model in arguments.models:
            limit, out = arguments.limit or LIMITS[number], arguments.out / Path(model).name
            words = ["table", number, "--model", model, "--painted", "--limit", str(limit), "--seed", SEED]
            words += ["--device", arguments.device, "--batch-size", str(arguments.batch_size), "--out", str(out)]
            app(words, standalone_mode=False)


if __name__ == "__main__":
    main()
