"""The site: generated pages are current, every page is reached, every link and picture leads somewhere."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from tokenprune.core.description import described
from tokenprune.core.registry import all_entries
from tokenprune.report import formats
from tokenprune.report.catalogue import PATH, catalogue
from tokenprune.results.schema import schema

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("**/*.md"))


def anchors(text: str) -> set[str]:
    """As mkdocs makes them of headings."""
    found = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", heading)).strip().lower() for heading in found)
    return {re.sub(r"[\s-]+", "-", heading) for heading in plain}


def test_the_catalogue_is_current() -> None:
    text = (ROOT / PATH).read_text(encoding="utf-8")
    assert text == catalogue(), f"{PATH} is stale: run python -m tokenprune.report.catalogue"


def test_the_page_of_files_is_current() -> None:
    text = (ROOT / formats.PATH).read_text(encoding="utf-8")
    assert text == formats.formats(), f"{formats.PATH} is stale: run python -m tokenprune.report.formats"
    for name in ("results", "summary", "strategies", "config"):
        document = schema(name)
        fields = document.get("additionalProperties", document)
        assert all(f"`{field}`" in text for field in fields["required"])


OURS = [entry for entry in all_entries() if entry.target.startswith("tokenprune")]


@pytest.mark.parametrize("entry", OURS, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_everything_that_ships_is_described(entry: object) -> None:
    told = described(entry)  # type: ignore[arg-type]
    assert told.about
    assert told.entry.kind == "adapters" or all(option.meaning for option in told.options), told.options


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in PAGES}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), target


def test_peers_are_told_how_many_methods_there_are() -> None:
    ours = [entry for entry in OURS if entry.kind == "strategies"]
    assert f"| methods | {len(ours)} |" in (ROOT / "docs" / "peers.md").read_text(encoding="utf-8")


def test_addresses_outside_are_found_for_the_nightly_check() -> None:
    links = runpy.run_path(str(ROOT / ".ci" / "links.py"))
    text = "[a](https://x.org/b) <https://y.org> [c](d.md)\n```\n[e](https://no.org)\n```\n[f](https://github.com/tokenprune/g)"
    assert links["addresses"](text) == {"https://x.org/b", "https://y.org"}
    assert len(set().union(*(links["addresses"](page.read_text(encoding="utf-8")) for page in PAGES))) > 20
    assert "python .ci/links.py" in (ROOT / ".github" / "workflows" / "nightly.yml").read_text(encoding="utf-8")
    assert links["fault"]("https://[broken", 1)
