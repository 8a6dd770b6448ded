"""Training clips: quickly painted and scaled, they are the clips of the benchmark."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from experiments.embedded import vocabulary
from experiments.embedded.batches import KINDS_OF_QUESTIONS, SUBFAMILIES, Album, Batch, Shown, write_benchmark_clip
from experiments.embedded.clips import MOTIONS, TOGETHER, backwards, clip_labels, painted, scaled_frames
from experiments.trainings.train import TEST_LENGTH, TRAIN_LENGTH
from tokenprune.data.scenes.clip_questions import CLIP_SUBFAMILIES, clip_questions
from tokenprune.data.scenes.video import FRAMES, Clip, clip

SEED = 77
SHOWN = Shown(frames=FRAMES, size=(224, 224))
PATCHES = SHOWN.patches * TOGETHER // FRAMES


def a_clip(event: str) -> Clip:
    return next(found for found in (clip(SEED, i, "train") for i in range(99)) if found.event == event)


def a_batch(length: int = TRAIN_LENGTH) -> Batch:
    return Batch.views(bytearray(Batch.nbytes(1, length, SHOWN)), 1, length, SHOWN)


def written(batch: Batch, index: int, album: Album) -> Batch:
    album.write(batch, 0, "train", SEED, index, [100] * len(SUBFAMILIES), SHOWN)
    return batch


@pytest.mark.parametrize("index", range(3))
def test_frames_are_those_of_the_clip_scaled(index: int) -> None:
    shown = clip(SEED, index, "train")
    found = scaled_frames(painted(shown), SHOWN.size)
    for frame, whole in zip(found, shown.frames, strict=True):
        assert (frame == np.asarray(whole.resize(SHOWN.size, Image.Resampling.BICUBIC))).all()


@pytest.mark.parametrize("event", ["appears", "disappears", "moves up", "moves right"])
def test_labels_say_where_the_actor_is_and_what_it_does(event: str) -> None:
    shown = a_clip(event)
    labels = {n: v.reshape(-1, PATCHES) for n, v in clip_labels(shown, painted(shown), SHOWN.size).items()}
    thing = next(o for a in shown.arrangements for o in a.objects if o.name == shown.actor)
    for pair in range(FRAMES // TOGETHER):
        there = [box is not None for box in shown.boxes[pair * TOGETHER : (pair + 1) * TOGETHER]]
        assert (thing.category + 1 in labels["objects"][pair]) <= any(there)
        motions = set(labels["motions"][pair]) - {0}
        if event.startswith("moves"):
            assert motions <= {MOTIONS.index(event) + 1}
        else:
            assert motions <= ({MOTIONS.index(event) + 1} if there[0] != there[1] else set())
    assert thing.category + 1 in labels["objects"]


def test_a_clip_that_is_shown_again_may_run_backwards() -> None:
    album, first, again = Album(uses=10**6, kept=1), a_batch(), a_batch()
    written(first, 3, album)
    seen = set()
    for number in range(12):
        written(again, number, album)
        back = (again.images[0, 0] != first.images[0, 0]).any()
        seen.add(bool(back))
        step = -1 if back else 1
        assert (again.images[0] == first.images[0, ::step]).all()
        labels = [batch.objects[0].reshape(-1, PATCHES) for batch in (again, first)]
        assert (labels[0] == labels[1][::step]).all()
    assert seen == {False, True}
    shown = a_clip("moves up")
    turned = backwards(shown)
    assert (turned.event, turned.boxes) == ("moves down", shown.boxes[::-1])
    assert backwards(turned).arrangements == shown.arrangements


def test_training_asks_what_happens_first_and_then_about_what_stays() -> None:
    batch = a_batch()
    for index in range(4):
        written(batch, index, Album())
        kinds = [KINDS_OF_QUESTIONS[kind] for kind in batch.kinds[0][batch.kinds[0] >= 0]]
        first = next(i for i, pair in enumerate([*kinds, ("gqa", "color")]) if pair not in CLIP_SUBFAMILIES)
        assert set(kinds[:first]) >= {("tgif", "event"), ("tgif", "action"), ("msvd", "actor")}
        named = vocabulary.ALL_ID[clip(SEED, index, "train").actor]
        assert named not in batch.tokens[0][batch.branch[0] >= first]


def test_tests_ask_what_the_benchmark_asks() -> None:
    batch = a_batch(TEST_LENGTH)
    write_benchmark_clip(batch, 0, "test", SEED, 5, SHOWN)
    kinds = [KINDS_OF_QUESTIONS[kind] for kind in batch.kinds[0][batch.kinds[0] >= 0]]
    assert kinds == [(q.family, q.subfamily) for q in clip_questions(clip(SEED, 5))]
