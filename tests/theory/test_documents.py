"""The generated documents are what the registry says now."""

from __future__ import annotations

import json
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


def test_the_page_of_bounds_says_what_was_measured():
    found = json.loads((ROOT / "experiments/optimality/results/embedded.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs/results/optimality.md").read_text(encoding="utf-8")

    def shown(share):
        return f"{100 * share['mean']:.1f} ({100 * share['lowest']:.1f})"

    budgets = ("128", "64", "32")
    for name in {label.rpartition(" @ ")[0] for label in found["certain"]}:
        cells = " | ".join(shown(found["certain"][f"{name} @ {keep}"]) for keep in budgets)
        assert f"| {cells} |" in page, name
    for judged in found["judge"].values():
        assert f"| {shown(judged['reached'])} | {shown(judged['certain'])} |" in page
        assert judged["reached"]["lowest"] >= judged["certain"]["lowest"]
    assert f"{found['seconds'] / 60:.0f} minutes" in page
