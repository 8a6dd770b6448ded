"""``tokenprune ablate``: what each part of a strategy contributes."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from tokenprune.cli.console import print_table
from tokenprune.cli.data import DataOptions
from tokenprune.cli.groups import grouped
from tokenprune.cli.judge import JudgeOptions
from tokenprune.cli.options import MODEL, words_or_all
from tokenprune.cli.progress import console, progress

__all__ = ["ablate"]


@grouped
def ablate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An ablation, 'all', or a YAML file.")],
    out: Annotated[Path, typer.Option(help="Folder of results, one folder each; runs that were stopped go on there.")],
    families: Annotated[
        str, typer.Option(help="Question types of scenes to ask of those that an ablation has; 'all'.")
    ] = "all",
    limit: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Questions of each ablation; 200, of --data all.")
    ] = None,
    model: Annotated[str | None, typer.Option(help=MODEL)] = None,
    device: Annotated[str, typer.Option()] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Of the questions.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Questions asked at a time.")] = 16,
    configs: Annotated[Path | None, typer.Option(help="Folder of YAML files; by default those that ship.")] = None,
    *,
    data: DataOptions,
    judge: JudgeOptions,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with a checkpoint.")] = False,
) -> None:
    """Vary parts of strategies on painted scenes; write a table and a figure for each ablation, and one report."""
    from tokenprune.core.errors import ConfigError
    from tokenprune.data.items import default_model, notes_on
    from tokenprune.evaluation.ablation import ablate as run_ablation
    from tokenprune.evaluation.ablation import ablation_table
    from tokenprune.evaluation.ablation_config import CONFIGS, ablations
    from tokenprune.evaluation.compare import environment
    from tokenprune.evaluation.failures import Failure, told
    from tokenprune.report.ablation import write_figure, write_page
    from tokenprune.results.team import Team
    from tokenprune.zoo.loading import load_model

    team = Team.from_environment()
    folder = configs or CONFIGS
    chosen = ablations(name, folder)
    if (out / "results.jsonl").exists():
        raise ConfigError(f"--out {str(out)!r} holds results of another command; give a folder for ablations")
    grader = judge.grader()
    model_name = default_model(model)
    data = data.of(model_name)
    prepared = []
    asked_for = words_or_all("--families", families)
    if data.data is not None and asked_for is not None:
        raise ConfigError("--families chooses among painted scenes; questions of --data are asked as they are")
    for one in chosen:
        ablation = one if asked_for is None else one.only(asked_for)
        asked = data.questions(
            families=ablation.families if data.data is None else None,
            limit=200 if data.data is None and limit is None else limit,
            seed=seed,
        )
        about = ablation
        if data.data is not None:
            # the paper's numbers are about other questions
            about = ablation.about(dict.fromkeys(item.task for item in asked.items))
        prepared.append((about, asked))
    loaded, processor = load_model(model_name, team.device(device), dtype, trust_remote_code=trust_remote_code)
    notes = notes_on(model_name)
    to = console(quiet=not team.leads)
    for note in notes:
        to.print(note, style="bold yellow", markup=False)
    facts = environment(model_name, device, dtype, seed)
    done, all_well = [], True
    for ablation, asked in prepared:
        for note in asked.notes:
            to.print(note, style="bold yellow", markup=False)
        broken: list[Failure] = []
        with progress(to, ablation.name) if team.leads else nullcontext(lambda *_: None) as moved:
            rows = run_ablation(
                loaded,
                processor,
                ablation,
                asked.items,
                out / ablation.name,
                {"model": model_name, "dtype": dtype, **asked.config},
                facts=facts,
                batch_size=batch_size,
                max_new_tokens=asked.max_new_tokens,
                broke=broken.append,
                note=lambda text: to.print(text, style="bold yellow", markup=False),
                progress=moved,
                judge=grader,
                team=team,
                fewer=asked.fewer,
            )
        if not team.leads:
            continue
        write_figure(out / ablation.name, ablation, rows)
        print_table(ablation_table(ablation, rows))
        done.append((ablation, rows))
        for line in told(broken, out / ablation.name):
            typer.echo(line, err=True)
        all_well = all_well and not broken
    if not team.leads:
        return
    write_page(out, done, facts, notes)
    to.print(f"{out}/report.html; table.csv, table.json, figure.svg, figure.png in {out}/NAME", markup=False)
    if not all_well:
        raise typer.Exit(1)
