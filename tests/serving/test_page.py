"""The page on serving: its command is started, its client run against it, its load script on a few questions."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments.serving import load, vllm_processor
from tokenprune.cli import app
from tokenprune.core.errors import UnsupportedError
from tokenprune.zoo.tiny import tiny_processor

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def command() -> list[str]:
    """Options of the command that the page shows, less the port."""
    found = re.search(r"^tokenprune serve (.*) --port 8000$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return shlex.split(found[1])


@pytest.mark.slow
def test_the_client_of_the_page_gets_its_answers_from_the_command_of_the_page() -> None:
    code = re.search(r"```python\n(import base64.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    with load.server(*command()) as address, contextlib.redirect_stdout(io.StringIO()) as printed:
        shown = code[1].replace("http://127.0.0.1:8000/v1", address)
        assert shown != code[1]
        exec(compile(shown, str(PAGE), "exec"), {})
    model, processor = load.load_model("embedded")
    job = (load.scene(0, 27).image, "How many dogs are there in the image?")
    wanted = [load.attached(model, processor, job, name, 64) for name in ("mi-pruner:lam=0.7", "mi-pruner")]
    assert printed.getvalue().splitlines() == [wanted[0], "576", wanted[1]]


@pytest.mark.slow
def test_the_load_script_finds_every_answer_to_be_that_of_attach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "load.json"
    load.main(["--requests", "3", "--clients", "3", "--keeps", "16", "--out", str(out)])
    assert "| 3 | 16 |" in capsys.readouterr().out
    (row,) = load.json.loads(out.read_text())["rows"]
    assert (row["requests"], row["other_answers"]) == (3, 0)
    assert 0 < row["first_piece_p50"] <= row["p50"] <= row["p99"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--keep", "many"], "--keep must be a count"),
        (["--keep", "0"], "keep must be a count of at least 1"),
        (["--strategy", "mi-prunner"], "did you mean 'mi-pruner'"),
        (["--backend", "graph"], "did you mean 'graphs'"),
    ],
)
def test_bad_options_end_before_anything_is_served(options: list[str], words: str) -> None:
    ended = CliRunner().invoke(app, ["serve", "--model", "tiny:llava", "--port", "0", *options])
    assert ended.exit_code != 0
    assert words in str(ended.exception)


@pytest.mark.parametrize("missing", ["uvicorn", "fastapi", "prometheus_client"])
def test_without_the_extra_it_says_what_to_install(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "tokenprune.serving.app", raising=False)
    ended = CliRunner().invoke(app, ["serve", "--model", "tiny:llava"])
    assert isinstance(ended.exception, UnsupportedError)
    assert f"({missing})" in str(ended.exception)
    assert "pip install 'tokenprune-vlm[serve]'" in str(ended.exception)


def test_what_the_page_says_of_vllm_is_what_its_processor_was_seen_to_do() -> None:
    written = json.loads((PAGE.parents[1] / "experiments/serving/results/vllm_processor.json").read_text())
    checks = {row["check"]: row for row in written["checks"]}
    text = PAGE.read_text(encoding="utf-8")
    assert all(row["holds"] for row in checks.values())
    assert f"All {len(checks)} checks hold with {written['machine']['vllm'].replace('vllm', 'vLLM')}" in text
    for strategy in ("mi-pruner", "divprune"):
        for what, line in (
            ("placeholders", "placeholders for keep 1, 32, 64, 576"),
            ("prompt tokens", "prompt tokens"),
        ):
            numbers = ", ".join(str(checks[f"{strategy} {keep}: {what}"]["got"]) for keep in (1, 32, 64, 576))
            assert f"| {line} | {numbers} | {numbers} |" in text


def test_the_script_for_vllm_says_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(vllm_processor, "version", nothing)
    with pytest.raises(SystemExit, match="vLLM is not installed"):
        vllm_processor.main([])


def test_a_check_that_does_not_hold_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    checks = vllm_processor.Checks()
    checks.hold("placeholders", 64, 64)
    checks.hold("placeholders", 63, 64)
    assert [row["holds"] for row in checks.rows] == [True, False]
    assert "| placeholders | 63 | 64 | **no** |" in capsys.readouterr().out


def test_the_prompt_for_vllm_has_a_placeholder_a_picture() -> None:
    processor = tiny_processor(side=6)
    for pictures in (1, 2):
        written = vllm_processor.prompt_of(processor, "what color is the dog ?", pictures)
        assert written.count(processor.image_token) == pictures
        assert "what color is the dog ?" in written
