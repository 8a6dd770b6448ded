"""``tokenprune table``: a table of the paper, measured here, beside the published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenprune.cli.data import QUESTIONS, Asked, DataOptions
from tokenprune.cli.groups import grouped
from tokenprune.cli.judge import JudgeOptions
from tokenprune.cli.options import words_or_all
from tokenprune.cli.progress import console, progress

if TYPE_CHECKING:
    from rich.console import Console

    from tokenprune.benchmark.price import Price
    from tokenprune.evaluation.paper_tables import PaperTable
    from tokenprune.evaluation.summary import SummaryRow
    from tokenprune.results.team import Team

__all__ = ["table"]

_PAINTED = ("embedded", "embedded-qwen", "embedded-video", "tiny")
"""Models that are asked about painted scenes, or clips."""


@dataclass(frozen=True)
class _Part:
    """What is asked with the same rows.

    Attributes
    ----------
    name : str
        Of its folder.
    data : list of str
        Benchmarks, or families of painted questions, that it fills columns of.
    asked : Asked or None
        None where there is no copy to count, as a dry run allows.
    n : int
        Questions.
    answer_tokens : int
        Of a usual answer.
    rows : list
        As a comparison takes them.
    """

    name: str
    data: list[str]
    asked: Asked | None
    n: int
    answer_tokens: int
    rows: list[str | Mapping[str, Any]]


@grouped
def table(
    number: Annotated[
        str, typer.Argument(metavar="N", help="Of the table: 1 to 9; a part as 2-8b; a figure as fig-6a; 'all'.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of results; a run that was stopped goes on there.")],
    model: Annotated[
        str | None,
        typer.Option(help="'embedded', 'embedded-qwen', 'embedded-video', folder or hub id; default the paper's."),
    ] = None,
    strategies: Annotated[str, typer.Option(help="Only these rows, comma-separated.")] = "all",
    data: Annotated[str, typer.Option(help="Only these benchmarks, comma-separated.")] = "all",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Questions of each benchmark; by default all, of painted scenes 238.")
    ] = None,
    painted: Annotated[
        bool, typer.Option("--painted", help="Ask about painted scenes, also a model of yours that knows them.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be asked, and its cost.")] = False,
    bench: Annotated[
        Path | None, typer.Option(help="Folder that bench wrote for this model here: what the run takes.")
    ] = None,
    device: Annotated[str, typer.Option()] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Of painted questions.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions asked at a time.")] = 16,
    *,
    judge: JudgeOptions,
) -> None:
    """Measure a table of the paper; print ours beside theirs and write table.md and table.tex."""
    from tokenprune.data.items import CLIPS, SCENES, painted_set
    from tokenprune.evaluation.paper_tables import paper_tables
    from tokenprune.report.paper_tables import latex, markdown, terminal
    from tokenprune.results.store import write_atomically
    from tokenprune.results.team import Team
    from tokenprune.zoo.embedded_video import TOKENS
    from tokenprune.zoo.loading import check_named

    team = Team.from_environment()
    to, grader = console(quiet=not team.leads), judge.grader()
    chosen = paper_tables(number)
    if timed := [one.name for one in chosen if one.measure == "speed" and not dry_run]:
        team.alone(timed[0], "run this table without the launcher; processes side by side time each other")
    for one in chosen:
        name = one.model if model is None else model
        check_named(name)
        scenes = painted_set(name) or (SCENES if painted or name.partition(":")[0] in _PAINTED else None)
        if scenes == CLIPS:
            one = one.on_clips(TOKENS)
        rows = _only("--strategies", words_or_all("--strategies", strategies), one.strategies)
        wanted = _only("--data", words_or_all("--data", data), one.data)
        if one.measure == "speed":
            if dry_run:
                to.print(f"{one.name}: {1 + len(one.budgets) * (1 + len(rows))} rows of bench", markup=False)
                continue
            measured = _speed(one, rows, out / one.name, model, device, dtype, to)
        else:
            parts = _parts(one, wanted, rows, scenes, limit, seed, dry_run)
            _foretell(one, parts, name, batch_size, _price(one, bench, model), to)
            if dry_run:
                continue
            options = {"device": device, "dtype": dtype, "seed": seed, "batch_size": batch_size, "judge": grader}
            measured = _answers(one, parts, name, out / one.name, team, to, **options)
            if not team.leads:
                continue
        cells = one.filled(measured, scenes)
        to.print(terminal(one, cells))
        if scenes:
            to.print(f"asked about painted {scenes}: the paper's numbers are about other questions and not shown")
        write_atomically(out / one.name / "table.md", markdown(one, cells))
        write_atomically(out / one.name / "table.tex", latex(one, cells))
        to.print(f"{out / one.name}/table.md, table.tex", markup=False)


def _only(option: str, chosen: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """Those of the known that were chosen."""
    from tokenprune.core.errors import UnknownNameError, closest

    for name in chosen or ():
        if name not in known:
            raise UnknownNameError(f"{option}: the table has no {name!r}; {closest(name, known)}")
    return [name for name in known if chosen is None or name in chosen]


def _parts(
    one: PaperTable,
    benchmarks: Sequence[str],
    rows: Sequence[str],
    painted: str | None,
    limit: int | None,
    seed: int,
    dry_run: bool,
) -> list[_Part]:
    """What is asked: each benchmark; of a painted set all families whose rows stand for the same."""
    from tokenprune.core.errors import ConfigError
    from tokenprune.data.items import CLIPS
    from tokenprune.data.own import BENCHMARKS, find_data
    from tokenprune.data.scenes import CLIP_FAMILIES, QUESTION_FAMILIES

    def strategies(data: str) -> list[str | Mapping[str, Any]]:
        specs = {row: one.spec(row, data) for row in rows}
        return [row if row == spec else {"label": row, "strategy": spec} for row, spec in specs.items()]

    if painted:
        groups: dict[str, list[str]] = {}
        there = CLIP_FAMILIES if painted == CLIPS else QUESTION_FAMILIES
        for family in (family for family in there if family in benchmarks):
            groups.setdefault(repr(strategies(family)), []).append(family)
        if not groups:
            raise ConfigError(f"{one.name}: painted {painted} have no questions like those of {', '.join(benchmarks)}")
        whole, share = sum(map(len, groups.values())), limit or QUESTIONS
        found = []
        for group in groups.values():
            options = DataOptions(CLIPS if painted == CLIPS else None)
            asked = options.questions(families=group, limit=max(1, share * len(group) // whole), seed=seed)
            name = painted if len(groups) == 1 else "+".join(group)
            found.append(_Part(name, group, asked, len(asked.items), 3, strategies(group[0])))
        return found
    found, missing = [], []
    for name in benchmarks:
        known = BENCHMARKS[name]
        n = min(limit or known.questions, known.questions)
        copy: Asked | None = None
        try:
            if not dry_run or isinstance(find_data(name)[0], Path):
                copy = DataOptions(name).questions(families=None, limit=limit, seed=seed)
                n = len(copy.items)
        except ConfigError as error:
            missing.append(str(error))
        found.append(_Part(name, [name], copy, n, known.answer_tokens, strategies(name)))
    if missing and not dry_run:
        raise ConfigError("\n".join([*missing, "or measure some columns only: --data NAME,NAME"]))
    for why in missing:
        typer.echo(why, err=True)
    return found


def _price(one: PaperTable, folder: Path | None, model: str | None) -> Price | None:
    """What an answer takes, where anybody knows: measured here, or of the paper's model's sizes."""
    from tokenprune.benchmark.price import measured_here, price_of

    if folder is not None:
        return measured_here(folder)
    return price_of(one.geometry) if model in (None, one.model) else None


def _foretell(
    one: PaperTable, parts: Sequence[_Part], model: str, batch: int, price: Price | None, to: Console
) -> None:
    """How many answers, and how long they take."""
    from tokenprune.evaluation.conditions import FULL, conditions

    answers, hours = 0, 0.0
    for part in parts:
        made = conditions(part.rows, list(one.counts.values()))
        asked = part.asked
        counts = {
            row: part.n * (row.kind != "oracle") if asked is None else sum(row.asks(i.question) for i in asked.items)
            for row in made
        }
        n = sum(counts.values())
        answers += n
        there = "" if asked is not None else ", no copy here"
        to.print(f"{one.name}: {part.name}: {part.n} questions, {n} answers{there}", markup=False)
        if price is not None:
            for row, count in counts.items():
                pruned = FULL if row.strategy is None else row.strategy.name.partition(":")[0]
                seconds = price.seconds(pruned, row.keep, part.answer_tokens, batch)
                hours += count * seconds / 3600
    to.print(f"{one.name}: {answers} answers of {model}", markup=False)
    if price is None:
        to.print(f"{one.name}: how long they take is not known; measure with bench, and give --bench DIR", markup=False)
    else:
        usual = ", ".join(f"{part.name} {part.answer_tokens}" for part in parts)
        to.print(
            f"{one.name}: about {hours:.1f} GPU hours, by {price.source}, if answers have as many tokens as we guess "
            f"({usual})",
            markup=False,
        )


def _answers(
    one: PaperTable, parts: Sequence[_Part], model: str, out: Path, team: Team, to: Console, **options: Any
) -> dict[str, list[SummaryRow]]:
    """Ask, part by part; the table is that of the process that leads."""
    from tokenprune.data.items import notes_on
    from tokenprune.evaluation.compare import compare, environment
    from tokenprune.zoo.loading import load_model

    device, dtype = options["device"], options["dtype"]
    for note in notes_on(model):
        to.print(note, style="bold yellow", markup=False)
    loaded, processor = load_model(model, team.device(device), dtype)
    measured: dict[str, list[SummaryRow]] = {}
    for part in parts:
        assert part.asked is not None
        with progress(to, part.name) if team.leads else nullcontext(lambda *_: None) as moved:
            found = compare(
                loaded,
                processor,
                part.asked.items,
                out / part.name,
                {"model": model, "dtype": dtype, **part.asked.config},
                strategies=part.rows,
                budgets=list(one.counts.values()),
                match="share" if one.shares else "kept",
                batch_size=options["batch_size"],
                max_new_tokens=part.asked.max_new_tokens,
                note=lambda text, b=part.name: to.print(f"{b}: {text}", style="bold yellow", markup=False),
                facts=environment(model, device, dtype, options["seed"]),
                judge=options["judge"],
                team=team,
                fewer=part.asked.fewer,
                progress=moved,
            )
        measured |= dict.fromkeys(part.data, found)
    return measured


def _speed(
    one: PaperTable, rows: Sequence[str], out: Path, model: str | None, device: str, dtype: str, to: Console
) -> dict[str, list[SummaryRow]]:
    """Time and memory: of the geometry's sizes with random weights, or of a model with painted questions."""
    from tokenprune.benchmark.asked import CANDIDATES, Questions
    from tokenprune.benchmark.bench import Setup, bench, bench_rows
    from tokenprune.zoo.loading import load_model

    specs = {one.spec(row, "speed"): row for row in rows}
    cuda = device.startswith("cuda")
    setup = Setup(
        one.geometry if model is None else "",
        small=model is None and not cuda,
        device=device,
        dtype=dtype,
        repeats=30 if cuda else 5,
        warm=10 if cuda else 2,
    )
    subject, about = None, None
    if model is not None:
        asked = DataOptions().questions(families=["pope"], limit=CANDIDATES, seed=0)
        subject, about = Questions(*load_model(model, device, dtype), asked.items), {"model": model, **asked.config}
    wanted = list(bench_rows(["random", *specs], list(one.counts.values()), [1], ["plain"]))
    with progress(to, one.name) as moved:
        found = bench(setup, wanted, out, progress=moved, subject=subject, about=about)
    if not cuda:
        to.print(f"{one.name}: times of a CPU, memory is not measured", style="bold yellow", markup=False)
    return {"speed": [row for line in found for row in _speed_rows(line, specs)]}


def _speed_rows(line: Mapping[str, Any], labels: Mapping[str, str]) -> list[SummaryRow]:
    """A row of bench as numbers of a table: mean, and a standard deviation to either side."""
    from tokenprune.evaluation.summary import SummaryRow

    if "refused" in line or line["way"] != "plain":
        return []
    label = labels.get(line["strategy"], line["strategy"])
    time = line["first_token_ms"]
    values = {"first_token_ms": (time["mean"], time["std"])}
    if "memory_gib" in line:
        values["memory_gb"] = (line["memory_gib"] * 2**30 / 1e9, 0.0)
    costs = {
        **dict.fromkeys(("kept_tokens", "layer_average_tokens"), line["layer_average"]),
        "flops": line["prefill_gflops"] * 1e9,
        "kv_bytes": line["kv_mib"] * 2**20,
    }
    about = {"task": "speed", "family": "all", "n": time["repeats"], "p_full": None, "p_random": None, **costs}
    return [
        SummaryRow(label, line["keep"] or 0, metric=name, value=mean, low=mean - std, high=mean + std, **about)
        for name, (mean, std) in values.items()
    ]
