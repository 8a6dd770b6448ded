"""Plant small mistakes in a file, one at a time, and say which of them no test notices.

``python -m tests.mutants tokenprune/evaluation/summary.py tests/evaluation/test_summary.py --most 30``

Nothing in the working tree is touched: the packages are copied, and the tests run on the copy. Exits 1 where a mistake
survives; a survivor that changes nothing anybody could see is fine, and no reason to loosen anything.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What could stand in a node's place, by mistake."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield ast.Compare(node.left, [COMPARISONS[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert | ast.USub):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.Constant) and isinstance(node.value, float):
        yield ast.Constant(node.value * 0.9)
    elif isinstance(node, ast.IfExp):
        yield node.orelse
        yield node.body


def mutants(text: str) -> list[tuple[int, str, str]]:
    """Line, what was changed, and the whole file with it."""
    tree = ast.parse(text)
    found = []
    for parent in ast.walk(tree):
        if isinstance(parent, ast.arg | ast.AnnAssign) and getattr(parent, "annotation", None):
            for node in ast.walk(parent.annotation):  # type: ignore[arg-type]
                node.skipped = True  # type: ignore[attr-defined]
        for name in ("returns",):
            if getattr(parent, name, None) is not None:
                for node in ast.walk(getattr(parent, name)):
                    node.skipped = True  # type: ignore[attr-defined]
    for number, node in enumerate(ast.walk(tree)):
        for which, other in enumerate(changes(node)):
            if getattr(node, "skipped", False):
                continue
            made = copy.deepcopy(tree)
            target = list(ast.walk(made))[number]
            replacement = list(changes(target))[which]
            _replace(made, target, replacement)
            before, after = ast.unparse(node), ast.unparse(other)
            found.append((node.lineno, f"{before}  ->  {after}", ast.unparse(ast.fix_missing_locations(made))))  # type: ignore[attr-defined]
    return found


def _replace(tree: ast.AST, target: ast.AST, other: ast.AST) -> None:
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, field, other)
            elif isinstance(value, list) and any(one is target for one in value):
                value[:] = [other if one is target else one for one in value]


def main() -> int:
    """Plant, run, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="of this repository")
    parser.add_argument("tests", nargs="+", help="what ought to notice")
    parser.add_argument("--most", type=int, default=40, help="mistakes to plant, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    planted = mutants((ROOT / asked.file).read_text(encoding="utf-8"))
    random.Random(asked.seed).shuffle(planted)
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in ("tokenprune", "strategies", "theory", "tests"):
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        paths = [folder, f"{folder}/strategies", f"{folder}/theory"]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1", "CI": "1"}
        words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *asked.tests]
        file = Path(folder) / asked.file
        whole = file.read_text(encoding="utf-8")
        chosen = sorted(planted[: asked.most])
        for line, what, text in [(0, "nothing", whole), *chosen]:
            file.write_text(text, encoding="utf-8")
            done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=1800)
            noticed = done.returncode != 0
            if line == 0 and noticed:
                print(done.stdout[-2000:])
                raise SystemExit("the tests fail without any mistake")
            if line and not noticed:
                survivors += 1
                print(f"{asked.file}:{line}: survives: {what}", flush=True)
    print(f"{asked.file}: {len(chosen)} of {len(planted)} mistakes planted, {survivors} survive")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
