"""Charts: what is drawn was measured, names are drawn as they stand, files stand alone and come out the same."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib as mpl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from PIL import Image

from tokenprune.evaluation.summary import summarize
from tokenprune.report.charts import Chart, Measured, heatmap, lines, png, svg, write_charts
from tokenprune.report.curves import accuracy_chart

HOSTILE = '<script>alert("x")</script>&\'" $\\frac{$ \x00\n'
TEXT = "{http://www.w3.org/2000/svg}text"

shares = st.floats(0, 1)
measured = st.tuples(shares, shares, shares).map(lambda t: Measured(sorted(t)[1], min(t), max(t)))


def exact(value: float) -> Measured:
    return Measured(value, value, value)


def drawn(chart: Chart | None) -> Axes:
    """The axes after drawing."""
    assert chart is not None
    axes = Figure().subplots()
    chart.draw(axes)
    return axes


@given(st.dictionaries(st.text(max_size=6), st.dictionaries(st.sampled_from("abc"), measured, min_size=1), min_size=1))
@settings(max_examples=15)
def test_points_and_intervals_are_what_was_measured(rows: dict[str, dict[str, Measured]]) -> None:
    axes = drawn(lines("title", rows, list("abc")))
    assert len(axes.containers) == len(rows)
    for row, container in zip(rows.values(), axes.containers, strict=True):
        line, _, (bars,) = container.lines  # type: ignore[misc]
        at = [tick for tick in "abc" if tick in row]
        assert [round(x) for x in line.get_xdata()] == ["abc".index(tick) for tick in at]
        assert line.get_ydata() == pytest.approx([row[tick].value for tick in at])
        for tick, segment in zip(at, bars.get_segments(), strict=True):
            assert sorted(y for _, y in segment) == pytest.approx([row[tick].low, row[tick].high])


def test_a_level_lies_across_with_its_interval() -> None:
    axes = drawn(lines("title", {}, ["a"], {"full": Measured(0.5, 0.4, 0.7)}))
    [level] = axes.lines
    assert list(level.get_ydata()) == [0.5, 0.5]
    [band] = axes.patches
    assert band.get_extents().get_points() is not None
    assert band.get_bbox().intervaly.tolist() == pytest.approx([0.4, 0.7])  # type: ignore[attr-defined]


def test_the_legend_lists_lines_as_they_end() -> None:
    rows = {"low": {"a": exact(0.9), "b": exact(0.1)}, "high": {"a": exact(0.2), "b": exact(0.8)}}
    legend = drawn(lines("title", rows, ["a", "b"], {"full": exact(0.5)})).get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["high", "full", "low"]


def test_a_strategy_looks_the_same_in_every_chart_of_a_report() -> None:
    answers = [
        {"strategy": name, "keep": 8, "draw": 0, "sample": f"{i}", "image": f"{i}", "task": task, "family": "part"}
        | {"binary": False, "answer": "x", "prediction": "x", "correct": True, "tokens": 8}
        | {"layer_average_tokens": 8.0, "flops": 1, "kv_bytes": 1}
        for task, names in (("gqa", ("a", "b", "c")), ("pope", ("c",)))
        for name in names
        for i in range(3)
    ]
    rows = summarize(answers)
    everywhere = drawn(accuracy_chart(rows, "gqa")).containers[2].lines[0]  # type: ignore[union-attr]
    alone = drawn(accuracy_chart(rows, "pope")).containers[0].lines[0]  # type: ignore[union-attr]
    assert everywhere.get_color() == alone.get_color()
    assert accuracy_chart(rows, "no such task") is None


def test_a_heatmap_is_darkest_at_its_largest_value() -> None:
    values = {("r", "c"): exact(0.2), ("r", "d"): Measured(0.9, 0.8, 1.0), ("s", "c"): exact(0.5)}
    axes = drawn(heatmap("title", values, ["r", "s"], ["c", "d"]))
    [mesh] = [c for c in axes.collections if isinstance(c, QuadMesh)]
    mesh.update_scalarmappable()
    brightness = mesh.get_facecolor()[:, :3].sum(1)  # type: ignore[call-overload,index]
    assert brightness[1] < brightness[2] < brightness[0]
    assert mesh.get_array().mask.ravel().tolist() == [False, False, False, True]  # type: ignore[union-attr]
    assert {t.get_text() for t in axes.texts} == {"20.0%", "90.0%\n[80%, 100%]", "50.0%"}


@pytest.mark.parametrize("kind", ["lines", "heatmap"])
def test_names_from_outside_are_drawn_as_they_stand(kind: str) -> None:
    name = HOSTILE
    chart = (
        lines(name, {name: {name: exact(0.5)}}, [name], {f"{name}!": exact(0.3)})
        if kind == "lines"
        else heatmap(name, {(name, name): exact(0.5)}, [name], [name])
    )
    text = svg(chart)
    root = ElementTree.fromstring(
        text.replace("<svg ", '<svg xmlns:xlink="x" ', 1) if "xmlns:xlink" not in text else text
    )
    assert "<script" not in text
    said = " ".join(t.text or "" for t in root.iter(TEXT))
    assert '<script>alert("x")</script>&' in said
    assert "$\\frac{$" in said
    assert root.attrib["aria-label"].startswith('<script>alert("x")')
    assert chart is not None
    assert Image.open(io.BytesIO(png([chart]))).format == "PNG"


def test_a_drawing_loads_nothing_and_comes_out_the_same() -> None:
    chart = lines("title", {"line": {"a": Measured(0.5, 0.4, 0.6)}}, ["a"])
    text = svg(chart)
    assert text == svg(lines("title", {"line": {"a": Measured(0.5, 0.4, 0.6)}}, ["a"]))
    root = ElementTree.fromstring(text)
    links = [value for part in root.iter() for key, value in part.attrib.items() if key.endswith("href")]
    assert links
    assert all(link.startswith("#") for link in links)
    assert not [part for part in root.iter() if part.tag.rpartition("}")[2] in ("image", "script", "foreignObject")]
    assert "url(http" not in text


def test_files_hold_all_charts_and_settings_are_put_back(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    one = lines("one", {"line": {"a": exact(0.5)}}, ["a"])
    two = heatmap("two", {("r", "c"): exact(0.2)}, ["r"], ["c"])
    vector, picture = write_charts(tmp_path / "figure", [one, None, two, one], columns=2)
    assert (vector.name, picture.name) == ("figure.svg", "figure.png")
    titles = [t.text for t in ElementTree.parse(vector).getroot().iter(TEXT) if t.text in ("one", "two")]
    assert titles == ["one", "two", "one"]
    assert Image.open(picture).size[0] > Image.open(io.BytesIO(png([one]))).size[0]  # type: ignore[list-item]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure.png", "figure.svg"]
    assert dict(mpl.rcParams) == before


def test_a_long_name_is_cut() -> None:
    legend = drawn(lines("title", {"n" * 500: {"a": exact(0.5)}}, ["a"])).get_legend()
    assert legend is not None
    assert legend.get_texts()[0].get_text() == "n" * 59 + "…"


def test_a_chart_of_nothing_is_none(tmp_path: Path) -> None:
    assert lines("title", {}, ["a"]) is None
    assert lines("title", {"line": {}}, ["a"]) is None
    assert lines("title", {"line": {"a": exact(1)}}, []) is None
    assert heatmap("title", {}, ["a"], ["b"]) is None
    assert svg(None) == ""
    assert write_charts(tmp_path / "figure", [None]) == []
    assert list(tmp_path.iterdir()) == []
