"""Small changes to a file, as somebody might make them by mistake."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator

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


def changed(text: str) -> list[tuple[int, str, str]]:
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
