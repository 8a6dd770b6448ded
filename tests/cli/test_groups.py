"""Options written once and offered by several commands."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from tokenprune.cli import app
from tokenprune.cli.data import DataOptions
from tokenprune.cli.groups import Without, grouped


@dataclass(frozen=True)
class Fruit:
    colour: Annotated[str, typer.Option("--shade", help="Of the peel.")] = "red"
    seeds: Annotated[list[int] | None, typer.Option(help="Of each half.")] = None
    ripe: Annotated[bool, typer.Option("--ripe")] = False


seen: list[object] = []


@pytest.fixture(autouse=True)
def forget() -> None:
    seen.clear()


@grouped
def eat(
    name: Annotated[str, typer.Argument()],
    bites: Annotated[int, typer.Option(min=1)] = 2,
    *,
    fruit: Fruit,
    last: Annotated[str, typer.Option()] = "core",
) -> None:
    seen.append((name, bites, fruit, last))


@grouped
def peel(*, ripe: Annotated[str, typer.Option()] = "very", fruit: Annotated[Fruit, Without("ripe", "seeds")]) -> None:
    seen.append((ripe, fruit))


def _run(command: object, *words: str) -> int:
    program = typer.Typer()
    program.command()(command)  # type: ignore[type-var]
    return CliRunner().invoke(program, list(words)).exit_code


def test_a_group_is_options_in_its_place_and_arrives_as_one_object() -> None:
    assert list(inspect.signature(eat).parameters) == ["name", "bites", "colour", "seeds", "ripe", "last"]
    assert _run(eat, "apple") == 0
    assert _run(eat, "pear", "--shade", "green", "--seeds", "3", "--seeds", "4", "--ripe", "--last", "stem") == 0
    assert seen == [("apple", 2, Fruit(), "core"), ("pear", 2, Fruit("green", [3, 4], True), "stem")]
    assert _run(eat, "apple", "--colour", "green") == 2, "an option has the name that its field gives it"


def test_what_is_left_out_is_no_option_and_its_name_is_free() -> None:
    assert _run(peel, "--shade", "blue", "--ripe", "hardly") == 0
    assert seen == [("hardly", Fruit("blue"))]
    assert _run(peel, "--seeds", "3") == 2


def test_a_signature_that_cannot_be_offered_is_refused_where_it_is_written() -> None:
    def twice(*, ripe: bool = False, fruit: Fruit) -> None:
        raise AssertionError

    def unknown(*, fruit: Annotated[Fruit, Without("stone")]) -> None:
        raise AssertionError

    with pytest.raises(TypeError, match="twice: duplicate parameter name: 'ripe'"):
        grouped(twice)
    with pytest.raises(TypeError, match="unknown: Fruit has no 'stone' to leave out"):
        grouped(unknown)


@pytest.mark.parametrize(
    ("command", "without"),
    [
        ("compare", set()),
        ("ablate", set()),
        ("tune", {"frames"}),
        ("show", {"skip_unreadable", "frames"}),  # it has a longest answer of its own
        ("bench", {"metric", "skip_unreadable", "max_new_tokens"}),
    ],
)
def test_commands_that_ask_questions_offer_the_options_about_data(command: str, without: set[str]) -> None:
    offered = {parameter.name for parameter in typer.main.get_command(app).commands[command].params}  # type: ignore[attr-defined]
    fields = set(DataOptions.__dataclass_fields__)
    assert offered & fields == fields - without
