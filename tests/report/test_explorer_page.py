"""The page in a JavaScript engine, its words as data, and the command that writes it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.explorer import QUESTION, STRATEGIES, Engine
from tokenprune.cli import app
from tokenprune.core.errors import TokenPruneError
from tokenprune.report.explorer import Exploration, explorer_page
from tokenprune.report.explorer.gather import Word
from tokenprune.report.explorer.page import as_data
from tokenprune.zoo.tiny import picture

CARD = "document.getElementById('strategies').children"


def test_numbers_arrive_as_they_were(logic: Engine, explored: Exploration) -> None:
    assert logic.value("p.pmi") == explored.pmi.flatten().tolist()
    assert logic.value("Logic.numbers('AACAPwAAgL8AAIB/')") == [1.0, -1.0, "Infinity"]


def test_the_slider_moves_every_strategy(shown: Engine) -> None:
    for budget in (1, 9, 36):
        shown.run(f"document.getElementById('budget').value = {budget}")
        shown.run("document.getElementById('budget').fire('input')")
        assert shown.text("shown-budget") == f"{budget} of 36"
        kept = {name: shown.value(f"{CARD}[{i}].dataset") for i, name in enumerate(STRATEGIES)}
        assert int(kept["mi-pruner"]["kept"]) == budget
        assert all(int(told["kept"]) <= budget or name in ("sparsevlm", "apet") for name, told in kept.items())
    assert "answered with all tokens" in str(shown.run(f"{CARD}[0].textContent"))


def test_a_word_shows_where_it_is(shown: Engine) -> None:
    shown.run(
        "var dog = document.getElementById('prompt').querySelectorAll().find((w) => w.textContent.trim() === 'dog')"
    )
    before = shown.value("document.getElementById('picture').log.filter((c) => c[0] === 'fillRect').length")
    shown.run("dog.fire('pointerenter')")
    assert "“dog”" in shown.text("legend")
    assert "says most about" in shown.text("details")
    painted = shown.value("document.getElementById('picture').log.filter((c) => c[0] === 'fillRect').length")
    assert painted - before == 36
    shown.run("dog.fire('pointerleave')")
    assert "as the model saw it" in shown.text("legend")


def test_a_patch_shows_words_and_what_makes_it_redundant(shown: Engine) -> None:
    shown.run("document.getElementById('picture').fire('pointermove', {clientX: 479, clientY: 1})")
    told = shown.text("details")
    assert "row 1, column 6" in told
    assert "Speaks to" in told
    assert all(name in told for name in STRATEGIES)
    assert "self-PMI" in told
    colours = "document.getElementById('prompt').querySelectorAll().map((w) => w.style.background)"
    assert all(colour.startswith("rgb(") for colour in shown.value(colours))
    shown.run("document.getElementById('picture').fire('pointerleave')")
    assert set(shown.value(colours)) == {""}


def test_keys_move_and_hold_a_patch(shown: Engine) -> None:
    press = "document.getElementById('picture').fire('keydown', {{key: '{}'}})"
    shown.run(press.format("ArrowRight"))
    assert "row 4, column 5" in shown.text("details")
    shown.run(press.format("Enter"))
    shown.run("document.getElementById('picture').fire('pointerleave')")
    assert "row 4, column 5" in shown.text("details")
    shown.run("listeners.keydown.forEach((call) => call({key: 'Escape'}))")
    assert "Point at" in shown.text("details")


def test_replay_goes_from_one_to_all_and_stops(shown: Engine) -> None:
    shown.run("document.getElementById('budget').value = 36; document.getElementById('budget').fire('input')")
    shown.run("document.getElementById('play').fire('click')")
    seen = []
    while shown.value("ticking !== null") and len(seen) < 500:
        shown.run("ticking()")
        seen.append(int(shown.text("shown-budget").split()[0]))
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (2, 36)
    assert len(seen) < 500


@pytest.mark.parametrize("heat", ["none", "score", "redundancy", "order", "map 0", "map 1"])
def test_every_colouring_draws(heat: str, shown: Engine) -> None:
    shown.run(f"document.getElementById('heat').value = {json.dumps(heat)}")
    shown.run("document.getElementById('heat').fire('change')")
    text = str(shown.run(f"{CARD}[0].textContent"))
    assert ("as the strategy charges for it" in text) == (heat == "redundancy")
    assert "NaN" not in text
    assert "undefined" not in text


def test_cards_say_how_far_from_the_best_the_picks_may_be(shown: Engine, explored: Exploration) -> None:
    """At marked budgets, where a bound is known, never more than what is certain."""
    shown.run("document.getElementById('budget').value = 9; document.getElementById('budget').fire('input')")
    bounded = []
    for i, sweep in enumerate(explored.sweeps):
        text = str(shown.run(f"{CARD}[{i}].textContent"))
        told = re.search(r"picks at 9 tokens reach at least (\d+) % of the best", text)
        assert (told is not None) == (9 in sweep.certain)
        if told is not None:
            assert int(told[1]) <= 100 * sweep.certain[9] + 1e-6 < int(told[1]) + 1 + 1e-6
            bounded.append(STRATEGIES[i])
    assert bounded == ["mi-pruner", "divprune", "random:seed=3"]
    assert all(set(sweep.certain) in (set(), {20, 9, 4}) for sweep in explored.sweeps)
    farthest = explored.sweeps[1].certain
    assert all(0.45 <= share <= 1 for share in farthest.values())  # half of it, less what rounding may hide


def test_notes_and_facts_are_on_the_page(shown: Engine) -> None:
    assert shown.text("notes") == "random weights"
    assert "tiny" in str(shown.run("document.getElementById('facts').querySelector('table').textContent"))


def test_words_from_outside_stay_words(explored: Exploration, engine: Engine) -> None:
    nasty = "</script><img src=x onerror=alert(1)>"
    bad = replace(explored, name=nasty, question=nasty, words=(Word(nasty, (0,)), *explored.words[1:]))
    html = explorer_page([bad], {nasty: nasty}, [nasty])
    assert "<img" not in html
    assert html.count("</script>") == 2
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])["pictures"][0]["question"] == nasty
    engine.show(json.loads(data[1]))  # the document refuses markup
    assert engine.text("name") == nasty


def test_the_page_fetches_nothing(explored: Exploration) -> None:
    html = explorer_page([explored], {})
    assert "default-src 'none'" in html
    assert not re.search(r'(src|href)\s*=\s*["\']?https?:|@import|fetch\(|XMLHttpRequest', html)
    assert len(html) < 3 * 2**20


def test_every_picture_of_a_folder_is_on_the_page(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    model, pictures = tmp_path / "model", tmp_path / "pictures"
    for part in tiny:
        part.save_pretrained(model)
    pictures.mkdir()
    for i, side in enumerate((60, 90)):
        picture(size=side).save(pictures / f"{i}.png")
    (pictures / "notes.txt").write_text("no picture")
    out = tmp_path / "page.html"
    words = ["explore", str(pictures), QUESTION, "--model", str(model), "--budgets", "9", "--out", str(out)]
    done = CliRunner().invoke(app, [*words, "--strategies", "mi-pruner:lam=0.3"])
    assert done.exit_code == 0, done.output
    data = json.loads(re.findall(r'application/json">(.*?)</script>', out.read_text(encoding="utf-8"), re.DOTALL)[0])
    assert [one["name"] for one in data["pictures"]] == ["0.png", "1.png"]
    assert data["pictures"][0]["strategies"][0]["name"] == "mi-pruner:lam=0.3"
    assert dict(data["facts"])["command"].startswith("tokenprune explore pictures 'what color")
    engine = Engine()
    engine.show(data)
    engine.run("document.getElementById('pictures').value = 1; document.getElementById('pictures').fire('change')")
    assert engine.text("name") == "1.png"


def test_a_scene_tells_whether_answers_are_right(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    for part in tiny:
        part.save_pretrained(tmp_path)
    out = tmp_path / "page.html"
    words = ["explore", "scene:0/27", "gqa/count", "--model", str(tmp_path), "--budgets", "9", "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    data = json.loads(re.findall(r'application/json">(.*?)</script>', out.read_text(encoding="utf-8"), re.DOTALL)[0])
    [one] = data["pictures"]
    assert one["expected"] == "three"
    assert len(one["boxes"]) == 3
    assert one["full"]["right"] in (True, False)
    assert {strategy["name"] for strategy in one["strategies"]} >= {"mi-pruner", "random"}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["."], "holds no picture"),
        (["missing.png", QUESTION], "missing.png"),
        (["scene:0/27", "--out", "page.png"], ".html"),
        (["scene:0/27", "--out", "nowhere/page.html"], "does not exist"),
        (["scene:0/27", "--strategies", "mi-prunner"], "mi-pruner"),
        (["scene:0/27", "--budgets", "many"], "--budgets"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(
    words: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["explore", *words, "--model", "no-such-model"])
    assert isinstance(done.exception, TokenPruneError)
    assert complaint in str(done.exception)


def test_data_is_json(explored: Exploration) -> None:
    json.dumps(as_data(explored), allow_nan=False)
