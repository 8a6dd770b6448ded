"""The generated page says what the strategies are now, and every strategy says what the page needs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import tokenprune as tp
from tokenprune_strategies.document import (
    PATH,
    REFERENCES,
    Docstring,
    Method,
    markdown,
    methods,
    render,
    render_references,
)

METHODS = {method.name: method for method in methods()}
IMAGES = {"fastervlm", "scope", "hiprune", "trim", "prumerge", "prumerge-plus", "pyramiddrop", "flowcut"}
VIDEO = {"dycoke", "evs", "fastvid", "holitom", "prunevid", "vidcom2"}
PUBLISHED = sorted(METHODS.keys() - {"random", "similarity", "attention", "mi-pruner", "mi-attention"})
each = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@pytest.mark.parametrize(("path", "made"), [(PATH, render), (REFERENCES, render_references)])
def test_the_pages_are_current(path: str, made: Callable[[], str]) -> None:
    text = (Path(__file__).parents[2] / path).read_text(encoding="utf-8")
    assert text == made().rstrip() + "\n", f"{path} is stale: run python -m tokenprune_strategies.document"


def test_every_strategy_of_ours_is_on_it() -> None:
    assert len(METHODS) == 17 + len(VIDEO) + len(IMAGES)
    assert METHODS.keys() <= set(tp.list_strategies())
    text = render()
    for name in METHODS:
        assert text.count(f"\n### {name}\n") == 1
        assert f"| [{name}](#{name}) |" in text


@each
def test_docstrings_say_what_options_there_are(method: Method) -> None:
    named = [name for names, _, _ in method.doc.parameters for name in names.split(", ")]
    assert named == list(inspect.signature(method.build).parameters)
    assert all(kind and meaning for _, kind, meaning in method.doc.parameters)
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(method.build).parameters.items()
        if isinstance(parameter.default, int | str)
    }
    for names, kind, _ in method.doc.parameters:
        for name in names.split(", "):
            if name in defaults:
                assert str(defaults[name]) in kind


@each
def test_docstrings_say_what_it_costs(method: Method) -> None:
    assert re.fullmatch(r"O\(.+\)( \+ O\(.+\))*", method.cost)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_methods_are_cited_and_told_apart_from_their_papers(name: str) -> None:
    method = METHODS[name]
    assert re.search(r"arXiv \d{4}\.\d{5}", method.doc.paragraphs[0])
    assert len(method.doc.sections["Differences"]) > 8
    assert len(PUBLISHED) == 12 + len(VIDEO) + len(IMAGES)


def test_what_the_parts_tell() -> None:
    places = {name: METHODS[name].place for name in ("fastv", "sparsevlm", "apet", "autoprune", "visionzip", "holov")}
    assert places == {
        "fastv": "after layer 1",
        "sparsevlm": "after layer 2, 6, 15",
        "apet": "encoder output; after layer 15",
        "autoprune": "after every layer",
        "visionzip": "encoder output",
        "holov": "projection space",
    }
    blind = {
        *(IMAGES - {"trim", "pyramiddrop"}),
        "evs",
        "fastvid",
        "holitom",
        "vidcom2",
        "apet",
        "attention",
        "divprune",
        "holov",
        "random",
        "visionzip",
        "vispruner",
    }
    assert {name for name, method in METHODS.items() if method.spoken_to == "no"} == blind
    assert {name for name, method in METHODS.items() if method.spoken_to == "by its last token"} == {
        "fastv",
        "pyramiddrop",
    }
    assert {name for name, method in METHODS.items() if method.strategy.merges} == {
        "apet", "autoprune", "sparsevlm", "visionzip", "fastvid", "holitom", "prunevid",
        "trim", "prumerge", "prumerge-plus", "flowcut"
    }  # fmt: skip
    assert METHODS["sparsevlm"].signals == {"attention", "text", "visual"}
    assert {name for name, method in METHODS.items() if "frames" in method.signals} == VIDEO
    assert METHODS["flowcut"].place == "between encoder layers; projection space"
    assert METHODS["trim"].place == "encoder output"
    assert METHODS["dycoke"].place == "projection space; while decoding from layer 3 on"
    assert METHODS["dycoke"].spoken_to == "while decoding"
    assert METHODS["prunevid"].place == "projection space; after layer 10"
    assert METHODS["prunevid"].meaning(64) == "follows from the data"
    assert METHODS["evs"].meaning(64) == "≈ 64 / ≈ 64"
    assert METHODS["vidcom2"].meaning(64) == "64 / 64"
    assert METHODS["prunevid"].matched(64) == "no budget"
    assert METHODS["dart"].meaning(192) == "196 / 219.75"
    assert METHODS["fastv"].matched(128) == "98"
    assert METHODS["fastv"].matched(32) == "none below 36.94"


def test_docstrings_are_taken_apart() -> None:
    doc = Docstring.of(
        'First,\nand on.\n\nSecond.\n\nStage\n    Here\n    and there.\n"64"\n    Sixty.\n\n'
        "Parameters\n----------\na, b : int, defaults 1, 2\nc : str\n    What\n    it is.\n"
    )
    assert doc.paragraphs == ("First, and on.", "Second.")
    assert doc.sections == {"Stage": "Here and there.", '"64"': "Sixty."}
    assert doc.parameters == (("a, b", "int, defaults 1, 2", ""), ("c", "str", "What it is."))


def test_markdown_shows_text_as_it_is_meant() -> None:
    assert markdown("max_j K * N [CLS], *least*") == "max\\_j K \\* N \\[CLS\\], *least*"
    assert markdown("``a|b_c`` and :class:`~x.y.Zed`") == "`a\\|b_c` and `Zed`"
    assert markdown("(X, arXiv 2410.04417)") == "(X, [arXiv 2410.04417](https://arxiv.org/abs/2410.04417))"
