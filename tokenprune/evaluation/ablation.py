"""Ablations: one file says which options vary, the rest is a comparison with its own table and figure."""

from __future__ import annotations

import itertools
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rich.markup import escape
from rich.table import Table

from tokenprune.core.documents import read_yaml
from tokenprune.core.errors import ConfigError, TokenPruneWarning, UnknownNameError, closest
from tokenprune.data.items import SCENES, Item
from tokenprune.data.scenes import FAMILIES
from tokenprune.evaluation.answered import answers_in
from tokenprune.evaluation.compare import comparison
from tokenprune.evaluation.conditions import SCALE, conditions
from tokenprune.evaluation.failures import Failure
from tokenprune.evaluation.summary import paired_test, summarize
from tokenprune.results.store import as_csv, write_atomically

__all__ = [
    "CONFIGS",
    "Ablation",
    "AblationRow",
    "Variant",
    "ablate",
    "ablation_table",
    "ablations",
    "pooled",
]

Figure = Literal["curves", "sweep", "heatmap"]
"""``curves``: a line a variant, over budgets. ``sweep``: a line a budget, over the first option. ``heatmap``: the first
option down, the second across."""

CONFIGS = Path(__file__).with_name("ablations")
"""The paper's ablations, and ours, as YAML files."""

_NAME = re.compile(r"\w[\w.-]*")
"""What a file may be called: its results go into a folder of that name."""

MOST_VARIANTS = 1000
"""Rows of one ablation."""

_REQUIRED = ("title", "source", "budgets", "groups", "base", "vary")
_OPTIONAL = ("reference", "figure", "paper")


@dataclass(frozen=True)
class Variant:
    """One row.

    Attributes
    ----------
    label : str
    place : tuple of str
        Its value on each axis, as shown.
    strategy : mapping
        What :func:`tokenprune.build` makes it from.
    """

    label: str
    place: tuple[str, ...]
    strategy: Mapping[str, Any]


@dataclass(frozen=True)
class Ablation:
    """Options that vary, questions, budgets.

    Attributes
    ----------
    name, title, source : str
        Source is the table or figure of the paper.
    budgets : tuple of int
    groups : mapping of str to tuple of str
        Columns of the table: families of questions that are pooled.
    axes : tuple of str
        Options that vary.
    variants : tuple of Variant
        All combinations, the last axis fastest.
    reference : tuple of str
        What others are tested against: its values on the first axes; on the rest it has the tested row's own.
    figure : str
    paper : mapping
        "model", and "values": label -> group -> budget -> number in percent, as published.
    painted : bool
        Whether groups are families of painted questions, and not tasks of other data.
    """

    name: str
    title: str
    source: str
    budgets: tuple[int, ...]
    groups: Mapping[str, tuple[str, ...]]
    axes: tuple[str, ...]
    variants: tuple[Variant, ...]
    reference: tuple[str, ...] = ()
    figure: Figure = "curves"
    paper: Mapping[str, Any] = field(default_factory=dict)
    painted: bool = True

    @property
    def families(self) -> list[str]:
        """Families of questions that any group asks."""
        return [family for family in FAMILIES if any(family in group for group in self.groups.values())]

    def about(self, tasks: Iterable[str]) -> Ablation:
        """The same for other questions: a group a task, and no published numbers, which are about others."""
        return replace(self, groups={task: (task,) for task in tasks}, paper={}, painted=False)

    def values_of(self, axis: int) -> list[str]:
        """Values of an axis, as shown, in order."""
        return list(dict.fromkeys(variant.place[axis] for variant in self.variants))

    @classmethod
    def read(cls, path: Path) -> Ablation:
        """Read a YAML file; builds every variant, so that mistakes show before a model is loaded.

        Raises
        ------
        ConfigError
            No such file, no YAML, a key that is missing or unknown, or values that do not fit.
        TokenPruneError
            A variant cannot be built.
        """
        if not _NAME.fullmatch(path.stem):
            raise ConfigError(f"{path}: results go into a folder named {path.stem!r}: letters, digits, '-', '_', '.'")
        given = read_yaml(path)
        if not isinstance(given, Mapping):
            raise ConfigError(f"{path}: an ablation is a mapping of {', '.join(_REQUIRED)}")
        for key in given:
            if key not in _REQUIRED + _OPTIONAL:
                raise ConfigError(f"{path}: no key {key!r}; {closest(key, _REQUIRED + _OPTIONAL)}")
        for key in _REQUIRED:
            if key not in given:
                raise ConfigError(f"{path}: {key!r} is missing")
        figure = given.get("figure", "curves")
        if figure not in get_args(Figure):
            raise ConfigError(f"{path}: figure: no {figure!r}; {closest(figure, get_args(Figure))}")
        axes, variants = _variants(path, given["base"], given["vary"])
        if len(axes) > 2 or (figure == "heatmap" and len(axes) != 2):
            raise ConfigError(
                f"{path}: figure {figure!r} shows {'two options' if figure == 'heatmap' else 'one or two'}"
            )
        groups = _groups(path, given["groups"])
        labels = [variant.label for variant in variants]
        reference = tuple(_shown(value) for value in _listed(path, "reference", given.get("reference", [])))
        if not any(variant.place[: len(reference)] == reference for variant in variants):
            raise ConfigError(f"{path}: reference {list(reference)} is no row; rows: {', '.join(labels)}")
        paper = _mapped(path, "paper", given.get("paper", {}))
        for label, numbers in _mapped(path, "paper: values", paper.get("values", {})).items():
            if label not in labels:
                raise ConfigError(f"{path}: paper: no row {label!r}; {closest(label, labels)}")
            for group, by_budget in _mapped(path, f"paper: {label}", numbers).items():
                _mapped(path, f"paper: {label}: {group}", by_budget)
        made = cls(
            path.stem,
            str(given["title"]),
            str(given["source"]),
            _budgets(path, given["budgets"]),
            groups,
            axes,
            variants,
            reference,
            figure,
            paper,
        )
        conditions(made.rows(), made.budgets)
        return made

    def reference_of(self, label: str) -> str | None:
        """Label of the row that a row is tested against; its own for a reference, None where there is none."""
        place = next((variant.place for variant in self.variants if variant.label == label), None)
        if place is None or not self.reference:
            return None
        wanted = self.reference + place[len(self.reference) :]
        return next(variant.label for variant in self.variants if variant.place == wanted)

    def rows(self) -> list[Mapping[str, Any]]:
        """Variants as rows of a comparison."""
        return [{"label": variant.label, "strategy": variant.strategy} for variant in self.variants]


def _shown(value: Any) -> str:
    """How a value is called: its label or name, a number in short."""
    if isinstance(value, Mapping):
        return str(value.get("label", value.get("name")))
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _listed(path: Path, key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(f"{path}: {key} must be a list, got {value!r}")
    return value


def _mapped(path: Path, key: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: {key} must be a mapping, got {value!r}")
    return value


def _budgets(path: Path, value: Any) -> tuple[int, ...]:
    budgets = _listed(path, "budgets", value)
    if not budgets or not all(type(keep) is int and keep > 0 for keep in budgets):
        raise ConfigError(f"{path}: budgets must be a list of counts, e.g. [128, 64], got {value!r}")
    return tuple(budgets)


def _groups(path: Path, value: Any) -> dict[str, tuple[str, ...]]:
    groups = {
        str(name): tuple(_listed(path, f"groups: {name}", f)) for name, f in _mapped(path, "groups", value).items()
    }
    for family in itertools.chain(*groups.values()):
        if not isinstance(family, str) or family not in FAMILIES:
            raise ConfigError(f"{path}: groups: no family of questions {family!r}; {closest(family, FAMILIES)}")
    return groups


def _variants(path: Path, base: Any, vary: Any) -> tuple[tuple[str, ...], tuple[Variant, ...]]:
    if not isinstance(base, Mapping) or not isinstance(vary, Mapping) or not vary:
        raise ConfigError(f"{path}: 'base' and 'vary' are mappings of options, and something varies")
    for option, values in vary.items():
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise ConfigError(f"{path}: vary: {option!r} needs a list of values, got {values!r}")
    if (n := math.prod(len(values) for values in vary.values())) > MOST_VARIANTS:
        raise ConfigError(f"{path}: vary: {n} combinations, and {MOST_VARIANTS} at most are asked")
    axes = tuple(vary)
    variants = []
    for chosen in itertools.product(*vary.values()):
        place = tuple(map(_shown, chosen))
        named = (f"{a} {p}" if isinstance(v, int | float) else p for a, p, v in zip(axes, place, chosen, strict=True))
        options = {
            axis: value["value"] if isinstance(value, Mapping) and "label" in value else value
            for axis, value in zip(axes, chosen, strict=True)
        }
        variants.append(Variant(" + ".join(named), place, {**base, **options}))
    return axes, tuple(variants)


def ablations(name: str, folder: Path) -> list[Ablation]:
    """Find ablations.

    Parameters
    ----------
    name : str
        A name, "all", or the path of a YAML file.
    folder : Path
        Where names are looked up.

    Raises
    ------
    UnknownNameError
        With the closest names.
    ConfigError
        There is no such folder or file.
    """
    if name.endswith((".yaml", ".yml")):
        return [Ablation.read(Path(name))]
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if not files:
        raise ConfigError(
            f"{str(folder)!r} holds no ablations (*.yaml): run inside a checkout, name their folder with --configs, or "
            "give the path of a YAML file instead of a name"
        )
    if name == "all":
        return [Ablation.read(path) for path in files.values()]
    if name not in files:
        raise UnknownNameError(f"no ablation named {name!r}; {closest(name, [*files, 'all'])}")
    return [Ablation.read(files[name])]


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
    )
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
        tasks = {f"{SCENES}-{family}" for family in families} if ablation.painted else set(families)
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
