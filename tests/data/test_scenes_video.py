"""Clips: what is said to happen is what the frames show."""

from __future__ import annotations

import hashlib
import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.data.scenes import VIDEO_SUBFAMILIES, Clip, clip

clips = st.builds(clip, st.integers(0, 2**40), st.integers(0, 2**20))
FIRST = "830152bab2f0c85e"


def happens(shown: Clip) -> str:
    """Derive the event from the actor's boxes alone."""
    there = [box is not None for box in shown.boxes]
    if not all(there):
        assert there == sorted(there, reverse=there[0])
        return "disappears" if there[0] else "appears"
    first, last = shown.boxes[0], shown.boxes[-1]
    assert first
    assert last
    dx, dy = last[0] - first[0], last[1] - first[1]
    assert max(abs(dx), abs(dy)) >= 336 // 7
    assert min(abs(dx), abs(dy)) <= 1
    return f"moves {('left' if dx < 0 else 'right') if abs(dx) > abs(dy) else ('up' if dy < 0 else 'down')}"


@given(clips)
def test_answers_follow_from_the_frames(shown: Clip) -> None:
    assert len(shown.arrangements) == len(shown.boxes) == 8
    assert happens(shown) == shown.event
    for arrangement, box in zip(shown.arrangements, shown.boxes, strict=True):
        assert [o.box for o in arrangement.objects if o.name == shown.actor] == ([box] if box else [])
    still = [[o for o in arrangement.objects if o.name != shown.actor] for arrangement in shown.arrangements]
    assert all(rest == still[0] for rest in still)
    for question in shown.questions:
        assert question.boxes == tuple(box for box in shown.boxes if box)
        if question.subfamily == "event":
            options = dict(re.findall(r"([A-D])\. (the .+?)(?= [A-D]\.|$)", question.text))
            assert len(set(options.values())) == 4
            assert options[question.answer] == f"the {shown.actor} {shown.event}"
        elif question.subfamily == "actor":
            assert question.text == f"Which object {shown.event.split()[0]} in the video?"
            assert question.answer == shown.actor
        else:
            assert question.answer == shown.event.split()[1]


@given(clips)
def test_nothing_overlaps(shown: Clip) -> None:
    for arrangement in shown.arrangements:
        boxes = [thing.box for thing in (*arrangement.objects, *arrangement.signs)]
        for i, a in enumerate(boxes):
            assert 0 <= a[0] < a[2] <= 336
            assert 0 <= a[1] < a[3] <= 336
            assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in boxes[:i])


def test_frames_differ_only_where_the_actor_is() -> None:
    for index in range(6):
        shown = clip(5, index)
        first = shown.paintings[0].image
        allowed = np.zeros(first.shape[:2], bool)
        for box in filter(None, shown.boxes):
            allowed[max(box[1] - 1, 0) : box[3] + 1, max(box[0] - 1, 0) : box[2] + 1] = True
        changed = np.zeros_like(allowed)
        for painting in shown.paintings[1:]:
            changed |= (painting.image != first).any(-1)
        assert changed.any()
        assert not (changed & ~allowed).any()


def test_every_kind_of_question_is_asked_and_clips_are_frozen() -> None:
    shown = [clip(0, i) for i in range(30)]
    assert {q.subfamily for c in shown for q in c.questions} == set(VIDEO_SUBFAMILIES)
    assert len({c.event for c in shown}) == 6
    data = b"".join(frame.tobytes() for frame in shown[0].frames)
    assert hashlib.blake2b(data, digest_size=8).hexdigest() == FIRST
