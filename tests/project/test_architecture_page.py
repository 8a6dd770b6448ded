"""The page on the architecture says what the code is: its diagram is drawn from the imports, its way was walked."""

from __future__ import annotations

import re

import pytest

from experiments.architecture.page import MADE, PAGE, diagram, entered, reduced, room_of, way
from experiments.marked import between


def stated(mark: str) -> str:
    found = between(mark).search(PAGE.read_text(encoding="utf-8"))
    assert found is not None, f"{PAGE} has no marks for {mark!r}"
    return found[0]


def test_the_diagram_is_that_of_the_imports() -> None:
    assert diagram() in stated("rooms"), "run python -m experiments.architecture.page"


def test_the_way_is_about_as_long_as_it_is_said_to_be() -> None:
    """A file more or less is no news; the page is made again when it is many."""
    said = re.search(r"\*\*together\*\* \| (\d+) \|", stated("way"))
    assert said is not None
    files = way()
    assert abs(len(files) - int(said[1])) <= 4, "run python -m experiments.architecture.page"
    spine = [path for path in files if re.search(r"hf/(attach|hooks|batch|collect|decision|splice)\.py$", path)]
    names = [path.rpartition("/")[2] for path in spine]
    assert names == ["attach.py", "hooks.py", "batch.py", "collect.py", "decision.py", "splice.py"]


def test_the_framework_is_drawn_above_nothing_that_builds_on_it() -> None:
    assert not re.search(r"--> (cli|tokenprune_strategies|tokenprune_theory)\b", diagram())


def test_only_arrows_that_others_do_not_imply_are_drawn() -> None:
    edges = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert reduced(edges) == [("a", "b"), ("b", "c"), ("c", "d")]


@pytest.mark.parametrize(
    ("module", "room"),
    [
        ("tokenprune.hf.adapters.llava", "hf"),
        ("tokenprune.core", "core"),
        ("tokenprune", None),
        ("tokenprune.models.llava", None),
        ("tokenprune_strategies.divprune", "tokenprune_strategies"),
    ],
)
def test_rooms(module: str, room: str | None) -> None:
    assert room_of(module) == room


def test_watching_ends_with_what_is_watched() -> None:
    import sys

    with pytest.raises(ZeroDivisionError):
        entered(lambda: 1 / 0)
    assert sys.getprofile() is None
    assert set(MADE) == {"rooms", "way"}
