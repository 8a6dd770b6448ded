"""Videos: frames evenly spread, from files as a decoder gives them, from folders, and as questions of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.own_data import Write
from tokenprune.core.errors import ConfigError, UnsupportedError
from tokenprune.data.own import BENCHMARKS, load_data
from tokenprune.data.scenes.video import clip
from tokenprune.data.video import Video, open_video, spread
from tokenprune.evaluation.compare import comparison
from tokenprune.hf.chat import prompt_inputs
from tokenprune.results.lines import ANSWERS, read_results
from tokenprune.zoo.tiny import tiny_llava, tiny_model, tiny_processor


def write_video(path: Path, n: int = 20, rate: int = 10, size: tuple[int, int] = (64, 48)) -> Path:
    """Frame i is a red of 10 i."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(n):
            frame = av.VideoFrame.from_image(Image.new("RGB", size, (10 * i, 0, 0)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def reds(video: Video) -> list[float]:
    return [float(np.asarray(frame)[..., 0].mean()) for frame in video.frames]


@given(st.integers(1, 500), st.integers(1, 64))
def test_frames_are_spread_from_the_first_to_the_last(total: int, count: int) -> None:
    found = spread(total, count)
    assert len(found) == count
    assert found == tuple(sorted(found))
    assert found[0] == 0
    if count > 1:
        assert found[-1] == total - 1
        # what harnesses take: numpy.linspace(0, total - 1, count, dtype=int)
        assert list(found) == np.linspace(0, total - 1, count, dtype=int).tolist()
    if total >= count:
        assert len(set(found)) == count
    assert spread(total, count, repeat=False) == (found if total >= count else tuple(range(total)))


def test_a_file_gives_the_frames_that_it_holds(tmp_path: Path) -> None:
    found = open_video(write_video(tmp_path / "v.mp4"))
    assert (found.total, found.fps, found.indices) == (20, 10.0, spread(20, 8))
    assert reds(found) == pytest.approx([10 * i for i in found.indices], abs=4)
    short = open_video(write_video(tmp_path / "s.avi", n=3), 8)
    assert (short.total, len(short.frames)) == (3, 8)
    assert reds(short) == pytest.approx([10 * i for i in short.indices], abs=4)
    once = open_video(tmp_path / "s.avi", 8, repeat=False)
    assert (once.total, once.indices) == (3, (0, 1, 2))
    assert reds(once) == pytest.approx([0, 10, 20], abs=4)


def test_a_video_that_was_cut_off_is_refused_or_gives_what_is_there(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", n=24)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ConfigError, match=r"v\.avi' cannot be read"):
        open_video(path)
    path = write_video(tmp_path / "v.mkv", n=24, size=(320, 240))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    found = open_video(path)
    assert 0 < found.total < 24
    assert reds(found) == pytest.approx([10 * i for i in found.indices], abs=4)


def test_a_folder_of_frames_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for i in range(12):
        Image.new("RGB", (8, 8), (10 * i, 0, 0)).save(tmp_path / f"frame_{i}.png")
    found = open_video(tmp_path, 4)
    assert reds(found) == [10 * i for i in spread(12, 4)]
    assert found.fps is None
    Image.new("RGB", (9, 8)).save(tmp_path / "frame_11.png")
    with pytest.raises(ConfigError, match="different sizes"):
        open_video(tmp_path, 4)


def test_what_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        open_video(tmp_path / "gone.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    with pytest.raises(ConfigError, match=r"bad\.mp4' cannot be read"):
        open_video(tmp_path / "bad.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no pictures"):
        open_video(tmp_path / "empty")


def test_a_processor_shows_the_frames_that_were_chosen(tmp_path: Path) -> None:
    processor = tiny_processor("video_llava")
    videos = [open_video(write_video(tmp_path / f"{n}.mp4", n=n)) for n in (9, 20)]
    inputs = prompt_inputs(processor, videos, ["what is it ?", "what color is the dog in the picture ?"])
    assert inputs["pixel_values_videos"].shape[:3] == (2, 8, 3)
    for video, pixels in zip(videos, inputs["pixel_values_videos"], strict=True):
        alone = processor.image_processor(images=list(video.frames), return_tensors="pt")
        assert torch.equal(pixels, next(iter(alone.values())))
    ids = inputs["input_ids"]
    assert (ids == processor.tokenizer.convert_tokens_to_ids("<video>")).sum(1).tolist()[0] > 0
    with pytest.raises(ConfigError, match="cannot be asked at once"):
        prompt_inputs(processor, [videos[0], Image.new("RGB", (8, 8))], ["a", "b"])


@pytest.fixture
def clips(table: Write, tmp_path: Path) -> Path:
    """Questions about three clips: a file, a folder of frames, and a list of frames."""
    write_video(tmp_path / "a.mp4")
    shown = clip(0, 1)
    (tmp_path / "b").mkdir()
    for i, frame in enumerate(shown.frames):
        frame.save(tmp_path / "b" / f"{i}.png")
    frames = [f"b/{i}.png" for i in range(8)]
    rows = [
        {"id": "1", "video": "a.mp4", "question": "what is it ?", "answer": "a dog"},
        {"id": "2", "video": "b", "question": "what moves ?", "answer": "a cat"},
        {"id": "3", "video": frames, "question": "is there a dog ?", "answer": "no"},
    ]
    return table(rows)


def test_videos_are_asked_about(clips: Path, tmp_path: Path) -> None:
    """A budget is that of a whole video; every video strategy runs; rows say what is left."""
    data = load_data(clips)
    assert data.asked["frames"] == 8
    assert [item.image_id for item in data.items] == ["a.mp4", "b", "+".join(f"b/{i}.png" for i in range(8))]
    assert data.items[1].image().frames[0].tobytes() == data.items[2].image().frames[0].tobytes()
    model = (tiny_model("video_llava"), tiny_processor("video_llava"))
    names = ["mi-pruner", "vispruner", "fastv"]
    notes: list[str] = []
    comparison(
        *model, data.items, tmp_path / "o", {}, strategies=names, budgets=[10], max_new_tokens=2, note=notes.append
    )
    lines = read_results(tmp_path / "o", ANSWERS)
    left = {(line["strategy"], line["tokens"]) for line in lines}
    assert {name: n for name, n in left if name not in ("full", "wrong image")} == {
        "random": 10, "mi-pruner": 10, "vispruner": 10, "fastv": 10,
    }  # fmt: skip
    assert ("full", 8 * tiny_side() ** 2) in left
    # alone or together, a question is answered alike
    comparison(
        *model, data.items, tmp_path / "one", {}, strategies=names, budgets=[10], max_new_tokens=2, batch_size=1,
        note=notes.append,
    )  # fmt: skip
    alone = {(r["strategy"], r["draw"], r["sample"]): r["prediction"] for r in read_results(tmp_path / "one", ANSWERS)}
    assert alone == {(r["strategy"], r["draw"], r["sample"]): r["prediction"] for r in lines}


def tiny_side() -> int:
    config = tiny_model("video_llava").config.vision_config
    side: int = config.image_size // config.patch_size
    return side


def test_a_model_of_pictures_says_so(clips: Path, tmp_path: Path) -> None:
    items = load_data(clips).items
    with pytest.raises(UnsupportedError, match="reads no videos"):
        comparison(tiny_llava(side=6), tiny_processor(side=6), items, tmp_path / "o", {}, strategies=["random"])


def test_unreadable_videos_are_listed_with_their_lines(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"mine\.jsonl:1: video '.*a\.mp4' cannot be read"):
        load_data(clips)
    assert [item.id for item in load_data(clips, skip_unreadable=True).items] == ["2", "3"]


def test_the_layout_of_the_video_sets(tmp_path: Path) -> None:
    """test_q.json and test_a.json joined; videos without ending, in a folder of their own; the first 1,000."""
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "v1.avi")
    asked = [{"video_name": "v1", "question_id": f"v1_{i}", "question": f"what {i} ?"} for i in range(3)]
    told: list[dict[str, Any]] = [{"answer": f"dog {i}", "question_id": f"v1_{i}", "type": 2} for i in (2, 0, 1)]
    (tmp_path / "test_q.json").write_text(json.dumps(asked))
    (tmp_path / "test_a.json").write_text(json.dumps(told))
    one = BENCHMARKS["msvd-qa"]
    found = load_data(tmp_path, name=one.name, metric=one.metric, prompts=one.prompts)
    assert [(i.id, i.question.answer, i.question.metric) for i in found.items] == [
        (f"v1_{n}", f"dog {n}", "judge-match") for n in range(3)
    ]
    assert {item.image_id for item in found.items} == {"videos/v1.avi"}
    assert one.limit == 1000
    (tmp_path / "test_a.json").write_text(json.dumps(told[:2]))
    with pytest.raises(ConfigError, match=r"test_q\.json:2: .*no answer to question_id 'v1_1'"):
        load_data(tmp_path)
