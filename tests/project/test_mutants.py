"""The list of planted mistakes fits today's code: each can still be planted, and names tests that are there."""

from __future__ import annotations

import shlex

import pytest

from tests.mutants.__main__ import listed, planted
from tests.mutants.copies import ROOT


@pytest.mark.parametrize("entry", listed(), ids=lambda entry: entry["mistake"])
def test_a_mistake_can_be_planted(entry: dict[str, str]) -> None:
    mutant = planted(entry)
    compile(mutant.text, mutant.file, "exec")
    assert mutant.text != (ROOT / mutant.file).read_text(encoding="utf-8")
    files = [word for word in shlex.split(mutant.tests) if word.startswith("tests/")]
    assert files
    assert all((ROOT / word.partition("::")[0]).exists() for word in files)
