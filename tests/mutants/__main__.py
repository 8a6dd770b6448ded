"""Plant mistakes, one at a time, and say which of them no test notices.

``python -m tests.mutants``
    The mistakes of planted.yaml: each was once made, or survived, and has a test that fails for it.
``python -m tests.mutants tokenprune/evaluation/summary.py tests/evaluation/test_summary.py --most 30``
    Small changes drawn from a file. A survivor that changes nothing anybody could see is fine, and no reason to loosen
    anything.

``python -m tests.mutants --since origin/main --most 5``
    So many small changes of each file that a branch changed, told to the tests that name its module.

Nothing in the working tree is touched. Exits 1 where a mistake survives; with ``--since`` it only tells.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping

import yaml

from tests.mutants.copies import ROOT, Mutant, survivors
from tests.mutants.drawn import changed

PLANTED = ROOT / "tests" / "mutants" / "planted.yaml"


def listed() -> list[dict[str, str]]:
    """The list of mistakes: a name, a file, what is changed to what, and the tests that have to notice."""
    found: list[dict[str, str]] = yaml.safe_load(PLANTED.read_text(encoding="utf-8"))
    return found


def planted(entry: Mapping[str, str]) -> Mutant:
    """A mistake on the list in today's code.

    Raises
    ------
    SystemExit
        The text to be changed is not there, or is there more than once.
    """
    text = (ROOT / entry["file"]).read_text(encoding="utf-8")
    if text.count(entry["was"]) != 1:
        raise SystemExit(
            f"{entry['mistake']}: {entry['file']} holds the text to be changed {text.count(entry['was'])} times, "
            "and has to hold it once"
        )
    return Mutant(entry["mistake"], entry["file"], text.replace(entry["was"], entry["now"]), entry["tests"])


def naming(file: str) -> str:
    """Tests that name a file's module."""
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".").split("strategies.", 1)[-1]
    found = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if module in path.read_text(encoding="utf-8")
    ]
    return " ".join(found)


def of_branch(since: str, most: int, seed: int) -> Iterator[Mutant]:
    """Changes of the files of ours that differ from a revision and that tests name."""
    words = ["git", "diff", "--name-only", "--diff-filter=AM", since, "--", "tokenprune", "strategies", "theory"]
    for file in subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split():
        tests = naming(file) if file.endswith(".py") else ""
        if tests:
            yield from of_file(file, tests, most, seed)


def of_file(file: str, tests: str, most: int, seed: int) -> list[Mutant]:
    """Changes drawn from a file."""
    drawn = changed((ROOT / file).read_text(encoding="utf-8"))
    random.Random(seed).shuffle(drawn)
    return [Mutant(f"line {line}: {what}", file, made, tests) for line, what, made in drawn[:most]]


def main() -> int:
    """Plant, run, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="of this repository; without it the list is tried")
    parser.add_argument("tests", nargs="*", help="what ought to notice")
    parser.add_argument("--most", type=int, default=40, help="changes of a file to try, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="of the list, those with these words in name or file")
    parser.add_argument("--since", help="try the files that differ from this revision")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    if asked.since:
        chosen = list(of_branch(asked.since, asked.most, asked.seed))
    elif asked.file is None:
        chosen = [planted(one) for one in listed() if asked.only in one["mistake"] or asked.only in one["file"]]
    else:
        tests = " ".join(asked.tests)
        whole = Mutant("nothing", asked.file, (ROOT / asked.file).read_text(encoding="utf-8"), tests)
        if not next(passes for _, passes in survivors([whole], 1)):
            raise SystemExit("the tests fail without any mistake")
        chosen = of_file(asked.file, tests, asked.most, asked.seed)
    alive = 0
    for mutant, passes in survivors(chosen, asked.processes):
        if passes:
            alive += 1
            print(f"{mutant.file}: survives: {mutant.name}", flush=True)
    print(f"mistakes: planted {len(chosen)}, noticed {len(chosen) - alive}, survived {alive}")
    return 1 if alive and not asked.since else 0


if __name__ == "__main__":
    sys.exit(main())
