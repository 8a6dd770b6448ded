"""``tokenprune ablate``: what each part of a strategy contributes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["ablate"]


def ablate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An ablation, 'all', or a YAML file.")],
    out: Annotated[Path, typer.Option(help="Folder of results, one folder each; runs that were stopped go on there.")],
    limit: Annotated[int, typer.Option(min=1, help="Questions of each ablation.")] = 200,
    model: Annotated[str | None, typer.Option(help="'embedded', 'tiny', a folder or a hub id.")] = None,
    device: Annotated[str, typer.Option()] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Of the questions.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions asked at a time.")] = 16,
    configs: Annotated[Path | None, typer.Option(help="Folder of YAML files; by default those that ship.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with a checkpoint.")] = False,
) -> None:
    """Vary parts of strategies on painted scenes; write a table and a figure for each ablation, and one report."""
    from rich.console import Console

    from tokenprune.cli.console import print_table, progress
    from tokenprune.core.errors import ConfigError
    from tokenprune.data.items import default_model, notes_on, scene_items
    from tokenprune.evaluation.ablation import CONFIGS, ablation_table, ablations
    from tokenprune.evaluation.ablation import ablate as run_ablation
    from tokenprune.evaluation.compare import environment
    from tokenprune.report.ablation import write_figure, write_page
    from tokenprune.zoo.loading import load_model

    folder = configs or CONFIGS
    chosen = ablations(name, folder)
    if (out / "results.jsonl").exists():
        raise ConfigError(f"--out {str(out)!r} holds results of another command; give a folder for ablations")
    model_name = model or default_model()
    loaded, processor = load_model(model_name, device, dtype, trust_remote_code=trust_remote_code)
    notes = notes_on(model_name)
    console = Console()
    for note in notes:
        console.print(note, style="bold yellow", markup=False)
    facts = environment(model_name, device, dtype, seed)
    done = []
    for ablation in chosen:
        with progress(ablation.name) as report:
            rows = run_ablation(
                loaded,
                processor,
                ablation,
                scene_items(ablation.families, limit, seed),
                out / ablation.name,
                {"model": model_name, "dtype": dtype, "seed": seed, "limit": limit},
                facts=facts,
                batch_size=batch_size,
                progress=report,
            )
        write_figure(out / ablation.name, ablation, rows)
        print_table(ablation_table(ablation, rows))
        done.append((ablation, rows))
    write_page(out, done, facts, notes)
    console.print(f"{out}/report.html; table.csv, table.json, figure.svg, figure.png in {out}/NAME", markup=False)
