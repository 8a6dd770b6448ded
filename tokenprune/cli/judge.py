"""``tokenprune judge``: grades from another language model for answers that wait for one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenprune.cli.progress import console, progress

if TYPE_CHECKING:
    from tokenprune.evaluation.judge import Judge, Spent

__all__ = ["JudgeOptions", "judge"]

JudgeModel = Annotated[
    str, typer.Option("--judge-model", envvar="TOKENPRUNE_JUDGE_MODEL", help="Model of that endpoint.")
]


@dataclass(frozen=True)
class JudgeOptions:
    """Which judge grades what a metric leaves to one; its fields are what commands offer.

    Attributes
    ----------
    judge : str or None
        Address of an endpoint; None for no judge.
    judge_model : str
    """

    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            envvar="TOKENPRUNE_JUDGE_URL",
            help="OpenAI-compatible endpoint that grades what a metric leaves to a judge, up to /v1; the key is read "
            "from TOKENPRUNE_JUDGE_KEY.",
        ),
    ] = None
    judge_model: JudgeModel = ""

    def grader(self) -> Judge | None:
        """The judge; None where none is named."""
        from tokenprune.evaluation.judge import Endpoint, Judge

        return None if self.judge is None else Judge(Endpoint.of(self.judge, self.judge_model))


def judge(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders that compare or table wrote.")],
    url: Annotated[
        str, typer.Option(envvar="TOKENPRUNE_JUDGE_URL", help="OpenAI-compatible endpoint, up to /v1.")
    ] = "",
    model: JudgeModel = "",
    workers: Annotated[int, typer.Option(min=1, max=256, help="Requests at a time.")] = 4,
    per_minute: Annotated[float | None, typer.Option(help="Requests that begin in a minute, at most.")] = None,
    tries: Annotated[int, typer.Option(min=1, help="Requests until one has a reply; pauses double.")] = 6,
    readings: Annotated[int, typer.Option(min=1, help="Replies until one is a verdict.")] = 3,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for a sign of life.")] = 60.0,
    options: Annotated[
        str, typer.Option(help="Fields of a request: max_tokens=none,max_completion_tokens=512; 'none' leaves out.")
    ] = "",
    price: Annotated[
        str, typer.Option(help="Of a million tokens read and written, e.g. 2.0,8.0: the cost is told.")
    ] = "",
) -> None:
    """Ask a judge about every answer that has no grade, once each; the key comes from TOKENPRUNE_JUDGE_KEY."""
    from tokenprune.cli.console import print_table
    from tokenprune.core.errors import ConfigError
    from tokenprune.evaluation.answered import answers_in, described
    from tokenprune.evaluation.judge import Endpoint, Judge
    from tokenprune.evaluation.judged import judge_folder
    from tokenprune.evaluation.merged import merged
    from tokenprune.evaluation.table import expendable, table
    from tokenprune.report.comparison import write_report
    from tokenprune.report.comparison.pictures import kept_pictures

    if not url:
        raise ConfigError("--url is missing: the address of an endpoint, e.g. https://api.openai.com/v1")
    prices = _prices(price)
    asked = Judge(Endpoint.of(url, model, options, timeout), workers, per_minute, tries, readings)
    to, without = console(), 0
    for folder in folders:
        with progress(to, str(folder)) as moved:
            found = judge_folder(folder, asked, moved)
        for why in list(dict.fromkeys(found.without))[:5]:
            to.print(f"an answer has no grade: {why}", style="bold yellow", markup=False)
        without += len(found.without)
        to.print(
            f"{folder}: {found.answers} answers, {found.requests} requests, {len(found.without)} without a verdict"
        )
        to.print(f"{folder}: {_spent(found.spent, prices)}", markup=False)
        now = merged([folder])
        lines = answers_in(folder)
        drawn = kept_pictures({folder: lines})  # new ones need the model: compare on this folder draws them
        further: dict[str, Any] = {"lines": lines, "stands_for": described(folder), "missing": now.notes}
        write_report(folder, now.rows, now.facts, (), drawn.examples, undrawn=drawn.absent, **further)
        if now.rows:
            print_table(table(now.rows), expendable(now.rows))
    if without:
        typer.echo("rows with such answers are not in the table; the same command asks about them again", err=True)
        raise typer.Exit(1)


def _prices(text: str) -> tuple[float, float] | None:
    from tokenprune.core.errors import ConfigError

    if not text:
        return None
    try:
        first, second = (float(word) for word in text.split(","))
    except ValueError:
        first = second = -1.0
    if not (0 <= first < 1e9 and 0 <= second < 1e9):
        raise ConfigError(f"--price: two prices of a million tokens, read and written, e.g. 2.0,8.0; got {text!r}")
    return first, second


def _spent(spent: Spent, prices: tuple[float, float] | None) -> str:
    """What all replies in a folder took."""
    told = f"{spent.replies} replies so far, {spent.tokens_in} tokens read, {spent.tokens_out} written"
    if prices is not None:
        told += f", cost {spent.cost(*prices):.4f}"
    return told + (f" (at least: of {spent.uncounted} replies the server gave no count)" if spent.uncounted else "")
