"""The tutorial as a notebook: ``docs/tutorial.ipynb`` is made from ``docs/tutorial.md``, and can be run.

``python -m experiments.tutorial.notebook`` writes it; with ``--run`` it is executed, from top to bottom in a kernel of
its own, and any error ends with one (needs the extra ``notebook``).
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
PAGE, NOTEBOOK = DOCS / "tutorial.md", DOCS / "tutorial.ipynb"
SITE = "https://tokenprune.github.io/tokenprune/"

_BLOCK = re.compile(r"^(<!-- no-test -->\s*\n)?```python\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)


def notebook(text: str) -> dict[str, Any]:
    """The page's text and code as cells; code that needs what a first machine has not stays text."""
    cells: list[dict[str, Any]] = []

    def add(kind: str, source: str) -> None:
        if not source.strip():
            return
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        cells.append(cell | {"source": source.strip("\n").splitlines(keepends=True)})

    at = 0
    for found in _BLOCK.finditer(text):
        if found[1] is None:
            add("markdown", _linked(text[at : found.start()]))
            add("code", found[2])
            at = found.end()
    add("markdown", _linked(text[at:]))
    about = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}


def _linked(text: str) -> str:
    """Links to other pages lead to the site: a notebook is taken elsewhere."""
    text = text.replace("<!-- no-test -->\n", "")
    text = re.sub(r"The same as a notebook: \[.*?\]\(.*?\)\.\n", "", text)
    return re.sub(r"\]\(([\w/-]+)\.md(#[\w-]+)?\)", lambda link: f"]({SITE}{link[1]}/{link[2] or ''})", text)


def written(text: str) -> str:
    """The file."""
    return json.dumps(notebook(text), indent=1, ensure_ascii=False) + "\n"


def run(path: Path) -> int:
    """Execute a notebook in an empty folder; returns how many cells of code it has."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(book, timeout=900, resources={"metadata": {"path": folder}}).execute()
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    for cell in code:
        print("".join(out.get("text", "") for out in cell.outputs), end="")
    return len(code)


def main() -> None:
    """Write the notebook, or run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", action="store_true")
    given = parser.parse_args()
    if given.run:
        print(f"{run(NOTEBOOK)} cells ran")
    else:
        NOTEBOOK.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
