"""The model that sees clips: its folder, its processor, and what it answers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import tokenprune as tp
from experiments.embedded import vocabulary
from experiments.embedded.batches import Shown
from experiments.embedded.clips import painted, scaled_frames
from experiments.trainings.network import Seen, patches_of
from tokenprune.core.errors import UnsupportedError
from tokenprune.data.items import Item, clip_items, notes_on
from tokenprune.data.scenes import CLIP_FAMILIES, clip, clip_samples, scene
from tokenprune.hf.chat import prompt_inputs
from tokenprune.zoo import embedded_video
from tokenprune.zoo.loading import load_model

SEED = 78
SHOWN = Shown(frames=8, size=(224, 224))


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return load_model("embedded-video")


def said(loaded: Any, items: list[Item], videos: list[Any]) -> list[str]:
    model, processor = loaded
    inputs = prompt_inputs(processor, videos, [item.question.prompt for item in items])
    out = model.generate(**inputs, max_new_tokens=6)
    return processor.tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


# ---- the package


def test_the_folder_is_small_and_published_with_its_numbers() -> None:
    folder = embedded_video.path()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 25e6
    found = json.loads((folder / "clips.json").read_text())
    card = (folder / "README.md").read_text()
    right, blind = found["accuracy"]["clips"], found["wrong image"]["clips"]
    assert set(right) == {f"{family}/{sub}" for family, subs in CLIP_FAMILIES.items() for sub in subs}
    assert min(right.values()) >= 0.85
    assert min(found["questions"]["clips"].values()) > 1000
    # with another clip: one event of six, one option or way of four, one half of two
    most = {"event": 0.4, "action": 0.35, "direction": 0.4, "actor": 0.1, "color": 0.25, "count": 0.6, "where": 0.6}
    assert all(blind[name] < most[name.split("/")[1]] for name in blind)
    for name, share in right.items():
        assert f"| clips | {name} | {100 * share:.1f} |" in card


def test_a_missing_model_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(embedded_video, "path", lambda: tmp_path)
    with pytest.raises(UnsupportedError, match="holds no weights"):
        embedded_video.load()
    assert notes_on("embedded-video") == []


# ---- the processor


def test_the_processor_makes_what_training_made(loaded: Any) -> None:
    processor, item = loaded[1], clip_items(None, 1, SEED)[0]
    inputs = prompt_inputs(processor, [item.image()], [item.question.prompt])
    seen = Seen(SHOWN)
    frames = torch.from_numpy(scaled_frames(painted(clip(SEED, 0)), SHOWN.size))
    trained = patches_of(frames[None], seen.tensors("cpu"), torch.float32)[0].flatten(0, 1)
    assert torch.allclose(inputs["pixel_values_videos"], trained, atol=1e-5)
    assert inputs["video_grid_thw"].tolist() == [[4, 16, 16]]
    assert inputs["input_ids"][0, : seen.start].tolist() == seen.context[0].tolist()
    assert inputs["input_ids"][0, seen.start :].tolist() == vocabulary.encode(f"{item.question.text} ASSISTANT:")


def test_frames_are_read_by_twos_whatever_is_known_of_them(loaded: Any) -> None:
    processor, frames = loaded[1], np.stack([np.asarray(f) for f in clip(SEED, 1).frames])
    odd = processor.video_processor([frames[:5]])
    assert odd["video_grid_thw"].tolist() == [[3, 16, 16]]
    # the last frame stands for the one that is missing
    assert torch.equal(
        odd["pixel_values_videos"][:512], processor.video_processor([frames])["pixel_values_videos"][:512]
    )
    halves = odd["pixel_values_videos"][512:].view(256, 3, 2, -1)
    assert torch.equal(halves[:, :, 0], halves[:, :, 1])
    assert odd["video_metadata"][0].fps == 2
    known = processor.video_processor([frames], video_metadata=[{"fps": 4.0, "frames_indices": list(range(0, 16, 2))}])
    assert known["video_metadata"][0].timestamps[1] == 0.5


def test_every_word_of_every_question_is_known(loaded: Any) -> None:
    tokenizer = loaded[1].tokenizer
    for sample in clip_samples(n=140, seed=SEED):
        for text in (sample.question.text, sample.question.answer):
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert tokenizer.unk_token_id not in ids
            assert ids == vocabulary.encode(text)


# ---- what it answers


def test_it_sees_clips_and_says_what_teacher_forcing_says(loaded: Any) -> None:
    items = clip_items(None, 7, SEED)
    shown = {item.image_id: item.image() for item in items}
    names = list(shown)
    other = {name: shown[names[i - 1]] for i, name in enumerate(names)}
    right = said(loaded, items, [shown[item.image_id] for item in items])
    wrong = said(loaded, items, [other[item.image_id] for item in items])
    answers = [item.question.answer for item in items]
    assert sum(a == b for a, b in zip(right, answers, strict=True)) >= 6
    assert sum(a == b for a, b in zip(wrong, answers, strict=True)) <= 5
    # and so does the model that reads the answer together with the question
    model, processor = loaded
    inputs = prompt_inputs(
        processor, [shown[item.image_id] for item in items[:3]], [i.question.prompt for i in items[:3]]
    )
    out = model.generate(**inputs, max_new_tokens=4)
    more = out.shape[1] - inputs["input_ids"].shape[1]
    mask = torch.cat([inputs["attention_mask"], torch.ones(3, more, dtype=torch.long)], 1)
    types = torch.cat([inputs["mm_token_type_ids"], torch.zeros(3, more, dtype=torch.long)], 1)
    given = {name: inputs[name] for name in ("pixel_values_videos", "video_grid_thw")}
    with torch.no_grad():
        forced = model(input_ids=out, attention_mask=mask, mm_token_type_ids=types, **given).logits[:, -more - 1 : -1]
    told = out[:, -more:] != processor.tokenizer.pad_token_id
    assert torch.equal(forced.argmax(-1)[told], out[:, -more:][told])


def test_answers_end_when_little_of_a_clip_is_left(loaded: Any) -> None:
    model, processor = loaded
    items = clip_items(None, 4, SEED)
    inputs = prompt_inputs(processor, [item.image() for item in items], [item.question.prompt for item in items])
    for keep in (2, 28):
        with tp.attach(model, "random", keep=keep, processor=processor):
            out = model.generate(**inputs, max_new_tokens=6)
        texts = processor.tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert all(1 <= len(text.split()) <= 2 for text in texts), texts


def test_it_still_reads_pictures(loaded: Any) -> None:
    model, processor = loaded
    shown = scene(SEED, 0)
    inputs = prompt_inputs(processor, [shown.image], [shown.questions[0].text])
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 144
    out = model.generate(**inputs, max_new_tokens=3)
    assert processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
