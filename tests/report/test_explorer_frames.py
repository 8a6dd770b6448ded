"""The explorer on videos and on pictures in tiles: each frame and tile as what it is."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.support.explorer import Engine
from tokenprune.cli import app
from tokenprune.core.errors import ConfigError, TokenPruneError, UnsupportedError
from tokenprune.core.features import Grid
from tokenprune.data.video import is_animated, open_video
from tokenprune.report import seen as seeing
from tokenprune.report.explorer import Exploration, explore
from tokenprune.report.explorer.page import as_data
from tokenprune.report.overlay import dimmed
from tokenprune.report.seen import Panel, see_picture, see_video
from tokenprune.zoo import loading
from tokenprune.zoo.tiny import picture, tiny_inputs, tiny_llava, tiny_model, tiny_processor

QUESTION = "what color is the dog ?"
CARD = "document.getElementById('strategies').children"


def film(count: int, size: int = 32) -> list[Image.Image]:
    return [Image.fromarray(np.full((size, size, 3), 40 * i, np.uint8)) for i in range(count)]


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a video processor returns: the stock ones need torchvision, which these tests run without."""
    monkeypatch.setattr(seeing, "prompt_inputs", lambda processor, videos, questions: tiny_inputs("qwen2_vl", "video"))


@pytest.fixture
def video(prepared: None) -> Exploration:
    model, processor = tiny_model("qwen2_vl"), tiny_processor("qwen2_vl")
    return explore(model, processor, film(6), QUESTION, ["mi-pruner", "divprune", "vidcom2", "fastv"], [9, 4])


def test_frames_stand_side_by_side_and_hold_all_tokens(video: Exploration) -> None:
    assert video.kind == "video"
    assert [(panel.grid, panel.name) for panel in video.panels] == [(Grid(3, 2), f"frame {i}") for i in (1, 2, 3)]
    assert video.pmi.shape[0] == 18 == sum(panel.grid.size for panel in video.panels)
    lefts = [panel.area[0] for panel in video.panels]
    assert lefts == sorted(lefts)
    # two frames that the camera saw make one: each pair's first is shown
    shown = video.looked.picture
    middles = [
        shown.getpixel((int((a[0] + a[2]) / 2 * shown.width), shown.height // 2))
        for a in (p.area for p in video.panels)
    ]
    assert middles == [(40 * i,) * 3 for i in (0, 2, 4)]


def test_what_is_kept_of_a_video_is_what_generate_keeps(video: Exploration) -> None:
    for sweep in video.sweeps:
        for view in sweep.views:
            kept = (
                sweep.order[: view.keep] if sweep.order else next(f.order for f in sweep.frames if f.keep == view.keep)
            )
            assert set(kept) == set(view.kept), (sweep.strategy.name, view.keep)


def test_the_page_shows_a_film_strip(engine: Engine, video: Exploration) -> None:
    engine.show({"pictures": [as_data(video)], "facts": [], "notes": []})
    assert "frames that the model saw" in engine.text("legend")
    canvas = "document.getElementById('picture')"
    for i, panel in enumerate(video.panels, 1):
        x, y = 0.2 * panel.area[0] + 0.8 * panel.area[2], panel.area[3] - 0.01
        at = f"{{clientX: {x} * {canvas}.width, clientY: {y} * {canvas}.height}}"
        engine.run(f"{canvas}.fire('pointermove', {at})")
        assert f"frame {i}, row 3, column 2" in engine.text("details")
    gap = (video.panels[0].area[2] + video.panels[1].area[0]) / 2
    engine.run(f"{canvas}.fire('pointermove', {{clientX: {gap} * {canvas}.width, clientY: 1}})")
    assert "Point at" in engine.text("details")
    engine.run("document.getElementById('budget').value = 4; document.getElementById('budget').fire('input')")
    assert engine.value(f"{CARD}[0].dataset.kept") == 4


def test_arrow_keys_go_from_frame_to_frame(engine: Engine, video: Exploration) -> None:
    engine.show({"pictures": [as_data(video)], "facts": [], "notes": []})
    press = "document.getElementById('picture').fire('keydown', {key: 'ArrowRight'})"
    engine.run(press)
    engine.run(press)
    assert "frame 2, row 2, column 2" in engine.text("details")
    engine.run(press + "; " + press + "; " + press + "; " + press)
    assert "frame 3, row 2, column 2" in engine.text("details")  # and no further


@pytest.mark.parametrize("family", ["idefics3", "internvl", "smolvlm"])
def test_tiles_are_seen_as_tiles(family: str) -> None:
    model, processor = tiny_model(family), tiny_processor(family)
    found = explore(model, processor, picture(size=96).resize((128, 64)), "how many ?", ["mi-pruner", "divprune"], [9])
    assert found.kind == "tiles"
    assert len({panel.area for panel in found.panels}) == len(found.panels) > 1
    for sweep in found.sweeps:
        [view] = sweep.views
        assert set(sweep.order[:9]) == set(view.kept)


def test_every_tile_is_what_the_encoder_got() -> None:
    model, processor = tiny_model("idefics3"), tiny_processor("idefics3")
    seen = see_picture(model, processor, picture(size=90), "how many ?")
    pixels = seen.inputs["pixel_values"][0]
    steps = processor.image_processor
    mean, std = np.array(steps.image_mean).reshape(3, 1, 1), np.array(steps.image_std).reshape(3, 1, 1)
    for tile, panel in zip(pixels, seen.panels, strict=True):
        x0, y0, x1, y1 = (round(edge * seen.picture.size[i % 2]) for i, edge in enumerate(panel.area))
        drawn = np.asarray(seen.picture.crop((x0, y0, x1, y1))).transpose(2, 0, 1) / 255
        assert np.abs((drawn - mean) / std - tile.numpy()).max() < 1 / 255 / std.min()


def test_patches_fade_in_their_own_frame() -> None:
    panels = [Panel(Grid(1, 1), (0, 0, 0.5, 1), "frame 1"), Panel(Grid(1, 1), (0.5, 0, 1, 1), "frame 2")]
    drawn = np.asarray(dimmed(Image.new("RGB", (20, 10)), [1], panels, side=20))
    assert drawn[:, :10].min() > 0
    assert drawn[:, 10:].max() == 0


def test_a_video_of_a_model_that_reads_none_is_refused() -> None:
    model, processor = tiny_llava(side=6), tiny_processor(side=6)
    with pytest.raises(UnsupportedError, match="reads no videos"):
        see_video(model, processor, film(3), QUESTION)
    with pytest.raises(ConfigError, match=r"frames of one size.*32 x 32, 48 x 48"):
        see_video(model, processor, [*film(2), *film(1, 48)], QUESTION)
    with pytest.raises(ConfigError, match="none"):
        see_video(model, processor, [], QUESTION)


def test_frames_are_taken_at_equal_distances(tmp_path: Path) -> None:
    file = tmp_path / "film.gif"
    first, *rest = film(6)
    first.save(file, save_all=True, append_images=rest, duration=100)
    assert is_animated(file)
    found = open_video(file, 3)
    assert [frame.getpixel((0, 0)) for frame in found.frames] == [(0, 0, 0), (80, 80, 80), (200, 200, 200)]
    assert (found.indices, found.total, found.fps) == ((0, 2, 5), 6, 10.0)
    assert open_video(file, 9, repeat=False).indices == (0, 1, 2, 3, 4, 5)
    picture().save(tmp_path / "still.png")
    assert not is_animated(tmp_path / "still.png")


@pytest.mark.usefixtures("prepared")
def test_the_command_takes_a_folder_of_frames_and_a_picture_that_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny_model("qwen2_vl"), tiny_processor("qwen2_vl")
    monkeypatch.setattr(loading, "load_model", lambda *given, **named: made)
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, frame in enumerate(film(6)):
        frame.save(folder / f"{i}.png")
    first, *rest = film(6)
    first.save(tmp_path / "film.gif", save_all=True, append_images=rest)
    words = ["--model", "mine", "--strategies", "divprune", "--budgets", "4"]
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for frame in film(6):
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    films = [[str(tmp_path / name), QUESTION] for name in ("film.gif", "film.mp4")]
    for given in ([str(folder), QUESTION, "--video"], *films):
        done = CliRunner().invoke(app, ["explore", *given, *words, "--out", str(tmp_path / "page.html")])
        assert done.exit_code == 0, done.output
        assert '"kind":"video"' in (tmp_path / "page.html").read_text()
    refused = CliRunner().invoke(app, ["explore", "film.mp4", QUESTION, *words])
    assert isinstance(refused.exception, TokenPruneError)
    assert "video 'film.mp4': no such file" in str(refused.exception)
