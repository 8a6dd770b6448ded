"""How programs that share one sample agree on a pick.

Each program knows the best of its own candidates. It publishes value and position, packed into one word, in a slot of
the step, and reads the slots of all until none is empty: one exchange a step and no other barrier. Every step has slots
of its own, so none has to be emptied. All programs must run at the same time: they are launched cooperatively.
"""

# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["agree", "best_of"]

LAST = tl.constexpr(0x7FFFFFFF)


@triton.jit
def best_of(values, first):
    """Largest of some values and its position, counted from ``first``; ties to the lowest, -1 where one is NaN."""
    seen = tl.where(values != values, float("inf"), values)
    top, at = tl.max(seen, axis=0, return_indices=True, return_indices_tie_break_left=True)
    at = first + at
    if top == float("inf"):
        broken = tl.max((values != values).to(tl.int32), axis=0)
        at = tl.where(broken != 0, -1, at)
    return top, at


@triton.jit
def agree(slots, program, top, at, PROGRAMS: tl.constexpr):
    """Position of the best of all programs' float32 candidates, ties to the lowest; -1 where one of them met NaN."""
    # floats in the order of integers; -0.0 counts as 0.0
    bits = tl.where(top == 0, 0.0, top).to(tl.int32, bitcast=True)
    key = tl.where(at < 0, LAST, bits ^ ((bits >> 31) & LAST))
    word = (key.to(tl.int64) << 32) | (LAST - tl.maximum(at, 0)).to(tl.int64)
    tl.atomic_xchg(slots + program, word, sem="release", scope="gpu")
    lanes = slots + tl.arange(0, PROGRAMS)
    words = tl.load(lanes, volatile=True)
    while tl.min((words != 0).to(tl.int32), axis=0) == 0:
        words = tl.load(lanes, volatile=True)
    word = tl.max(words, axis=0)
    at = LAST - (word & LAST).to(tl.int32)
    return tl.where((word >> 32) == LAST, -1, at)
