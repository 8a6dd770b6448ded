"""The generated documents are what the registry says now."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenprune_theory.document import PATHS, _plain, render
from tokenprune_theory.registry import all_claims

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rendered():
    return render()


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_documents_are_current(rendered, path):
    assert (ROOT / path).read_text(encoding="utf-8") == rendered[path].rstrip() + "\n", (
        f"{path} is stale: run python -m tokenprune_theory.document"
    )


@pytest.mark.parametrize("path", PATHS)
def test_documents_name_every_claim(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    missing = [id for id in all_claims() if f"`{id}`" not in text and f"### {id}\n" not in text]
    assert missing == []


def test_markdown_shows_text_unchanged():
    assert _plain("p(t_j|v) * 2") == "p(t\\_j\\|v) \\* 2"
    assert _plain("`a_b | c` and d_e") == "`a_b \\| c` and d\\_e"
