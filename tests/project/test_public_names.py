"""The names of ``import tokenprune``: each is there, and what needs torch comes when it is read."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tokenprune as tp


def test_every_name_is_there_and_listed() -> None:
    for name in tp.__all__:
        assert getattr(tp, name) is not None
    assert set(tp.__all__) <= set(dir(tp))
    assert {name for names in tp._HOMES.values() for name in names.split()} <= set(tp.__all__)
    scope: dict[str, object] = {}
    exec("from tokenprune import *", scope)
    assert set(tp.__all__) <= scope.keys()


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="'atach'"):
        _ = tp.atach


def test_a_command_that_computes_nothing_waits_for_no_library() -> None:
    """Help, versions and what a shell completes: none of them has to load torch."""
    code = (
        "import sys; from tokenprune.cli import app; from typer.testing import CliRunner;"
        "said = CliRunner().invoke(app, ['compare', '--help']); assert said.exit_code == 0, said.output;"
        "loaded = {'torch', 'transformers', 'numpy', 'scipy', 'PIL', 'matplotlib'} & sys.modules.keys();"
        "assert not loaded, loaded"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
