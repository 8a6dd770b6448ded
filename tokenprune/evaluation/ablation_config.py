"""What an ablation varies: a YAML file, read and checked."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from tokenprune.core.documents import read_yaml
from tokenprune.core.errors import ConfigError, UnknownNameError, closest
from tokenprune.data.scenes import QUESTION_FAMILIES
from tokenprune.evaluation.conditions import conditions

__all__ = ["CONFIGS", "Ablation", "Variant", "ablations"]

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

    @property
    def families(self) -> list[str]:
        """Families of questions that any group asks."""
        return [family for family in QUESTION_FAMILIES if any(family in group for group in self.groups.values())]

    def about(self, tasks: Iterable[str]) -> Ablation:
        """The same for other questions: a group a task, and no published numbers, which are about others."""
        return replace(self, groups={task: (task,) for task in tasks}, paper={})

    def only(self, families: Collection[str]) -> Ablation:
        """The same for some of its families of questions; groups that lose all of theirs go.

        Raises
        ------
        ConfigError
            There is no such family, with the closest one, or the ablation asks none of these.
        """
        for family in families:
            if family not in QUESTION_FAMILIES:
                raise ConfigError(f"families: no {family!r}; {closest(family, QUESTION_FAMILIES)}")
        left = {name: tuple(f for f in group if f in families) for name, group in self.groups.items()}
        if not any(left.values()):
            raise ConfigError(
                f"ablation {self.name!r} asks none of the families {', '.join(families)}; it asks "
                f"{', '.join(self.families)}"
            )
        return replace(self, groups={name: group for name, group in left.items() if group}, paper={})

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
        if not isinstance(family, str) or family not in QUESTION_FAMILIES:
            raise ConfigError(
                f"{path}: groups: no family of questions {family!r}; {closest(family, QUESTION_FAMILIES)}"
            )
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
