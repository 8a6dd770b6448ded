"""The notebook is the tutorial's page, cell by cell; continuous integration runs it (``make notebook``)."""

from __future__ import annotations

import json

from experiments.tutorial.notebook import NOTEBOOK, PAGE, notebook, written
from tests.project.test_docs_examples import blocks


def test_the_notebook_is_current() -> None:
    assert NOTEBOOK.read_text(encoding="utf-8") == written(PAGE.read_text(encoding="utf-8"))


def test_every_block_that_runs_is_a_cell() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [block.strip("\n") for _, block in blocks(PAGE.read_text(encoding="utf-8"))]
    assert len({cell["id"] for cell in cells}) == len(cells)


def test_links_lead_to_the_site() -> None:
    [cell] = notebook("see [parts](parts.md) and [this](a/b.md#here), or [that](https://x.org)")["cells"]
    site = "https://tokenprune.github.io/tokenprune/"
    assert cell["source"] == [f"see [parts]({site}parts/) and [this]({site}a/b/#here), or [that](https://x.org)"]
