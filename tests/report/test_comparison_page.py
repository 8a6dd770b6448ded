"""The page of a comparison: its chart's logic in a JavaScript engine, what it says of rows, and how large it gets."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from tests.support.report import KEPT, answer, answers
from tokenprune.benchmark.times import read_times, times
from tokenprune.cli import app
from tokenprune.cli.options import command_line
from tokenprune.core.errors import ConfigError
from tokenprune.evaluation.answered import answers_in
from tokenprune.evaluation.summary import summarize
from tokenprune.report.comparison import report
from tokenprune.report.comparison.about import about, is_own
from tokenprune.report.comparison.data import as_data
from tokenprune.report.comparison.lost import lost_answers
from tokenprune.report.comparison.page import LARGEST
from tokenprune.report.comparison.pictures import FILE, keep_pictures, kept_pictures
from tokenprune.report.examples import Loss, choose_losses
from tokenprune.report.pages import asset, embedded

SPEED = Path(__file__).parents[2] / "experiments" / "speed" / "results" / "strategies.jsonl"


class Page:
    """The page's own functions over the data of a comparison."""

    def __init__(self, data: dict[str, Any]) -> None:
        import quickjs  # here, so that other tests run without it

        self.context = quickjs.Context()
        self.context.eval(asset("logic.js", "comparison/assets"))
        self.context.eval(f"var data = {json.dumps(data)}")
        self.context.eval("var axis = (key) => Logic.AXES.find((one) => one.key === key)")

    def value(self, expression: str) -> Any:
        return json.loads(self.context.eval(f"JSON.stringify({expression})"))


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    lines = answers()
    return as_data(summarize(lines), lost_answers(lines), {x["sample"]: x for x in lines if x["strategy"] == "full"})


@pytest.fixture(scope="module")
def page(data: dict[str, Any]) -> Page:
    return Page(data)


def test_lines_of_the_chart_are_what_was_measured(page: Page) -> None:
    lines = page.value("Logic.series(data, 0, 0, axis('layers'))")
    found = {line["name"]: [(p["x"], p["value"], p["n"]) for p in line["points"]] for line in lines}
    expected = {name: [(8, (r - 1) / 6, 6), (16, r / 6, 6)] for name, r in KEPT.items()} | {"full": [(36, 5 / 6, 6)]}
    assert found.keys() == expected.keys()
    for name, points in expected.items():
        assert found[name] == [(x, pytest.approx(value, abs=1e-5), n) for x, value, n in points]
    assert [line["name"] for line in lines] == ["full", "mi-pruner", "divprune", "mine", "random"]  # best first
    budgets = {line["name"]: line["points"] for line in page.value("Logic.series(data, 0, 0, axis('budget'))")}
    assert budgets["full"][0]["x"] is None  # it has no budget: a level


def test_a_part_has_its_own_numbers(page: Page, data: dict[str, Any]) -> None:
    assert data["parts"] == ["all questions", "gqa", "pope", "gqa: part", "pope: part"]
    lines = page.value("Logic.series(data, 1, 0, axis('budget'))")
    assert {line["name"]: line["points"][0]["n"] for line in lines} == dict.fromkeys([*KEPT, "full"], 3)


def test_axes_without_a_number_are_not_offered(page: Page) -> None:
    assert page.value("Logic.axes(data).map((one) => one.key)") == ["budget", "layers", "gflops", "kv"]


def test_nothing_beats_the_front(page: Page) -> None:
    lines = page.value("Logic.series(data, 0, 0, axis('gflops')).filter((line) => !line.level)")
    front = page.value("Logic.front(Logic.series(data, 0, 0, axis('gflops')), (name) => data.looks[name].scale)")
    points = [(p["x"], p["value"]) for line in lines for p in line["points"] if line["name"] != "random"]
    assert [(p["x"], p["value"]) for p in front] == sorted(
        (x, v) for x, v in set(points) if not any((a <= x and b >= v) and (a, b) != (x, v) for a, b in points)
    )


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize(("low", "high"), [(8, 576), (0.29, 7.66), (0.41, 0.43), (60, 3e5)])
def test_ticks_lie_inside_and_are_few(page: Page, low: float, high: float, log: bool) -> None:
    found = page.value(f"Logic.ticks([{low}, {high}], {json.dumps(log)})")
    assert 2 <= len(found) <= 10
    assert all(low <= tick <= high for tick in found)
    assert found == sorted(set(found))
    low_end, high_end = page.value(f"Logic.span([{low}, {high}], {json.dumps(log)})")
    assert low_end < low < high < high_end


def test_the_table_is_sorted_and_filtered(page: Page, data: dict[str, Any]) -> None:
    def shown(**given: Any) -> list[tuple[str, int]]:
        state = {"text": "", "keep": None, "key": None, "down": True, **given}
        code = f"Logic.arranged(data, {{...{json.dumps(state)}, chosen: new Set({json.dumps(given.get('some', []))})}})"
        return [(data["rows"][i]["strategy"], data["rows"][i]["keep"]) for i in page.value(code)]

    assert len(shown()) == len(data["rows"]) == 9
    assert shown()[0] == ("full", 0)
    assert shown(text="PRUN", keep=8) == [("mi-pruner", 8), ("divprune", 8)]
    assert shown(some=["mine"]) == [("mine", 16), ("mine", 8)]
    assert [name for name, _ in shown(key="strategy", down=False)] == sorted(name for name, _ in shown())
    rising = shown(key="part:0", down=False)
    assert rising[0] == ("random", 8)
    assert rising[-1] in (("full", 0), ("mi-pruner", 16))
    # what has no p-value comes last, whichever way
    assert {shown(key="pRandom", down=down)[-1][0] for down in (True, False)} <= {"full", "random"}


def test_losses_are_counted_and_shown_by_turns() -> None:
    lost = {(one.strategy, one.keep): one for one in lost_answers(answers(), most=3)}
    assert lost.keys() == {(name, keep) for name in KEPT for keep in (16, 8)}
    worst = lost["random", 8]  # answers q0 alone, of the five that the unpruned model answers
    assert (worst.n, worst.of) == (4, 5)
    assert [sample for sample, _ in worst.shown] == ["q2", "q1", "q4"]  # gqa, pope, gqa again
    assert lost["mi-pruner", 16].n == 0
    assert lost_answers([line for line in answers() if line["strategy"] != "full"]) == []


def test_an_example_of_a_failure_is_of_the_best_and_of_ones_own() -> None:
    assert choose_losses(answers(), own=["mine"]) == [
        Loss("q4", "mi-pruner", 8, 1, 5),
        Loss("q4", "mine", 16, 2, 5),
    ]
    assert choose_losses([line for line in answers() if line["strategy"] == "full"]) == []


def test_rows_say_what_they_are_and_lead_to_their_page() -> None:
    ours, optioned, mine, full = about(
        ["mi-pruner", "mi-pruner:lam=0.3", "mine", "full"],
        {"mine": {"strategy": "Strategy(scorer=Mine())", "providers": ["my-package 1.0"]}},
    )
    assert ours.url == optioned.url == "https://tokenprune.github.io/tokenprune/strategies/#mi-pruner"
    assert "MI-Pruner" in ours.text
    assert "`" not in ours.text
    assert (mine.options, mine.provider, mine.url) == ("Strategy(scorer=Mine())", "my-package 1.0", "")
    assert full.text == "Nothing is pruned."
    assert [is_own(label) for label in ("mi-pruner", "mi-pruner:lam=0.3", "mine", "full", "random")] == [
        *(False, False, True, False, False)
    ]


def test_the_page_tells_what_it_rests_on_and_fetches_nothing() -> None:
    lines = answers()
    facts = {"data": "mine.jsonl", "questions": 6, "model": "tiny", "seed": 3, "torch": "2.13", "tokenprune": "0.1"}
    command = "tokenprune compare --data mine.jsonl"
    absent = ["fastv at 8 is left out: no attention"]
    text = report(summarize(lines), {**facts, "command": command}, ["a note"], lines=lines, missing=absent)
    head = text.partition('id="play"')[0]
    for said in ("mine.jsonl", "tiny", command, "torch 2.13", "tokenprune 0.1", "a note", "<dd>6</dd>", "<dd>3</dd>"):
        assert said in head
    assert "fastv at 8 is left out: no attention" in text
    outside = re.findall(r'(?:src|href)\s*=\s*"([^"#][^"]*)"', text)
    assert all(url.startswith(("data:", "https://tokenprune.github.io/")) for url in outside)
    assert "default-src 'none'" in text
    for name in {*KEPT, "full"}:  # every link from the table arrives
        assert f'href="#about-{name}"' in text
        assert f'id="about-{name}"' in text


def test_a_page_stays_small_enough_to_send() -> None:
    noise = np.random.default_rng(0)
    pictures = [(f"picture {i}", Image.fromarray(noise.integers(0, 256, (600, 900, 3), np.uint8))) for i in range(8)]
    text = report(summarize(answers()), {}, (), pictures)
    assert len(text.encode()) <= LARGEST
    left = text.count("<figure>")
    assert 0 < left < 8
    assert f"{8 - left} more would have made this page larger than 3 MB" in text


def test_measured_milliseconds_are_those_of_one_way_of_running() -> None:
    clock = read_times(SPEED)
    rows = [json.loads(line) for line in SPEED.read_text().splitlines()]
    plain = {row["strategy"]: row["first_token_ms"]["median"] for row in rows if row["way"] == "plain"}
    assert clock.ms == {(name, 0 if name == "full" else 64): ms for name, ms in plain.items()}
    assert "plain, batch 1, 576 visual tokens" in clock.about
    data = as_data(summarize([*answers(), *(answer("fastv", f"q{i}", True, 64) for i in range(6))]), times=clock.ms)
    assert {row["strategy"]: row["ms"] for row in data["rows"] if row["ms"] is not None} == {
        "fastv": pytest.approx(plain["fastv"], rel=1e-4),
        "full": pytest.approx(plain["full"], rel=1e-4),
    }
    assert Page(data).value("Logic.axes(data).map((one) => one.key)")[-1] == "ms"
    with pytest.raises(ConfigError, match="first_token_ms"):
        times([{"batch": 1}])
    with pytest.raises(ConfigError, match="no such file"):
        read_times(SPEED.with_name("none"))


def test_the_command_is_told_as_it_was_given(tmp_path: Path) -> None:
    probe, said = typer.Typer(), []

    @probe.callback()
    def main() -> None: ...

    @probe.command()
    def run(
        context: typer.Context,
        folder: Path,
        out: Path = Path("x"),
        budgets: str = "1",
        load: list[str] = [],  # noqa: B006
        wide: bool = False,
    ) -> None:
        said.append(command_line(context))

    given = [str(tmp_path / "deep"), "--out", "y", "--budgets", "64,32", "--load", "a.py", "--load", "b c.py", "--wide"]
    assert CliRunner().invoke(probe, ["run", *given]).exit_code == 0
    assert CliRunner().invoke(probe, ["run", "here/it"]).exit_code == 0
    assert said == ["tokenprune run deep --budgets 64,32 --load a.py --load 'b c.py' --wide", "tokenprune run here/it"]
    assert str(tmp_path) not in said[0]


def test_report_makes_the_page_of_an_old_folder_with_times(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--model", "tiny", "--limit", "4", "--strategies", "divprune", "--budgets", "64,9"]
    assert CliRunner().invoke(app, ["compare", "--out", str(run), *options]).exit_code == 0
    first = (run / "report.html").read_text()
    assert "compare --strategies divprune --budgets 64,9 --limit 4 --model tiny" in first
    found = CliRunner().invoke(app, ["report", str(run), "--formats", "html", "--times", str(SPEED)])
    assert found.exit_code == 0, found.output
    data = json.loads(
        re.findall(r'<script id="data" type="application/json">(.*?)</script>', (run / "table.html").read_text())[0]
    )
    assert {row["strategy"] for row in data["rows"] if row["ms"] is not None} == {"full", "divprune"}
    assert "LayerSchedule" not in first
    assert "Strategy(scorer=None, selector=Greedy(objective=MaxMin(" in first  # what the row stood for


def test_the_page_of_an_old_folder_has_the_pictures_that_compare_drew(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--model", "tiny", "--limit", "4", "--strategies", "divprune", "--budgets", "9"]
    assert CliRunner().invoke(app, ["compare", "--out", str(run), *options]).exit_code == 0

    def section() -> str:
        made = CliRunner().invoke(app, ["report", str(run), "--formats", "html"])
        assert made.exit_code == 0, made.output
        return re.findall(r'<section id="examples">.*?</section>', (run / "table.html").read_text(), re.DOTALL)[0]

    assert "compare found none to draw" in section()  # random weights answer nothing
    lines = answers_in(run)
    picture = Image.new("RGB", (8, 8), "#0a7")
    assert keep_pictures(run, [("three <dogs>", picture)], lines) == [("three <dogs>", embedded(picture, "WEBP"))]
    assert "three &lt;dogs&gt;" in section()
    assert section().count(embedded(picture, "WEBP")) == 1
    assert "Pictures of examples" not in section()
    kept = (run / FILE).read_text()
    (run / FILE).write_text(kept.replace("data:image/webp", "https://elsewhere"))
    assert "is damaged" in section()
    assert "elsewhere" not in section()
    (run / FILE).write_text(kept.replace('"answers": "', '"answers": "0'))
    assert "answers changed after they were drawn" in section()
    assert "<img" not in section()
    (run / FILE).unlink()
    assert "none are kept beside the answers" in section()


def test_pictures_of_two_folders_are_shown_once_each(tmp_path: Path) -> None:
    line = {"strategy": "mine", "keep": 9, "draw": 0, "sample": "q", "correct": True}
    red, blue = (("c", Image.new("RGB", (4, 4), color)) for color in ("red", "blue"))
    for name, sheets in (("one", [red]), ("two", [red, blue])):
        (tmp_path / name).mkdir()
        keep_pictures(tmp_path / name, sheets, [line])
    (tmp_path / "three").mkdir()
    found = kept_pictures({tmp_path / name: [line] for name in ("one", "two", "three")})
    assert [address for _, address in found.examples] == [embedded(picture, "WEBP") for _, picture in (red, blue)]
    assert [why.split(":")[0] for why in found.absent] == ["three"]


def test_counts_that_rows_decide_themselves_are_told() -> None:
    found = {"n": 6, "mean": 7.25, "least": 3.0, "quarter": 5.0, "median": 7.0, "three_quarters": 9.0, "most": 12.0}
    kept = [{"strategy": "own-counts", "keep": 8, "by_task": {"all": found}}]
    text = report(summarize(answers()), {}, (), (), kept)
    assert "<td>own-counts</td><td>8</td><td>all</td>" in text
    assert "<td>7.2</td><td>3</td>" in text
    assert "How many tokens were kept" not in report(summarize(answers()), {})
