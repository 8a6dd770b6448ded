"""The paper's tables as files: models, budgets, strategies, data, and the published numbers, to be filled with ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from tokenprune.core.errors import ConfigError, UnknownNameError, closest
from tokenprune.evaluation.summary import SummaryRow

__all__ = ["TABLES", "Cell", "Column", "PaperTable", "paper_tables"]

TABLES = Path(__file__).with_name("tables")
"""The paper's tables, as YAML files; one a model where a table has several."""

FULL = "full"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes
    ----------
    name : str
    data : str
        Benchmark; on painted scenes the questions that are like it.
    metric : str
        As in summary.json.
    scale : float
        What ours is multiplied by to be written as the paper does.
    family : str
        Part of the benchmark.
    best : str
        "highest", "lowest", or "none" where no value is better than another.
    scenes : mapping
        "metric" and "scale" on painted scenes, where they differ.
    clips : str
        Questions about painted clips that are like those of the benchmark.
    """

    name: str
    data: str
    metric: str
    scale: float
    family: str = "all"
    best: str = "highest"
    scenes: Mapping[str, Any] | None = None
    clips: str = ""


@dataclass(frozen=True)
class Cell:
    """One number, ours beside the paper's, as the paper writes it.

    Attributes
    ----------
    ours, low, high : float or None
        None where it was not measured; the interval is of 95 % over pictures, None where there is none.
    paper : float or None
    """

    ours: float | None = None
    low: float | None = None
    high: float | None = None
    paper: float | None = None

    @property
    def difference(self) -> float | None:
        """Ours less the paper's."""
        return None if self.ours is None or self.paper is None else self.ours - self.paper


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper.

    Attributes
    ----------
    name, title, source, model : str
    budgets : tuple of (int or str)
        Counts, or shares as "50%".
    strategies : tuple of str
        Rows beside full and random.
    columns : tuple of Column
    values : mapping
        Budget (or "full") -> strategy -> numbers by column.
    specs : mapping of str to str
        What a row's name stands for, where it is no strategy's.
    by_data : mapping
        Benchmark -> row -> what it stands for there: options that the paper tunes by the kind of questions.
    measure : str
        "answers", or "speed".
    geometry : str
        Sizes of the model, for speed.
    tokens : int
        Of a video, of which the budgets are counts.
    """

    name: str
    title: str
    source: str
    model: str
    budgets: tuple[int | str, ...]
    strategies: tuple[str, ...]
    columns: tuple[Column, ...]
    values: Mapping[Any, Mapping[str, Sequence[float]]]
    specs: Mapping[str, str] = field(default_factory=dict)
    by_data: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    measure: str = "answers"
    geometry: str = ""
    tokens: int = 0

    @classmethod
    def read(cls, path: Path) -> PaperTable:
        """Read a YAML file.

        Raises
        ------
        ConfigError
            It cannot be read, or a row has not as many numbers as there are columns.
        """
        try:
            given = yaml.safe_load(path.read_text(encoding="utf-8"))
            columns = tuple(Column(**column) for column in given.pop("columns"))
            budgets, strategies = (tuple(given.pop(key)) for key in ("budgets", "strategies"))
            made = cls(path.stem, budgets=budgets, strategies=strategies, columns=columns, **given)
        except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{path}: no table: {' '.join(str(error).split())}") from error
        made._check(path)
        known = {FULL, *made.budgets}
        for budget, rows in made.values.items():
            for strategy, numbers in rows.items():
                if budget not in known or len(numbers) != len(columns):
                    raise ConfigError(
                        f"{path}: values: {budget}: {strategy}: {len(numbers)} numbers for {len(columns)} columns, or "
                        f"no such budget"
                    )
        return made

    def _check(self, path: Path) -> None:
        """Raise for names that mean nothing."""
        named = {*self.specs, *(row for rows in self.by_data.values() for row in rows)}
        if (strange := named - set(self.strategies)) or (strange := set(self.by_data) - set(self.data)):
            raise ConfigError(f"{path}: specs, by_data: no row or column is about {sorted(strange)[0]!r}")
        if self.measure not in ("answers", "speed") or len({isinstance(budget, str) for budget in self.budgets}) > 1:
            raise ConfigError(f"{path}: measure is answers or speed, and budgets are counts or shares, not both")

    def on_clips(self, tokens: int) -> PaperTable:
        """The same, asked about painted clips of so many tokens, of which budgets are the same share.

        Raises
        ------
        ConfigError
            No column is about videos.
        """
        kept = tuple(replace(column, data=column.clips) for column in self.columns if column.clips)
        if not kept or not self.tokens:
            raise ConfigError(f"{self.name}: painted clips have no questions like those of {', '.join(self.data)}")
        budgets = tuple(max(1, round(int(budget) * tokens / self.tokens)) for budget in self.budgets)
        return replace(self, budgets=budgets, columns=kept, values={}, tokens=tokens)

    @property
    def shares(self) -> bool:
        """Whether budgets are shares of a picture's tokens."""
        return isinstance(self.budgets[0], str)

    def spec(self, row: str, data: str) -> str:
        """What a row stands for on a benchmark, as :func:`tokenprune.build` takes it."""
        return self.by_data.get(data, {}).get(row) or self.specs.get(row, row)

    @property
    def rows(self) -> list[tuple[str, int | str]]:
        """Strategy and budget of each row, in the order of the table."""
        return [(FULL, FULL), *((s, keep) for keep in self.budgets for s in ("random", *self.strategies))]

    @property
    def data(self) -> list[str]:
        """Benchmarks that it needs, each once."""
        return list(dict.fromkeys(column.data for column in self.columns))

    @property
    def counts(self) -> dict[int | str, int]:
        """Each budget as a comparison takes it: tokens, or with :attr:`shares` per cent of a picture's."""
        return {budget: budget if isinstance(budget, int) else int(budget.rstrip("%")) for budget in self.budgets}

    def filled(
        self, measured: Mapping[str, Sequence[SummaryRow]], scenes: str | None = None
    ) -> dict[tuple[str, int | str], list[Cell]]:
        """Our numbers beside the published ones.

        Parameters
        ----------
        measured : mapping of str to sequence of SummaryRow
            By benchmark; one that is missing leaves its columns empty.
        scenes : str, optional
            Name of the painted set that was asked about, which the paper's numbers are not about.
        """
        found = {}
        for strategy, budget in self.rows:
            keep = 0 if budget == FULL else self.counts[budget]
            published = self.values.get(budget, {}).get(strategy)
            cells = []
            for i, column in enumerate(self.columns):
                change = dict(column.scenes or {}) if scenes else {}
                metric, scale = change.get("metric", column.metric), float(change.get("scale", column.scale))
                task = f"{scenes}-{column.data}" if scenes and self.measure == "answers" else column.data
                wanted = (strategy, keep, task, column.family, metric)
                row = next((r for r in measured.get(column.data, ()) if _key(r) == wanted), None)
                paper = None if published is None or scenes else float(published[i])
                if row is None:
                    cells.append(Cell(paper=paper))
                else:
                    # a number without an interval has itself as both ends
                    low, high = (None if row.low == row.high else end * scale for end in (row.low, row.high))
                    cells.append(Cell(row.value * scale, low, high, paper))
            found[strategy, budget] = cells
        return found


def _key(row: SummaryRow) -> tuple[str, int, str, str, str]:
    return row.strategy, row.keep, row.task, row.family, row.metric


def paper_tables(name: str, folder: Path = TABLES) -> list[PaperTable]:
    """Tables by number ("8"), by number and part ("2-8b"), figures ("fig-6a"), or "all"; or the path of a YAML file.

    Raises
    ------
    UnknownNameError
        With those there are.
    """
    if name.endswith((".yaml", ".yml")):
        return [PaperTable.read(Path(name))]
    files = {path.stem.removeprefix("table-"): path for path in sorted(folder.glob("*.yaml"))}
    chosen = [path for key, path in sorted(files.items()) if name in ("all", key) or key.startswith(f"{name}-")]
    if not chosen:
        raise UnknownNameError(f"no table {name!r}; {closest(name, [*files, 'all'])}")
    return [PaperTable.read(path) for path in chosen]
