"""The commands of the pages about data, judges and tables: each is one that exists, and they run, on small things."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tests.support.judge_server import Server
from tests.support.own_data import Write
from tokenprune.cli import app, main

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("own-data.md", "judge.md", "paper-tables.md")


def commands(page: str) -> list[list[str]]:
    """Words of each ``tokenprune`` line in a page's console blocks."""
    text = (DOCS / page).read_text(encoding="utf-8")
    shown = re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "\n".join(shown).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("tokenprune ")]


@pytest.mark.parametrize("words", [pytest.param(w, id=" ".join(w)) for page in PAGES for w in commands(page)])
def test_commands_and_their_options_exist(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))


def run(words: list[str]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tokenprune", *words])
        try:
            main()
        except SystemExit as stopped:
            return int(stopped.code or 0)
    return 0


@pytest.mark.slow
def test_they_run(table: Write, tmp_path: Path, monkeypatch: Any, judge_server: Server) -> None:
    """With a model of a few thousand weights, three pictures and a judge on the loopback, in the order of the pages."""
    row = {"image": "a.png", "question": "what is it ?", "answer": "yes"}
    table([row])
    (tmp_path / "my").mkdir()
    (tmp_path / "data" / "mmvet").mkdir(parents=True)
    for folder, name in (("my", "questions.jsonl"), ("data/mmvet", "metadata.jsonl")):
        (tmp_path / folder / "a.png").write_bytes((tmp_path / "a.png").read_bytes())
        (tmp_path / folder / name).write_text(json.dumps(row | {"capability": "rec"}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TOKENPRUNE_JUDGE_KEY", "k")
    few = {
        "compare": ["--strategies", "similarity", "--budgets", "4", "--max-new-tokens", "2"],
        "bench": ["--strategies", "similarity", "--ways", "plain", "--batches", "1", "--repeats", "1", "--warm", "0"],
        "table": ["--strategies", "mi-pruner", "--limit", "3"],
        "scenes": ["--n", "5"],
    }
    for page in PAGES:
        for words in commands(page):
            given = [re.sub(r"^https?://\S+/v1$", judge_server.url, w) for w in words]
            given = ["tiny:llava" if w == "llava-hf/llava-1.5-7b-hf" else w for w in given]
            given = ["cpu" if w == "cuda" else "float32" if w == "float16" else w for w in given]
            if words[0] == "table" and "--dry-run" not in words:
                given[given.index("--out") + 1] += f"-{len(given)}"  # models do not share a folder
            if words[:2] == ["compare", "--data"]:
                given += ["--model", "tiny:llava"]
            assert run([*given, *few.get(words[0], [])]) == 0, " ".join(given)
