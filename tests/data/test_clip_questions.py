"""Questions about clips: their answers are what the frames show, and their words alone give none away."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.cli.data import DataOptions
from tokenprune.core.errors import BudgetError, ConfigError, UnknownNameError
from tokenprune.data.items import clip_items, painted_set
from tokenprune.data.scenes import CLIP_FAMILIES, Clip, clip, clip_questions, clip_samples
from tokenprune.data.scenes.clip_questions import CLIP_SUBFAMILIES
from tokenprune.data.scenes.world import NUMBERS, plural
from tokenprune.data.video import Video

clips = st.builds(clip, st.integers(0, 2**40), st.integers(0, 2**20))


def options_of(text: str) -> dict[str, str]:
    return dict(re.findall(r"([A-D])\. (the .+?)(?= [A-D]\.|$)", text))


@given(clips)
def test_answers_follow_from_the_frames(shown: Clip) -> None:
    asked = {q.subfamily: q for q in clip_questions(shown)}
    boxes = [box for box in shown.boxes if box]
    still = [thing for thing in shown.arrangements[0].objects if thing.name != shown.actor]
    actor = next(o for a in shown.arrangements for o in a.objects if o.name == shown.actor)
    assert options_of(asked["event"].text)[asked["event"].answer] == f"the {shown.actor} {shown.event}"
    assert asked["action"].answer == shown.event
    assert asked["actor"].answer == shown.actor
    assert ("direction" in asked) == shown.event.startswith("moves")
    assert "direction" not in asked or asked["direction"].answer == shown.event.split()[1]
    assert ("color" in asked) == (actor.color is not None)
    assert "color" not in asked or asked["color"].answer == actor.color
    if "count" in asked:
        many = Counter(plural(thing.name) for thing in still)
        counted = next(name for name in many if f" {name} " in asked["count"].text)
        assert NUMBERS[many[counted] - 1] == asked["count"].answer
    if "where" in asked and f" {shown.actor} " in asked["where"].text:
        # in every frame that shows it
        axis = "left right".split() if "side" in asked["where"].text else "top bottom".split()
        i = 0 if "side" in asked["where"].text else 1
        assert all(asked["where"].answer == axis[(box[i] + box[i + 2]) / 2 > 168] for box in boxes)


@given(clips)
def test_no_option_is_like_the_others_but_one(shown: Clip) -> None:
    """Each thing and each event is named twice, so that counting words is a guess among four."""
    (question,) = (q for q in clip_questions(shown) if q.subfamily == "event")
    pairs = [option.removeprefix("the ").split(" ", 1) for option in options_of(question.text).values()]
    assert len({tuple(pair) for pair in pairs}) == 4
    for part in zip(*pairs, strict=True):
        assert sorted(Counter(part).values()) == [2, 2]


def test_samples_are_balanced_and_resume_with_more() -> None:
    found = clip_samples(n=70, seed=3)
    counts = Counter((one.question.family, one.question.subfamily) for one in found)
    assert counts == dict.fromkeys(CLIP_SUBFAMILIES, 10)
    assert len({one.id for one in found}) == 70
    assert all(one.question.boxes is None for one in found)
    only = clip_samples(["tgif/direction", "msrvtt"], n=6)
    assert Counter(one.question.subfamily for one in only) == {"direction": 2, "count": 2, "where": 2}
    with pytest.raises(UnknownNameError, match="tgif"):
        clip_samples(["tgiff"])
    with pytest.raises(BudgetError, match="n=0"):
        clip_samples(n=0)


def test_one_is_no_good_guess_of_how_many() -> None:
    answers = Counter(one.question.answer for one in clip_samples(["msrvtt/count"], n=200))
    assert max(answers.values()) < 110


def test_items_show_videos_and_are_named_after_their_set() -> None:
    items = clip_items(["clips-msvd", "tgif"], 10, 5)
    assert {item.task for item in items} == {"clips-msvd", "clips-tgif"}
    shown = items[0].image()
    assert isinstance(shown, Video)
    assert (len(shown.frames), shown.fps) == (8, 2.0)
    assert shown is clip_items(["msvd"], 1, 5)[0].image()
    with pytest.raises(ConfigError, match="msvd"):
        clip_items(["msvdd"], 1, 0)
    assert painted_set("embedded-video") == "clips"
    assert painted_set("embedded") is None
    assert set(CLIP_FAMILIES) == {"tgif", "msvd", "msrvtt"}


def test_a_model_that_sees_clips_is_asked_about_them_where_nothing_else_is_said() -> None:
    assert DataOptions().of("embedded-video").data == "clips"
    assert DataOptions().of("embedded").data is None
    assert DataOptions("pope").of("embedded-video").data == "pope"
    asked = DataOptions("clips-msvd").questions(families=None, limit=6, seed=1)
    assert {item.task for item in asked.items} == {"clips-msvd"}
    assert asked.config["data"] == "clips"
    assert [item.id for item in asked.fewer(6)] == [item.id for item in asked.items]
    with pytest.raises(ConfigError, match="clips-msvd names one already"):
        DataOptions("clips-msvd").questions(families=["tgif"], limit=6, seed=1)
