"""What the outside reads says one thing: metadata, citation, workflows, licences, and where the project lives."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import tokenprune

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def pythons() -> set[str]:
    return {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)}


def test_every_python_that_is_promised_is_tested() -> None:
    matrix = read(ROOT / ".github/workflows/tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert set(matrix["python"]) == pythons()
    assert f">={min(pythons(), key=lambda v: int(v.partition('.')[2]))}" == PROJECT["requires-python"]


def test_the_oldest_versions_that_are_promised_are_tested() -> None:
    steps = read(ROOT / ".github/workflows/tests.yml")["jobs"]["tests"]["steps"]
    [oldest] = [step["run"] for step in steps if "oldest" in step.get("if", "")]
    for name in ("torch", "transformers"):
        [declared] = [d for d in PROJECT["dependencies"] if re.match(rf"{name}>=", d)]
        assert f"'{name}==" + re.search(r">=([\d.]+)", declared)[1] + ".*'" in oldest  # type: ignore[index]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_read_only_unless_they_publish(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert name in ("publish", "deploy") or "permissions" not in job
        assert all("uses" in step or "run" in step for step in job["steps"])


@pytest.mark.parametrize("path", [p for p in FORMS if p.stem != "config"], ids=lambda path: path.stem)
def test_forms_ask_something(path: Path) -> None:
    form = read(path)
    assert form.keys() >= {"name", "description", "body"}
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_one_version_one_licence_one_home() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert citation["version"] == tokenprune.__version__
    assert " AND ".join(citation["license"]) == PROJECT["license"]
    home = PROJECT["urls"]["Homepage"]
    assert citation["repository-code"] == home
    assert f"\nrepo_url: {home}\n" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert read(ROOT / ".github/ISSUE_TEMPLATE/config.yml")["contact_links"][0]["url"].startswith(home)
    assert all(url.startswith((home, "https://tokenprune.github.io/")) for url in PROJECT["urls"].values())


def test_licence_files_hold_every_licence() -> None:
    texts = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in PROJECT["license-files"])
    for words in ("Apache License", "SIL OPEN FONT LICENSE Version 1.1", "Bitstream Vera is a trademark"):
        assert words in texts


def test_every_page_is_in_the_navigation() -> None:
    # tags of mkdocs' own are not needed for what is asked here
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": ([\w/-]+\.md)$", text, re.MULTILINE))
    assert listed == {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")}
