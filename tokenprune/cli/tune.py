"""``tokenprune tune``: the best composition for a model and questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenprune.cli.data import DataOptions
from tokenprune.cli.groups import Without, grouped
from tokenprune.cli.options import words_or_all
from tokenprune.cli.progress import console, progress

__all__ = ["QUESTIONS", "tune"]

QUESTIONS = 800
"""Painted questions where nobody says how many: half of them judge."""


@grouped
def tune(
    out: Annotated[Path, typer.Option(help="Folder of results; a search that was stopped goes on there.")],
    budget: Annotated[int | None, typer.Option(help="Most visual tokens on average; the goal is accuracy.")] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Least share of the unpruned model's accuracy; the goal is few tokens.")
    ] = None,
    max_ms: Annotated[float | None, typer.Option(help="Most milliseconds to the first token, by --costs.")] = None,
    costs: Annotated[Path | None, typer.Option(help="Folder that `tokenprune bench --out` wrote.")] = None,
    space: Annotated[Path | None, typer.Option(help="YAML file of what may be composed; ours by default.")] = None,
    trials: Annotated[int, typer.Option(min=1, max=100_000, help="Compositions to try.")] = 40,
    timeout: Annotated[float | None, typer.Option(min=1, help="Seconds after which no further one is tried.")] = None,
    alpha: Annotated[float, typer.Option(min=0.0, max=1.0, help="Level of the test against the default.")] = 0.01,
    model: Annotated[str | None, typer.Option(help="'embedded', 'tiny', a folder or a hub id.")] = None,
    families: Annotated[str, typer.Option(help="Question types of scenes, or tasks of --data; 'all'.")] = "all",
    limit: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Questions in all; 800, of --data all.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the questions, the split and the search.")] = 0,
    device: Annotated[str, typer.Option()] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Questions asked at a time.")] = 16,
    *,
    data: Annotated[DataOptions, Without("frames")],
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with a checkpoint.")] = False,
) -> None:
    """Search for the best composition of parts under a constraint; test it on pictures it never saw; write it."""
    from tokenprune.data.items import default_model, notes_on
    from tokenprune.evaluation.compare import environment
    from tokenprune.evaluation.tune.goal import goal_of
    from tokenprune.evaluation.tune.run import Plan
    from tokenprune.evaluation.tune.run import tune as run_tune
    from tokenprune.evaluation.tune.search import need_optuna
    from tokenprune.evaluation.tune.space import Space
    from tokenprune.evaluation.tune.split import split as divide
    from tokenprune.report.tune import told, write_report
    from tokenprune.results.team import Team
    from tokenprune.zoo.loading import load_model

    Team.from_environment().alone("tune", "run it without the launcher; what is tried next follows from all before")
    need_optuna()
    # mistakes are told before a model is loaded
    goal, searched = goal_of(budget, min_accuracy, max_ms, costs), Space.read(space)
    name = default_model(model)
    data = data.of(name)
    asked = data.questions(
        families=words_or_all("--families", families),
        limit=QUESTIONS if data.data is None and limit is None else limit,
        seed=seed,
    )
    divide(asked.items, seed)
    loaded, processor = load_model(name, device, dtype, trust_remote_code=trust_remote_code)
    to = console()
    for note in notes_on(name) + asked.notes:
        to.print(note, style="bold yellow", markup=False)
    with progress(to, "tune") as moved:
        found = run_tune(
            loaded,
            processor,
            asked.items,
            out,
            {"model": name, "dtype": dtype, "batch_size": batch_size, **asked.config},
            Plan(goal, searched, trials, timeout, seed, alpha, batch_size, asked.max_new_tokens),
            facts=environment(name, device, dtype, seed),
            note=lambda text: to.print(text, markup=False),
            progress=moved,
        )
    for line in told(found.summary):
        to.print(line, markup=False)
    page = write_report(out, found.summary)
    to.print(f"{page}{'' if found.strategy is None else f', {found.strategy}'}", markup=False)
