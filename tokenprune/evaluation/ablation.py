"""Ablations: one file says which options vary, the rest is a comparison with its own table and figure."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from tokenprune.core.errors import TokenPruneWarning
from tokenprune.data.items import SCENES, Item
from tokenprune.evaluation.ablation_config import Ablation
from tokenprune.evaluation.answered import answers_in
from tokenprune.evaluation.compare import comparison
from tokenprune.evaluation.conditions import SCALE
from tokenprune.evaluation.failures import Failure
from tokenprune.evaluation.judge import Judge
from tokenprune.evaluation.summary import paired_test, summarize
from tokenprune.results.store import as_csv, write_atomically
from tokenprune.results.team import Team

__all__ = ["AblationRow", "ablate", "ablation_table", "pooled"]


@dataclass(frozen=True)
class AblationRow:
    """One number.

    Attributes
    ----------
    label : str
        A variant, or one of the rows that give the numbers a scale: full, wrong image, oracle, random.
    keep : int
        0 where nothing is pruned.
    group : str
    value, low, high : float
        Accuracy and its 95 % interval over images.
    n : int
        Questions.
    p_random, p_reference : float or None
        Paired tests against random and against the reference row, at the same budget.
    paper : float or None
        What the paper reports for its model and data, as a share.
    """

    label: str
    keep: int
    group: str
    value: float
    low: float
    high: float
    n: int
    p_random: float | None
    p_reference: float | None
    paper: float | None


def ablate(
    model: Any,
    processor: Any,
    ablation: Ablation,
    items: Sequence[Item],
    out: Path,
    config: Mapping[str, Any],
    *,
    facts: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    max_new_tokens: int = 6,
    broke: Callable[[Failure], None] = lambda failure: None,
    note: Callable[[str], None] = lambda text: warnings.warn(text, TokenPruneWarning, stacklevel=3),
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    judge: Judge | None = None,
    team: Team | None = None,
    fewer: Callable[[int], Sequence[Item]] | None = None,
) -> list[AblationRow]:
    """Ask every variant, and write ``table.csv`` and ``table.json`` beside the comparison's own files.

    Parameters
    ----------
    model, processor
    ablation : Ablation
    items : sequence of Item
        Questions of the ablation's families.
    out : Path
        Resumed where it stopped if it was begun with the same ``config`` and variants.
    config : mapping
        What decides an answer, apart from the variants.
    facts : mapping, optional
        Environment, for the table.
    batch_size : int, default 16
    max_new_tokens : int, default 6
    broke : callable
        Told of variants that raised; they have no rows.
    note : callable
        Called with what a reader must know; warns by default.
    progress : callable
    judge : Judge, optional
        Grades answers whose metric needs one.
    team : Team, optional
        Which of several processes that answer together this one is; alone by default.
    fewer : callable, optional
        From a smaller limit to the questions that it chooses, so that a folder may go on with more of them.

    Returns
    -------
    list of AblationRow
        Of all processes; none where this is not the one that leads, which then writes no table either.
    """
    rows = ablation.rows()
    found = comparison(
        model,
        processor,
        items,
        out,
        {**config, "variants": rows},
        strategies=rows,
        budgets=ablation.budgets,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        note=note,
        facts=facts,
        progress=progress,
        judge=judge,
        team=team,
        fewer=fewer,
    )
    if team is not None and not team.leads:
        return []
    for one in found.failed:
        broke(one)
    table = pooled(ablation, answers_in(out))
    about = {"name": ablation.name, "title": ablation.title, "source": ablation.source, "paper": dict(ablation.paper)}
    document = {
        **about,
        "environment": found.summary["environment"],
        "failed": found.summary["failed"],
        "rows": [asdict(row) for row in table],
    }
    write_atomically(out / "table.json", json.dumps(document, indent=1) + "\n")
    fields = list(AblationRow.__dataclass_fields__)
    write_atomically(out / "table.csv", as_csv(fields, map(asdict, table)))
    return table


def pooled(ablation: Ablation, lines: Sequence[Mapping[str, Any]]) -> list[AblationRow]:
    """Reduce results.jsonl: accuracy of every row in every group, by group, then falling budget, then row."""
    order = [*(variant.label for variant in ablation.variants), *SCALE]
    published = ablation.paper.get("values", {})
    rows = []
    for group, families in ablation.groups.items():
        tasks = {*families, *(f"{SCENES}-{family}" for family in families)}
        mine = [{**line, "task": "group", "family": "part"} for line in lines if line["task"] in tasks]
        answers: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
        for line in mine:
            answers.setdefault((line["strategy"], line["keep"]), []).append(line)
        for row in summarize(mine):
            if (row.metric, row.task, row.family) != ("accuracy", "group", "all"):
                continue
            reference = ablation.reference_of(row.strategy)
            tested = reference not in (None, row.strategy)
            # a reference that broke is nothing to test against
            theirs = answers.get((reference or "", row.keep), [])
            p_reference = paired_test(answers[row.strategy, row.keep], theirs) if tested and theirs else None
            number = published.get(row.strategy, {}).get(group, {}).get(row.keep)
            rows.append(
                AblationRow(
                    row.strategy,
                    row.keep,
                    group,
                    row.value,
                    row.low,
                    row.high,
                    row.n,
                    row.p_random,
                    p_reference,
                    None if number is None else number / 100,
                )
            )
    groups = list(ablation.groups)
    return sorted(rows, key=lambda row: (groups.index(row.group), -row.keep, order.index(row.label)))


def ablation_table(ablation: Ablation, rows: Sequence[AblationRow]) -> Table:
    """Variants down, groups and budgets across; the best of each column is bold, * differs from the reference.

    Differs: a paired test with p < 0.05, for this column alone.
    """
    columns = [(group, keep) for group in ablation.groups for keep in ablation.budgets]
    cells = {(row.label, row.group, row.keep): row for row in rows}
    labels = [variant.label for variant in ablation.variants]
    best = {
        column: max((cell.value for label in labels if (cell := cells.get((label, *column)))), default=0.0)
        for column in columns
    }
    title = f"{ablation.name}: {ablation.title}"
    out = Table("row", *(escape(f"{group} {keep}") for group, keep in columns), title=escape(title))

    def shown(label: str, column: tuple[str, int]) -> str:
        group, keep = column
        cell = cells.get((label, group, keep)) or cells.get((label, group, 0))
        if cell is None:
            return "-"
        star = "*" if cell.p_reference is not None and cell.p_reference < 0.05 else ""
        number = f"{cell.value:.1%}{star}"
        if label in labels and cell.value == best[column]:
            number = f"[bold]{number}[/bold]"
        return number if cell.paper is None else f"{number} (paper {cell.paper:.2%})"

    for label in labels:
        mark = " (reference)" if label == ablation.reference_of(label) else ""
        out.add_row(escape(label) + mark, *(shown(label, column) for column in columns))
    out.add_section()
    for label in SCALE:
        out.add_row(label, *(shown(label, column) for column in columns))
    return out
