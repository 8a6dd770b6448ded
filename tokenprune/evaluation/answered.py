"""What a folder of answers holds: rows that answered every question, and how far the others came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenprune.core.errors import ConfigError
from tokenprune.evaluation.conditions import ORACLE, RANDOM, RANDOM_DRAWS
from tokenprune.evaluation.judge.journal import pending, with_verdicts
from tokenprune.evaluation.summary import in_order
from tokenprune.results.lines import ANSWERS, parsed, read_results
from tokenprune.results.provenance import short
from tokenprune.results.schema import check_schema

__all__ = ["Answered", "Incomplete", "answered", "answers_in", "config_of", "current_lines", "described"]


@dataclass(frozen=True)
class Incomplete:
    """A row that has not answered all questions.

    Attributes
    ----------
    strategy : str
    keep : int
    answered, of : int
        Answers there are, and are needed: each draw counts, and one without a judge's verdict does not.
    ungraded : int
        Answers that wait for a judge.
    """

    strategy: str
    keep: int
    answered: int
    of: int
    ungraded: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: value for name, value in asdict(self).items() if name != "ungraded" or value}


@dataclass(frozen=True)
class Answered:
    """Lines of a comparison, of what each label stands for now.

    Attributes
    ----------
    lines : list of dict
        Of rows that answered every question, in an order that does not depend on that of the file.
    incomplete : list of Incomplete
        The other rows.
    unjudged : int
        Answers that wait for a judge; their rows are incomplete.
    """

    lines: list[dict[str, Any]]
    incomplete: list[Incomplete]
    unjudged: int = 0


def config_of(out: Path) -> dict[str, Any]:
    """The provenance record of a comparison: ``config.json``.

    Raises
    ------
    ConfigError
        There is none, or it is damaged.
    """
    return _read(out / "config.json", "config")


def described(out: Path) -> dict[str, Any]:
    """What each label stands for now: ``strategies.json``; nothing where there is no such file.

    Raises
    ------
    ConfigError
        The file is damaged.
    """
    file = out / "strategies.json"
    return _read(file, "strategies") if file.exists() else {}


def _read(file: Path, schema: str) -> dict[str, Any]:
    try:
        found = parsed(file.read_bytes(), repr(str(file)))
    except FileNotFoundError:
        raise ConfigError(f"{str(file)!r}: no such file; is this a folder that compare wrote?") from None
    check_schema(schema, found, repr(str(file)))
    return found


def answered(out: Path, samples: Container[str] | None = None) -> Answered:
    """Lines of a comparison's ``results.jsonl``, of what each label stands for now.

    What a strategy answered before it was changed stays in the file, and is left out here. A row counts only if it
    answered every question; all that did not are listed.

    Parameters
    ----------
    out : Path
    samples : container of str, optional
        Questions that count; all by default.

    Raises
    ------
    ConfigError
        A file is damaged, two lines contradict each other, or a line belongs to another run.
    """
    config = config_of(out)
    said = with_verdicts(out, in_order(current_lines(out, samples)))
    count = Counter((line["strategy"], line["keep"]) for line in said)
    waiting = Counter((line["strategy"], line["keep"]) for line in pending(said))
    lines = [line for line in said if line["correct"] is not None]
    asked, located = config["questions"]["n"], config["questions"]["located"]
    incomplete = []
    for (label, keep), n in sorted(count.items(), key=lambda row: (-row[0][1], row[0][0])):
        given = n - waiting[label, keep]
        needed = {RANDOM: RANDOM_DRAWS * asked, ORACLE: located}.get(label, asked)
        if given < needed:
            incomplete.append(Incomplete(label, keep, given, needed, waiting[label, keep]))
    left_out = {(row.strategy, row.keep) for row in incomplete}
    whole = [line for line in lines if (line["strategy"], line["keep"]) not in left_out]
    return Answered(whole, incomplete, waiting.total())


def current_lines(out: Path, samples: Container[str] | None = None) -> list[dict[str, Any]]:
    """Lines of what each label stands for now, in the order of the file, without verdicts; see :func:`answered`."""
    run, stands_for = short(config_of(out)), described(out)
    lines = []
    for line in read_results(out, ANSWERS):
        if line["run"] != run:
            raise ConfigError(
                f"{str(out / 'results.jsonl')!r} holds an answer of run {line['run']} ({line['strategy']}, "
                f"{line['sample']}), and the folder is of run {run}: config.json was changed, or the line is another "
                "folder's; put them right, or use another --out"
            )
        wanted = samples is None or line["sample"] in samples
        if wanted and line["identity"] == stands_for.get(line["strategy"], {}).get("identity"):
            lines.append(line)
    return lines


def answers_in(out: Path, samples: Container[str] | None = None) -> list[dict[str, Any]]:
    """Lines of rows that answered every question; see :func:`answered`."""
    return answered(out, samples).lines
