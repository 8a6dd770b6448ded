"""Pages that show whatever was asked and answered without running it."""

from __future__ import annotations

import re
from typing import Any

from PIL import Image

from tokenprune.evaluation.summary import summarize
from tokenprune.report.comparison import report
from tokenprune.report.examples import Example, choose_examples

HOSTILE = '<script>alert("x")</script>&\'"'
RIGHT = (("a", 16, 1), ("b", 8, 1), ("full", 0, 4), ("b", 16, 3), ("a", 8, 2))
"""Strategy, budget, right answers of four."""


def line(strategy: str, sample: str, correct: bool, keep: int = 8, task: str = "gqa", draw: int = 0) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "keep": keep,
        "draw": draw,
        "sample": sample,
        "image": sample,
        "task": task,
        "family": "part",
        "binary": False,
        "answer": "x",
        "prediction": "x" if correct else "y",
        "correct": correct,
        "tokens": keep,
        "layer_average_tokens": float(keep),
        "flops": 1,
        "kv_bytes": 1,
    }


def test_nothing_from_outside_reaches_the_page_as_markup() -> None:
    lines = [line(HOSTILE, f"{i}", bool(i % 2), task=HOSTILE) for i in range(4)]
    lines += [line("full", f"{i}", True, keep=0, task=HOSTILE) for i in range(4)]
    examples = [(HOSTILE, Image.new("RGB", (4, 4)))]
    page = report(summarize(lines), {HOSTILE: HOSTILE}, [HOSTILE], examples)
    assert page.count("<script") == page.count("</script>") == 2  # ours: the numbers, and what shows them
    assert "&lt;script&gt;alert" in page
    assert "alert(&#34;x" in page


def test_the_report_lists_strategies_as_the_terminal_does() -> None:
    lines = [line(name, f"{i}", i < right, keep) for name, keep, right in RIGHT for i in range(4)]
    rows = summarize(lines)
    page = report(rows, {})
    assert re.findall(r'<tr(| class="next") data-row="\d+"><td>.*?>(\w+)</a></td><td>(\w+)</td>', page) == [
        ("", "full", "all"),
        (' class="next"', "b", "16"),
        ("", "a", "16"),
        (' class="next"', "a", "8"),
        ("", "b", "8"),
    ]


def test_examples_are_questions_on_which_the_best_and_random_differ() -> None:
    lines = []
    truth = {"a": (1, 0, 1), "b": (1, 0, 0), "c": (1, 1, 1), "d": (0, 1, 1), "e": (1, 0, 1), "f": (1, 0, 1)}
    family = {"a": "gqa", "b": "gqa", "c": "gqa", "d": "gqa", "e": "gqa", "f": "pope"}
    for sample, (best, random, full) in truth.items():
        where = family[sample]
        lines.append(line("best", sample, bool(best), task=where))
        lines.append(line("other", sample, False, task=where))
        lines += [line("random", sample, bool(random), task=where, draw=draw) for draw in range(3)]
        lines.append(line("full", sample, bool(full), keep=0, task=where))
        # at a larger budget the other one is better, which does not matter
        lines += [line("other", sample, True, keep=16), line("random", sample, False, keep=16)]
    # the first draw is shown, so it decides; draws that disagree come later
    lines += [line("best", "g", True), line("random", "g", False), line("random", "g", True, draw=1)]
    lines += [line("best", "h", True), line("random", "h", True), line("random", "h", False, draw=1)]
    assert choose_examples(lines) == [
        Example("a", "best", 8, True, 3, 3),
        Example("f", "best", 8, True, 3, 3),
        Example("d", "best", 8, False, 3, 3),
    ]
    assert [(e.sample, e.agreeing, e.draws) for e in choose_examples(lines, won=9)] == [
        ("a", 3, 3),
        ("f", 3, 3),
        ("e", 3, 3),
        ("b", 3, 3),
        ("g", 1, 2),
        ("d", 3, 3),
    ]
    assert choose_examples([row for row in lines if row["strategy"] in ("random", "full")]) == []
