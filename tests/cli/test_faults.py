"""What can go wrong on a machine is a message with a way out, and never a traceback."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tokenprune as tp
from tokenprune.cli import main

Ran = tuple[int, str, str]
Command = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def command(*words: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["tokenprune", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return command


TINY = ("--model", "tiny", "--limit", "2", "--budgets", "64")


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOSPC, "the same command goes on"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "use another --out"),
        (errno.EACCES, "permissions"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_disks(number: int, way_out: str, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("tokenprune.results.store.append_whole", fail)
    code, _, err = run("compare", "--out", str(tmp_path / "out"), *TINY, "--strategies", "divprune")
    assert code == 2
    assert "results.jsonl" in err
    assert way_out in err
    assert "Traceback" not in err


def test_ctrl_c_says_how_far_it_came(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenprune.evaluation import runner

    real, calls = runner.Asked.answers, []

    def answers(self: Any, row: Any, most: int) -> Any:
        calls.append(row)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, row, most)

    words = ("compare", "--out", str(tmp_path / "out"), *TINY, "--strategies", "divprune")
    with monkeypatch.context() as patch:
        patch.setattr(runner.Asked, "answers", answers)
        code, _, err = run(*words)
    assert (code, err.strip().splitlines()[-1]) == (130, "stopped at 6 of 14 answers; the same command goes on")
    code, out, err = run(*words)
    assert code == 0, err
    assert "divprune" in out


def test_what_nobody_foresaw_is_two_lines_and_a_file(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise ZeroDivisionError("what a day")

    monkeypatch.setattr("tokenprune.core.registry.Registry.entries", fail)
    code, _, err = run("list")
    first, second = err.splitlines()
    assert code == 1
    assert first == "Error: ZeroDivisionError: what a day"
    assert "Traceback" in Path(second.rpartition(" is in ")[2]).read_text()


def test_codes_that_a_terminal_obeys_are_shown(run: Command) -> None:
    code, _, err = run("show", "nothing\x1b[2J.png", "what?")
    assert code == 2
    assert "\x1b" not in err
    assert "\\x1b[2J" in err


@pytest.mark.parametrize(("target", "code"), [("/dev/full", 2), ("closed pipe", 1)])
def test_output_that_nobody_takes(target: str, code: int) -> None:
    words = f"{sys.executable} -m tokenprune list --json"
    ending = "> /dev/full" if target == "/dev/full" else "| (exec 0<&-; sleep 5)"
    done = subprocess.run(
        ["bash", "-c", f"{words} {ending}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_files_that_are_no_text(run: Command, tmp_path: Path) -> None:
    (tmp_path / "mix.yaml").write_bytes(b"- mi-pruner\n- \xff\xfe\n")
    code, _, err = run("compare", "--out", str(tmp_path / "out"), *TINY, "--strategies", str(tmp_path / "mix.yaml"))
    assert code == 2
    assert "mix.yaml: cannot be read" in err
    assert not (tmp_path / "out").exists()


def test_torn_json_is_named(run: Command, tmp_path: Path) -> None:
    words = ("compare", "--out", str(tmp_path / "out"), *TINY, "--strategies", "divprune")
    assert run(*words)[0] == 0
    config = tmp_path / "out" / "config.json"
    config.write_text(config.read_text()[:100])
    code, _, err = run(*words)
    assert code == 2
    assert "config.json' is damaged" in err
    code, out, _ = run("verify", str(tmp_path / "out"))
    assert code == 1
    assert "differs" in out
    assert run("verify", str(tmp_path / "nowhere"))[0] == 2


# --- from an idea to a row ----------------------------------------------------------------------------------------

IDEA = """
import torch, tokenprune as tp
from beside import factor

@tp.register("scorers", "loud-idea")
class Loud(tp.Scorer):
    def score(self, features):
        if {broken}:
            raise RuntimeError("bad day")
        return factor * features.visual.norm(dim=-1)

@tp.register("strategies", "my-idea")
def my_idea():
    return tp.build({{"scorer": "loud-idea", "selector": "top-k"}})
"""


@pytest.fixture
def idea(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from tokenprune.core.registry import registry

    for kind in ("scorers", "strategies"):
        monkeypatch.setitem(registry._local, kind, {})
    (tmp_path / "beside.py").write_text("factor = 2\n")
    file = tmp_path / "my_idea.py"
    file.write_text(IDEA.format(broken=False))
    before = set(sys.modules)
    yield file
    for name in set(sys.modules) - before:
        if name == "beside" or name.startswith("my_idea_"):
            del sys.modules[name]


def test_a_file_of_ones_own_becomes_a_row(run: Command, idea: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("compare", "--out", str(out), *TINY, "--load", str(idea), "--strategies", "my-idea,divprune")
    code, shown, err = run(*words)
    assert code == 0, err
    assert "my-idea" in shown
    described = json.loads((out / "strategies.json").read_text())
    assert str(idea) in described["my-idea"]["providers"]
    code, shown, err = run("verify", str(out))
    assert (code, "holds" in shown) == (0, True)


def test_a_file_that_breaks_is_told_in_a_line(run: Command, idea: Path, tmp_path: Path) -> None:
    idea.write_text("import tokenprune\n\nnothing_of_this_name\n")
    code, _, err = run("compare", "--out", str(tmp_path / "out"), *TINY, "--load", str(idea))
    assert code == 2
    assert err.strip().splitlines() == [
        f"Error: --load {str(idea)!r}, line 3: NameError: name 'nothing_of_this_name' is not defined"
    ]
    code, _, err = run("compare", "--out", str(tmp_path / "out"), *TINY, "--load", str(tmp_path / "no.py"))
    assert (code, "no such file" in err) == (2, True)


def test_an_idea_that_breaks_costs_its_own_row(run: Command, idea: Path, tmp_path: Path) -> None:
    idea.write_text(IDEA.format(broken=True))
    words = ("compare", "--out", str(tmp_path / "out"), *TINY, "--load", str(idea), "--strategies", "my-idea,divprune")
    code, shown, err = run(*words)
    assert code == 1
    assert "divprune" in shown
    assert "my-idea at 64: failed (RuntimeError: bad day)" in shown
    first, second = err.strip().splitlines()[-2:]
    assert first == "my-idea at 64 FAILED: RuntimeError: bad day"
    assert "my_idea.py" in second
    assert "failures.txt" in second
    assert "bad day" in (tmp_path / "out" / "failures.txt").read_text()
    assert "my-idea at 64: failed" in (tmp_path / "out" / "report.html").read_text()
    code, _, err = run("doctor", "--model", "tiny:llava", "--strategy", "my-idea", "--strategy", "divprune")
    assert code == 1
    assert "my-idea FAILED: RuntimeError: bad day (provided by " in err


def test_mixes_are_rows(run: Command, tmp_path: Path) -> None:
    mix = tmp_path / "mix.yaml"
    mix.write_text(
        "=norm:\n  scorer: {name: pmi, aggregator: mean}\n  selector: top-k\nplain: {strategy: mi-pruner, lam: 1}\n"
    )
    code, shown, err = run("compare", "--out", str(tmp_path / "out"), *TINY, "--strategies", f"divprune,{mix}")
    assert code == 0, err
    assert all(name in shown for name in ("divprune", "=norm", "plain"))
    mix.write_text("- mi-pruner\n- {label: mine, strategy: {scorer: pmi, selector: top-k}}\n")
    code, shown, err = run("compare", "--out", str(tmp_path / "out"), *TINY, "--strategies", str(mix))
    assert code == 0, err
    assert "mine" in shown
    assert "=norm" in shown, "what was answered stays"


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n" for before, name in itertools.pairwise("abcdefgh")
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a list of names"),
        ("5", "a list of names"),
        ("- {label: x}", "got the row"),
        ("x: [1]", "a name or a mapping"),
        ("a: mi-pruner\na: divprune", "'a' twice"),
        ("- !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("&a [*a, *a]", "cannot be read|more than|values"),
        (BOMB, "more than 100000 values"),
        ("[" * 3000 + "]" * 3000, "nested too deeply"),
        ("full: mi-pruner", "are always there"),
    ],
)
def test_mixes_that_are_none(text: str, reason: str, run: Command, tmp_path: Path) -> None:
    import re

    mix = tmp_path / "mix.yaml"
    mix.write_text(text)
    code, _, err = run("compare", "--out", str(tmp_path / "out"), *TINY, "--strategies", str(mix))
    assert code == 2, err
    assert re.search(reason, err), err
    assert not (tmp_path / "out").exists()


def test_imports_that_hang_or_end_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenprune.core.registry import Entry
    from tokenprune.diagnostics.imports import checked

    info = tmp_path / "slow_plugin-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-plugin\nVersion: 0.1\n")
    bodies = {
        "hangs": "import time\nprint('x' * 9)\ntime.sleep(99)",
        "ends": "import os\nos._exit(3)",
        "exits": "import sys\nsys.exit(3)",
        "fine": "class Mine: pass",
    }
    for name, body in bodies.items():
        (tmp_path / f"slow_{name}.py").write_text(body)
    points = "".join(f"slow-{name} = slow_{name}:Mine\n" for name in bodies)
    (info / "entry_points.txt").write_text(f"[tokenprune.scorers]\n{points}")
    monkeypatch.syspath_prepend(str(tmp_path))
    entries = [Entry(f"slow-{name}", "scorers", "slow-plugin 0.1", f"slow_{name}:Mine") for name in bodies]
    found = [*checked(entries, seconds=5.0).values()]
    assert [one.ok for one in found] == [False, False, False, True]
    assert found[0].said == "slow-plugin 0.1 (slow_hangs:Mine): its import took longer than 5 s"
    assert found[1].said == "slow-plugin 0.1 (slow_ends:Mine): its import ended the process"
    assert "SystemExit: 3" in found[2].said
    assert found[3].said == "imported"


def test_what_is_installed_and_wrong_is_said_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenprune.core.registry import registry
    from tokenprune.testing.registered import fault, tried

    class OverPadding(tp.Scorer):
        """A mean over padding."""

        requires = frozenset({"visual"})

        def score(self, features: tp.Features) -> torch.Tensor:
            return (features.visual - features.visual.mean(1, keepdim=True)).norm(dim=-1)

    for kind in ("scorers", "strategies"):
        monkeypatch.setitem(registry._local, kind, {})
    tp.register("scorers", "over-padding")(OverPadding)
    tp.register("strategies", "over-padding")(lambda: tp.Strategy(OverPadding(), name="over-padding"))
    for kind in ("scorers", "strategies"):
        ok, said = tried(kind, "over-padding")
        assert not ok
        assert "depend on padding" in said
        assert "tokenprune check over-padding shows where" in said
    assert "depend on padding" in str(fault("over-padding"))
    assert fault("similarity") is None
    assert tried("selectors", "two-stage") == (True, "imported; needs options")
    assert tried("adapters", "llava") == (True, "imported")
