"""Scenes: the same everywhere, true to their pictures, balanced, and honest about what they cannot do."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tokenprune.cli import main
from tokenprune.core.errors import BudgetError, ConfigError, UnknownNameError
from tokenprune.data.scenes import QUESTION_FAMILIES, Question, Scene, export, samples, scene, subfamilies
from tokenprune.data.scenes.atlas import CATEGORIES
from tokenprune.data.scenes.draws import SPLITS, Draws, key_number

seeds = st.integers(0, 2**40)
scenes = st.builds(scene, seeds, st.integers(0, 2**20), st.sampled_from(sorted(SPLITS)))

IMAGES = ["90b5700d9dfed5b1", "ac6bda72a5a21576", "489e26168b462c89", "d54cfa12ff10de94"]
QUESTIONS = "8cb8000006dd8ea5"
DRAWS = [131, 153, 250, 647, 265, 759, 148, 901]


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


# ---- the same everywhere


def test_draws_are_frozen() -> None:
    draws = Draws(key_number("test", 0, 0, "example"))
    assert [draws.below(1000) for _ in range(8)] == DRAWS


def test_pictures_are_frozen() -> None:
    # a change here changes every published number: it needs a new measurement, not a new hash
    assert [digest(scene(0, i).image.tobytes()) for i in range(len(IMAGES))] == IMAGES


def test_questions_are_frozen() -> None:
    asked = [
        (q.family, q.subfamily, q.text, q.answer, q.choices, q.boxes) for i in range(20) for q in scene(0, i).questions
    ]
    assert digest(json.dumps(asked).encode()) == QUESTIONS


def test_a_scene_does_not_depend_on_what_was_drawn_before() -> None:
    first = scene(3, 5)
    first.image.load()
    scene(3, 6).image.load()
    again = scene(3, 5)
    assert first.questions == again.questions
    assert np.array_equal(first.painting.image, again.painting.image)


# ---- splits


@given(seeds, st.integers(0, 2**20), st.text(max_size=5))
def test_splits_never_share_a_generator(seed: int, index: int, purpose: str) -> None:
    numbers = {split: key_number(split, seed, index, purpose) for split in SPLITS}
    assert {split: number % len(SPLITS) for split, number in numbers.items()} == SPLITS


def test_splits_seeds_and_indices_give_different_layouts() -> None:
    arrangements = [scene(seed, i, split).arrangement for split in SPLITS for seed in range(3) for i in range(30)]
    assert len(set(map(repr, arrangements))) == len(arrangements)


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'tset'.*did you mean 'test'"):
        scene(0, 0, "tset")


# ---- pictures agree with their boxes


def overlap(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@given(scenes)
def test_nothing_overlaps_and_all_lies_inside(shown: Scene) -> None:
    boxes = [thing.box for thing in (*shown.objects, *shown.signs)]
    assert 1 <= len(shown.objects) <= 9
    assert len(shown.signs) <= 2
    assert all(0 <= x0 < x1 <= 336 and 0 <= y0 < y1 <= 336 for x0, y0, x1, y1 in boxes)
    assert not any(overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_painted_pixels_fill_their_boxes() -> None:
    for index in range(30):
        shown = scene(11, index)
        for i, thing in enumerate((*shown.objects, *shown.signs)):
            rows, columns = np.nonzero(shown.painting.owner == i + 1)
            x0, y0, x1, y1 = thing.box
            assert x0 <= columns.min()
            assert columns.max() < x1
            assert y0 <= rows.min()
            assert rows.max() < y1
            # a box is of the sprite's turned rectangle, whose corners may be empty: half of each side at least is used
            assert 2 * (columns.max() + 1 - columns.min()) > x1 - x0
            assert 2 * (rows.max() + 1 - rows.min()) > y1 - y0


def test_letters_lie_on_their_signs() -> None:
    shown = next(s for s in (scene(0, i) for i in range(100)) if len(s.signs) == 2)
    start = 1
    for sign in shown.signs:
        here = (shown.painting.letter >= start) & (shown.painting.letter < start + len(sign.text))
        rows, columns = np.nonzero(here)
        x0, y0, x1, y1 = sign.box
        assert len(rows) > 50
        assert x0 <= columns.min() <= columns.max() < x1
        assert y0 <= rows.min() <= rows.max() < y1
        start += len(sign.text)
    assert shown.painting.letter.max() == start - 1


# ---- answers, derived once more by other code: from the words of the question, names, colours and boxes alone

SINGULAR = {"fish": "fish", "sheep": "sheep", "leaves": "leaf"}


def singular(word: str) -> str:
    return SINGULAR.get(word) or re.sub("ie$", "y", word.removesuffix("s"))


def centre(box: tuple[int, int, int, int]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def only(things: list[tuple[str, tuple[int, int, int, int]]]) -> tuple[str, tuple[int, int, int, int]]:
    assert len(things) == 1
    return things[0]


def derive(shown: Scene, text: str) -> tuple[str, set[tuple[int, int, int, int]]]:
    """Answer and boxes."""
    counts = Counter(o.name for o in shown.objects)
    boxes: dict[str, list[tuple[int, int, int, int]]] = {}
    for thing in shown.objects:
        boxes.setdefault(thing.name, []).append(thing.box)
    say = {True: "Yes", False: "No"}
    numbers = {"one": 1, "two": 2, "three": 3, "four": 4}

    def color_of(name: str) -> tuple[str, tuple[int, int, int, int]]:
        if name == "sign":
            return only([(sign.color, sign.box) for sign in shown.signs])
        return only([(str(o.color), o.box) for o in shown.objects if o.name == name])

    def sign_of(words: str) -> tuple[str, tuple[int, int, int, int]]:
        color = words.removeprefix("the").removesuffix("sign").strip()
        return only([(sign.text, sign.box) for sign in shown.signs if color in ("", sign.color)])

    if m := re.fullmatch(r"Is there an? (\w+) in the (?:image|picture)\?", text):
        return say[counts[m[1]] > 0], set(boxes.get(m[1], ()))
    if m := re.fullmatch(r"What (?:color is|is the color of) the (\w+)\?", text):
        answer, box = color_of(m[1])
        return answer, {box}
    if m := re.fullmatch(r"(?:What is the (\w+) object|Which object is (\w+))\?", text):
        color = m[1] or m[2]
        assert color not in [sign.color for sign in shown.signs]
        answer, box = only([(o.name, o.box) for o in shown.objects if o.color == color])
        return answer, {box}
    if m := re.fullmatch(r"How many (\w+) are there in the image\?", text):
        name = singular(m[1])
        return next(word for word, n in numbers.items() if n == counts[name]), set(boxes[name])
    if m := re.fullmatch(r"Is there only one (\w+) in the image\?", text):
        return say[counts[m[1]] == 1], set(boxes[m[1]])
    if m := re.fullmatch(r"Are there (\w+) (\w+) in the image\?", text):
        name = singular(m[2])
        return say[counts[name] == numbers[m[1]]], set(boxes[name])
    if m := re.fullmatch(r"Is the (\w+) (to the left or right of|above or below) the (\w+)\?", text):
        a, b = (only([(n, box) for box in boxes[n]])[1] for n in (m[1], m[3]))
        (ax, ay), (bx, by) = centre(a), centre(b)
        if "left" in m[2]:
            assert abs(ax - bx) > 336 // 10
            return "left" if ax < bx else "right", {a, b}
        assert abs(ay - by) > 336 // 10
        return "above" if ay < by else "below", {a, b}
    if m := re.fullmatch(r"Is the (\w+) (to the left of|to the right of|above|below) the (\w+)\?", text):
        a, b = (only([(n, box) for box in boxes[n]])[1] for n in (m[1], m[3]))
        (ax, ay), (bx, by) = centre(a), centre(b)
        truth = {"to the left of": ax < bx, "to the right of": ax > bx, "above": ay < by, "below": ay > by}
        return say[truth[m[2]]], {a, b}
    if m := re.fullmatch(r"Which side of the image is the (\w+) on, left or right\?", text):
        box = only([(m[1], b) for b in boxes[m[1]]])[1]
        return "left" if centre(box)[0] < 168 else "right", {box}
    if m := re.fullmatch(r"Which half of the image is the (\w+) in, top or bottom\?", text):
        box = only([(m[1], b) for b in boxes[m[1]]])[1]
        return "top" if centre(box)[1] < 168 else "bottom", {box}
    if m := re.fullmatch(r"What (word|number) is on (the(?: \w+)? sign)\?", text):
        answer, box = sign_of(m[2])
        assert answer.isdigit() == (m[1] == "number")
        return answer, {box}
    if m := re.fullmatch(r"What does (the(?: \w+)? sign) say\?", text):
        answer, box = sign_of(m[1])
        return answer, {box}
    if m := re.fullmatch(r"Is the (?:word|number) on (the(?: \w+)? sign) (\w+)\?", text):
        answer, box = sign_of(m[1])
        return say[answer == m[2]], {box}
    if m := re.fullmatch(r"(.+\?) A\. (\w+) B\. (\w+) C\. (\w+) D\. (\w+)", text):
        return choose(shown, m[1], m.groups()[1:], color_of)
    m = re.fullmatch(r"Is the (\w+) (\w+)\?", text)
    assert m, text
    answer, box = color_of(m[1])
    return say[answer == m[2]], {box}


def choose(shown, question, options, color_of):  # type: ignore[no-untyped-def]
    names = [o.name for o in shown.objects]
    if question == "Which object is in the image?":
        right = [option in names for option in options]
        boxes = {o.box for o in shown.objects if o.name in options}
    elif m := re.fullmatch(r"What color is the (\w+)\?", question):
        answer, box = color_of(m[1])
        right, boxes = [option == answer for option in options], {box}
    else:
        m = re.fullmatch(r"Which one is an? (\w+)\?", question)
        assert m
        kinds = {c.name: c.kind for c in CATEGORIES}
        right, boxes = [kinds[option] == m[1] for option in options], set()
    assert sum(right) == 1
    assert len(set(options)) == 4
    return "ABCD"[right.index(True)], boxes


@given(scenes)
def test_answers_and_boxes_follow_from_the_scene(shown: Scene) -> None:
    for question in shown.questions:
        assert derive(shown, question.text) == (question.answer, set(question.boxes)), question


def test_every_sub_family_is_asked_and_checked() -> None:
    found: Counter[tuple[str, str]] = Counter()
    for index in range(60):
        shown = scene(21, index)
        for question in shown.questions:
            assert derive(shown, question.text) == (question.answer, set(question.boxes)), question
            found[question.family, question.subfamily] += 1
    assert set(found) == set(subfamilies())
    assert min(found.values()) > 10


def test_choices_hold_the_answer_and_open_questions_have_none() -> None:
    for sample in samples(n=340, seed=2):
        q: Question = sample.question
        assert q.binary == (q.family in ("pope", "mme"))
        assert bool(q.choices) == (q.family in ("pope", "mme", "scienceqa"))
        assert not q.choices or q.answer in q.choices


def test_yes_and_no_are_about_as_common_and_so_are_letters() -> None:
    answers: dict[str, Counter[str]] = {}
    for sample in samples(n=3400, seed=4):
        answers.setdefault(sample.question.family, Counter())[sample.question.answer] += 1
    for family, number in (("pope", 2), ("mme", 2), ("scienceqa", 4)):
        counts = answers[family]
        assert len(counts) == number
        # five standard deviations of a fair draw
        n = counts.total()
        assert all(abs(c - n / number) < 5 * (n / number) ** 0.5 for c in counts.values())


# ---- samples


@given(
    st.lists(st.sampled_from([*QUESTION_FAMILIES, "gqa/color", "textvqa/word"]), min_size=1), st.integers(1, 60), seeds
)
def test_samples_are_balanced_and_distinct(families: list[str], n: int, seed: int) -> None:
    found = samples(families, n, seed)
    wanted = subfamilies(families)
    counts = Counter((s.question.family, s.question.subfamily) for s in found)
    assert len(found) == len({s.id for s in found}) == n
    assert set(counts) <= set(wanted)
    assert max(counts.values()) - min(counts.get(pair, 0) for pair in wanted) <= 1
    assert max(Counter(s.scene for s in found).values()) <= 8


def test_a_sample_is_a_question_of_its_scene_and_scenes_are_shared() -> None:
    found = samples(n=100, seed=9)
    assert found == samples(n=100, seed=9)
    assert all(s.question in scene(9, s.scene).questions for s in found)
    assert len({s.scene for s in found}) < 25


def test_bad_requests_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"'gqa/colour'.*did you mean 'gqa/color'"):
        samples(["gqa/colour"], 5)
    with pytest.raises(BudgetError, match="n=0"):
        samples(n=0)
    with pytest.raises(BudgetError, match="0 sub-families"):
        samples([], 5)


# ---- export


def test_export_writes_an_image_folder(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    assert export(folder, 20, seed=1, families=["gqa", "pope"]) == len(list(folder.glob("*.png")))
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for row, sample in zip(rows, samples(["gqa", "pope"], 20, 1), strict=True):
        assert (row["id"], row["question"], row["answer"]) == (sample.id, sample.question.text, sample.question.answer)
        with Image.open(folder / row["file_name"]) as picture:
            assert np.array_equal(np.asarray(picture), scene(1, sample.scene).painting.image)


def test_export_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:  # type: ignore[type-arg]
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="not empty"):
        export(tmp_path, 5)
    monkeypatch.setattr("sys.argv", ["tokenprune", "scenes", "export", str(tmp_path / "new"), "--family", "popes"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "did you mean 'pope'" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.txt"]


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(ConfigError, match="/dev/null/scenes"):
        export("/dev/null/scenes", 5)
