"""``tokenprune bench``: what pruning saves, in milliseconds and bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from tokenprune.cli.console import print_table
from tokenprune.cli.data import DataOptions
from tokenprune.cli.groups import Without, grouped
from tokenprune.cli.options import STRATEGIES, numbers, words, words_or_all
from tokenprune.cli.progress import console, progress

__all__ = ["bench"]


@grouped
def bench(
    out: Annotated[Path | None, typer.Option(help="Folder of results; a run that was stopped goes on there.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="BEFORE AFTER", help="Measure nothing: set two folders of results side by side."),
    ] = None,
    across: Annotated[
        bool, typer.Option("--across", help="With --compare: also of different machines, models or sizes.")
    ] = False,
    geometry: Annotated[str, typer.Option(help="Whose sizes, with random weights.")] = "llava-1.5-7b",
    strategies: Annotated[str, typer.Option(help=STRATEGIES)] = "all",
    budgets: Annotated[
        str, typer.Option("--budgets", "--keeps", help="Visual tokens kept of each image or video, comma-separated.")
    ] = "128,64,32",
    batches: Annotated[str, typer.Option(help="Prompts at once.")] = "1,8",
    ways: Annotated[str, typer.Option(help="plain, compiled, loop (the selection as a Python loop).")] = (
        "plain,compiled,loop"
    ),
    kind: Annotated[str, typer.Option(help="What prompts show: image, video, eight-images.")] = "",
    small: Annotated[bool | None, typer.Option(help="Few and narrow layers; the default on a CPU.")] = None,
    device: Annotated[str | None, typer.Option(help="By default cuda if there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="By default float16 on cuda, float32 elsewhere.")] = None,
    text_tokens: Annotated[int, typer.Option(min=2, help="Of a prompt.")] = 60,
    backend: Annotated[str, typer.Option(help="Of the compiled way: graphs, inductor, none.")] = "graphs",
    bucket: Annotated[int, typer.Option(min=1, help="Lengths are rounded up to multiples of this.")] = 32,
    repeats: Annotated[int | None, typer.Option(min=1, help="Calls timed; by default 30 on cuda, 5 elsewhere.")] = None,
    warm: Annotated[
        int | None, typer.Option(min=0, help="Calls before them; by default 10 on cuda, 2 elsewhere.")
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="Show all columns, however wide the terminal is.")] = False,
    seconds: Annotated[float | None, typer.Option(help="Begin no row after this long.")] = None,
    model: Annotated[
        str | None, typer.Option(help="With --data: 'embedded', 'tiny', a folder or a hub id, instead of --geometry.")
    ] = None,
    *,
    data: Annotated[DataOptions, Without("metric", "skip_unreadable", "max_new_tokens")],
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with a checkpoint.")] = False,
) -> None:
    """Measure time to first token, its parts, memory and FLOPs of every strategy, against floors of the machine.

    With --data (and --model) prompts are your questions about your pictures, those of usual length; without, noise of
    a published model's sizes.
    """
    import torch
    from rich.markup import escape
    from rich.table import Table

    from tokenprune.benchmark.asked import CANDIDATES, Questions
    from tokenprune.benchmark.bench import Setup, bench_rows
    from tokenprune.benchmark.bench import bench as run_bench
    from tokenprune.benchmark.table import EXPENDABLE, HEADER, cells, ordered
    from tokenprune.core.errors import ConfigError, closest
    from tokenprune.data.items import default_model
    from tokenprune.evaluation.conditions import strategy_names
    from tokenprune.hf.compiled.programs import Backend
    from tokenprune.results.team import Team
    from tokenprune.zoo.loading import DTYPES, load_model

    Team.from_environment().alone("bench", "run it without the launcher; processes side by side time each other")
    if compare is not None:
        _against(*compare, across=across, wide=wide)
        return
    if across:
        raise ConfigError("--across is about --compare, which is not given")
    if out is None:
        raise ConfigError("--out: none given; it is the folder of results")
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind_of_number = dtype or ("float16" if where.startswith("cuda") else "float32")
    if kind_of_number not in DTYPES:
        raise ConfigError(f"dtype: no {kind_of_number!r}; {closest(kind_of_number, DTYPES)}")
    if backend not in get_args(Backend):
        raise ConfigError(f"backend: no {backend!r}; {closest(backend, get_args(Backend))}")
    if data.data is None and model is not None:
        raise ConfigError("--model is about --data, which is not given; --geometry names sizes")
    setup = Setup(
        "" if data.data is not None else geometry,
        kind,
        data.data is None and (not where.startswith("cuda") if small is None else small),
        where,
        kind_of_number,
        text_tokens,
        backend,  # type: ignore[arg-type]
        bucket,
        (30 if where.startswith("cuda") else 5) if repeats is None else repeats,
        (10 if where.startswith("cuda") else 2) if warm is None else warm,
    )
    specs = strategy_names(words_or_all("--strategies", strategies))
    wanted = list(
        bench_rows(specs, numbers("--budgets", budgets), numbers("--batches", batches), words("--ways", ways))
    )
    subject, about = None, None
    if data.data is not None:
        if small is not None or kind:
            raise ConfigError(f"--{'kind' if kind else 'small'} is about --geometry, and --data is given")
        asked = data.questions(families=None, limit=CANDIDATES, seed=0)
        name = default_model(model)
        loaded = load_model(name, where, kind_of_number, trust_remote_code=trust_remote_code)
        subject, about = Questions(*loaded, asked.items), {"model": name, **asked.config}
    to = console()
    with progress(to) as told:
        rows = run_bench(
            setup,
            wanted,
            out,
            seconds=seconds,
            progress=told,
            subject=subject,
            about=about,
        )
    table = Table(*HEADER)
    for row in ordered(rows):
        table.add_row(*map(escape, cells(row)))
    print_table(table, EXPENDABLE, wide=wide)
    if rows:
        to.print(f"copy {rows[-1]['copy_tb_per_s']} TB/s, matrix product {rows[-1]['tflops']} TFLOP/s, measured")
    to.print(f"{out}/summary.json, {out}/results.jsonl", markup=False)


def _against(before: Path, after: Path, *, across: bool, wide: bool) -> None:
    """Print how two runs compare, and what else differs."""
    from rich.markup import escape
    from rich.table import Table

    from tokenprune.benchmark.against import HEADER, against, read_run

    found = against(read_run(before), read_run(after), across=across)
    to = console()
    for line in found.differs:
        to.print(f"[bold yellow]DIFFERS[/] {escape(line)}")
    table = Table(*HEADER)
    for row in found.cells:
        table.add_row(*map(escape, row))
    print_table(table, ("GiB", "token ms", "encode ms", "select ms", "prefill ms"), wide=wide)
    to.print("before -> after (before / after); ~ where the two lie within each other's spread", markup=False)
    for line in found.missing:
        to.print(f"not compared: {line}", markup=False)
