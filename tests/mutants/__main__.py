"""Plant mistakes, one at a time, and say which of them no test notices.

``python -m tests.mutants``
    The mistakes of planted.yaml: each was once made, or survived, and has a test that fails for it.
``python -m tests.mutants tokenprune/evaluation/summary.py tests/evaluation/test_summary.py --most 30``
    Small changes drawn from a file. A survivor that changes nothing anybody could see is fine, and no reason to loosen
    anything.

Nothing in the working tree is touched. Exits 1 where a mistake survives.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator

import yaml

from tests.mutants.copies import ROOT, Mutant, survivors
from tests.mutants.drawn import changed

PLANTED = ROOT / "tests" / "mutants" / "planted.yaml"


def planted(words: str = "") -> Iterator[Mutant]:
    """The mistakes on the list whose name or file contains some words."""
    for entry in yaml.safe_load(PLANTED.read_text(encoding="utf-8")):
        if words not in entry["mistake"] and words not in entry["file"]:
            continue
        text = (ROOT / entry["file"]).read_text(encoding="utf-8")
        if text.count(entry["was"]) != 1:
            raise SystemExit(
                f"{entry['mistake']}: {entry['file']} holds the text to be changed {text.count(entry['was'])} times, "
                "and has to hold it once"
            )
        yield Mutant(entry["mistake"], entry["file"], text.replace(entry["was"], entry["now"]), entry["tests"])


def main() -> int:
    """Plant, run, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="of this repository; without it the list is tried")
    parser.add_argument("tests", nargs="*", help="what ought to notice")
    parser.add_argument("--most", type=int, default=40, help="changes of a file to try, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="of the list, those with these words in name or file")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    if asked.file is None:
        chosen = list(planted(asked.only))
    else:
        text = (ROOT / asked.file).read_text(encoding="utf-8")
        drawn = changed(text)
        random.Random(asked.seed).shuffle(drawn)
        tests = " ".join(asked.tests)
        whole = Mutant("nothing", asked.file, text, tests)
        if not next(passes for _, passes in survivors([whole], 1)):
            raise SystemExit("the tests fail without any mistake")
        chosen = [Mutant(f"line {line}: {what}", asked.file, made, tests) for line, what, made in drawn[: asked.most]]
    alive = 0
    for mutant, passes in survivors(chosen, asked.processes):
        if passes:
            alive += 1
            print(f"{mutant.file}: survives: {mutant.name}", flush=True)
    print(f"mistakes: planted {len(chosen)}, noticed {len(chosen) - alive}, survived {alive}")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
