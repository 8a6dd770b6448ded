"""What the pages and docstrings show is run: README and docs, a namespace a page, and the doctests of every module."""

from __future__ import annotations

import doctest
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tokenprune.core.kinds import Component
from tokenprune.core.registry import registry
from tokenprune.testing import check

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
PACKAGES = {
    "tokenprune": ROOT,
    "tokenprune_strategies": ROOT / "strategies",
    "tokenprune_theory": ROOT / "theory",
}

BLOCK = re.compile(
    r"^(?P<mark><!-- no-test -->\s*\n)?^```python[^\n]*\n(?P<code>.*?)^```\s*$", re.MULTILINE | re.DOTALL
)
"""A block of Python; ``<!-- no-test -->`` on the line before says that it needs what a test machine has not."""


def blocks(text: str) -> list[tuple[int, str]]:
    """Line and code of each block that is to be run."""
    found = [m for m in BLOCK.finditer(text) if not m["mark"]]
    return [(text.count("\n", 0, m.start("code")), m["code"]) for m in found]


def modules_with_examples() -> Iterator[str]:
    for package, root in PACKAGES.items():
        for path in sorted((root / package).rglob("*.py")):
            if ">>> " in path.read_text(encoding="utf-8"):
                yield ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


@pytest.fixture(autouse=True)
def own_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Names that examples register are forgotten, and files that they write lie elsewhere."""
    monkeypatch.setattr(registry, "_local", {kind: dict(names) for kind, names in registry._local.items()})
    monkeypatch.chdir(tmp_path)


def test_blocks_are_found() -> None:
    text = (
        "a\n```python\nx = 1\n```\n<!-- no-test -->\n```python\nboom\n```\n```console\nls\n```\n```python\ny = x\n```\n"
    )
    assert blocks(text) == [(2, "x = 1\n"), (12, "y = x\n")]
    assert blocks(PAGES[0].read_text(encoding="utf-8")), "README.md shows no Python"


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p.read_text(encoding="utf-8"))], ids=lambda p: p.name)
def test_page(page: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for line, code in blocks(page.read_text(encoding="utf-8")):
        # empty lines before the code make a traceback point into the page
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


@pytest.mark.parametrize("name", sorted(modules_with_examples()))
def test_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    failed, run = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert run > 0
    assert failed == 0


@pytest.mark.slow
def test_parts_that_the_pages_show_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever copies an example copies its mistakes: every class of a part is held to what its kind promises."""
    module = ModuleType("page")  # dataclasses look it up
    monkeypatch.setitem(sys.modules, "page", module)
    names: dict[str, Any] = vars(module)
    for page in ("write-a-part.md", "add-a-strategy.md"):
        for _, code in blocks((ROOT / "docs" / page).read_text(encoding="utf-8")):
            exec(compile(code, page, "exec"), names)
    parts = [v for v in names.values() if isinstance(v, type) and issubclass(v, Component) and v.__module__ == "page"]
    assert len(parts) >= 9
    for part in parts:
        assert check(part(), extra={"depth": "b n"}, largest=4).instances, part
