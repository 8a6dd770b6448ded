"""Charts, and pages that show whatever was asked and answered without running it."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tokenprune.evaluation.summary import summarize
from tokenprune.report.curves import HEIGHT, chart
from tokenprune.report.examples import Example, choose_examples
from tokenprune.report.heatmap import heatmap
from tokenprune.report.panels import panels
from tokenprune.report.report import report

HOSTILE = '<script>alert("x")</script>&\'"'
RIGHT = (("a", 16, 1), ("b", 8, 1), ("full", 0, 4), ("b", 16, 3), ("a", 8, 2))
"""Strategy, budget, right answers of four."""
shares = st.floats(0, 1)


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
    assert "<script" not in page
    assert "&lt;script&gt;alert" in page


def test_the_report_lists_strategies_as_the_terminal_does() -> None:
    lines = [line(name, f"{i}", i < right, keep) for name, keep, right in RIGHT for i in range(4)]
    rows = summarize(lines)
    page = report(rows, {})
    assert re.findall(r"<tr(| class=next)><td>(\w+)</td><td>(\w+)</td>", page) == [
        ("", "full", "all"),
        (" class=next", "b", "16"),
        ("", "a", "16"),
        (" class=next", "a", "8"),
        ("", "b", "8"),
    ]


@given(st.dictionaries(st.text(max_size=8), st.dictionaries(st.sampled_from("abc"), shares, min_size=1), min_size=1))
def test_charts_are_xml_and_stay_inside_their_frame(lines: dict[str, dict[str, float]]) -> None:
    lines = {"".join(c for c in name if c.isprintable()): line for name, line in lines.items()}
    svg = ElementTree.fromstring(chart(lines, list("abc"), HOSTILE, {"full": 0.5}))
    circles = svg.findall("circle")
    assert len(circles) == sum(map(len, lines.values()))
    assert all(0 <= float(circle.attrib["cy"]) <= HEIGHT for circle in circles)


@given(st.lists(shares, min_size=2, max_size=2))
def test_larger_values_stand_higher(values: list[float]) -> None:
    svg = ElementTree.fromstring(chart({"line": dict(zip("ab", values, strict=True))}, ["a", "b"], "label"))
    first, second = (float(circle.attrib["cy"]) for circle in svg.findall("circle"))
    x_first, x_second = (float(circle.attrib["cx"]) for circle in svg.findall("circle"))
    assert x_first < x_second
    if abs(values[0] - values[1]) > 0.001:
        assert (first > second) == (values[0] < values[1])


def test_labels_that_end_together_do_not_overlap() -> None:
    svg = ElementTree.fromstring(chart({f"line {i}": {"a": 0.01 * i / 20} for i in range(20)}, ["a"], "label"))
    heights = sorted(float(t.attrib["y"]) for t in svg.findall("text") if str(t.text).startswith("line"))
    assert all(b - a >= 14 for a, b in itertools.pairwise(heights))
    assert len(heights) == 20
    assert heights[-1] <= HEIGHT


def test_a_chart_of_nothing_is_empty() -> None:
    assert chart({}, ["a"], "label") == ""
    assert heatmap({}, ["a"], ["b"], "label") == ""


def test_a_heatmap_is_darkest_at_its_largest_value() -> None:
    values = {("r", "c"): 0.2, ("r", "d"): 0.9, ("s", "c"): 0.5}
    svg = ElementTree.fromstring(heatmap(values, ["r", "s"], ["c", "d"], HOSTILE))
    fills = [int(rect.attrib["fill"][1:], 16) for rect in svg.findall("rect")]
    assert len(fills) == 3
    assert sorted(range(3), key=lambda i: -fills[i]) == [0, 2, 1]


def test_panels_make_one_file_of_several_drawings() -> None:
    one = chart({"line": {"a": 0.5}}, ["a"], "label")
    file = ElementTree.fromstring(panels([(HOSTILE, one), ("b", one), ("c", one)]))
    inner = file.findall("{http://www.w3.org/2000/svg}svg")
    places = [(float(svg.attrib["x"]), float(svg.attrib["y"])) for svg in inner]
    assert len(places) == 3
    assert places[0][1] == places[1][1] < places[2][1]
    assert places[0][0] == places[2][0] < places[1][0]
    assert float(inner[2].attrib["y"]) + float(inner[2].attrib["height"]) <= float(file.attrib["height"])
    with pytest.raises(ValueError, match="viewBox"):
        panels([("a", "<p>no drawing</p>")])


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
