"""Run tests on a copy of the packages in which one file is another: nothing in the working tree is touched."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("tokenprune", "strategies", "theory", "tests")


@dataclass(frozen=True)
class Mutant:
    """A file with a mistake in it, and the tests that ought to fail for it.

    Attributes
    ----------
    name : str
        What the mistake is.
    file : str
        Path below the root.
    text : str
        The file with the mistake.
    tests : str
        Arguments of pytest.
    """

    name: str
    file: str
    text: str
    tests: str


def survivors(mutants: Iterable[Mutant], processes: int) -> Iterator[tuple[Mutant, bool]]:
    """Try each: the mutant, and whether its tests pass in spite of it."""
    asked = list(mutants)
    # a forked process has torch and transformers already, which take longer to import than most tests take to run
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, and transformers may import it
    import torch

    torch.set_num_threads(1)
    for name in _libraries():
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what a collector looks at is copied in every process
    fork = multiprocessing.get_context("fork")
    try:
        with ProcessPoolExecutor(processes, mp_context=fork, max_tasks_per_child=None) as pool:
            yield from zip(asked, pool.map(_passes, asked), strict=True)
    finally:
        gc.unfreeze()


def _libraries() -> list[str]:
    """Modules of others that the tests' set-up and the commands import, the first first."""
    words = "import sys, matplotlib.figure, scipy.stats, tests.conftest, tests.support.llava, tokenprune.cli"
    told = subprocess.run(
        [sys.executable, "-c", f"{words}; print(*sys.modules, sep='\\n')"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    others = ("transformers", "scipy", "matplotlib", "PIL", "hypothesis", "triton", "einops", "torch._dynamo")
    return [name for name in told.stdout.split() if name.startswith(others)]


def _passes(mutant: Mutant) -> bool:
    """Whether the tests pass; in a process of its own, since modules are imported once."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _run(mutant)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def _run(mutant: Mutant) -> int:
    with tempfile.TemporaryDirectory() as folder:
        for name in FOLDERS:
            # compiled files too: they are known by size and time of their source, and the file with the mistake is new
            shutil.copytree(ROOT / name, Path(folder) / name, copy_function=os.link)
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, folder)
        file = Path(folder) / mutant.file
        file.unlink()  # a hard link: writing to it would write to the working tree
        file.write_text(mutant.text, encoding="utf-8")
        os.chdir(folder)
        os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "CI": "1"}
        sys.dont_write_bytecode = True
        sys.path[:0] = [folder, f"{folder}/strategies", f"{folder}/theory"]
        for name in [name for name in sys.modules if name.partition(".")[0] in ("tokenprune", "tests")]:
            del sys.modules[name]
        import pytest

        words = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile", "fails", "-m", "not slow"]
        words += shlex.split(mutant.tests)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return int(pytest.main(words))
