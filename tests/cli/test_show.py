"""The command ``show``."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from tokenprune.cli import app
from tokenprune.core.errors import TokenPruneError
from tokenprune.zoo.tiny import picture, tiny_llava, tiny_processor

QUESTION = "what color is the dog ?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_llava(side=6).save_pretrained(folder)
    tiny_processor(side=6).save_pretrained(folder)
    return str(folder)


def test_any_picture_can_be_shown(model: str, tmp_path: Path) -> None:
    picture(size=90).save(tmp_path / "photo.jpg")
    out = tmp_path / "shown.png"
    words = ["show", str(tmp_path / "photo.jpg"), QUESTION, "--model", model, "--out", str(out)]
    done = CliRunner().invoke(app, [*words, "--strategies", "mi-*,random", "--budgets", "12,5", "--side", "60"])
    assert done.exit_code == 0, done.output
    for strategy in ("mi-pruner", "mi-attention", "random"):
        assert f"{strategy} at 12: " in done.output
        assert f"{strategy} at 5: " in done.output
    with Image.open(out) as drawn:
        assert drawn.width >= 4 * 60
        assert drawn.height >= 2 * 60


def test_a_scene_knows_what_can_be_asked_about_it(model: str, tmp_path: Path) -> None:
    words = ["show", "scene:0/3", "--model", model, "--strategies", "random", "--budgets", "9"]
    first = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "a.png")])
    assert first.exit_code == 0, first.output
    others = [line.split(":")[0].strip() for line in first.output.splitlines() if line.startswith("  ")]
    assert "gqa/color" in others
    assert "pope/random" not in others  # that one was asked
    chosen = CliRunner().invoke(app, [*words[:2], "gqa/color", *words[2:], "--out", str(tmp_path / "b.png")])
    assert chosen.exit_code == 0, chosen.output
    assert "  pope/random: " in chosen.output
    assert "  gqa/color: " not in chosen.output
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["missing.png", QUESTION], "missing.png"),
        (["text.png", QUESTION], "text.png"),
        (["photo.png"], "QUESTION"),
        (["photo.png", " "], "QUESTION"),
        (["scene:seven"], "scene:0/3"),
        (["scene:1/-2"], "scene:0/3"),
        (["scene:0/1", "textvqa/word"], "pope/random"),
        (["photo.png", QUESTION, "--strategies", "mi-prunner"], "mi-pruner"),
        (["photo.png", QUESTION, "--strategies", ","], "--strategies"),
        (["photo.png", QUESTION, "--budgets", "0"], "--budgets"),
        (["photo.png", QUESTION, "--out", "shown.docx"], "shown.docx"),
        (["photo.png", QUESTION, "--out", "no/such/folder.png"], "folder"),
        (["photo.png", QUESTION, "--out", "photo.png"], "IMAGE"),
        (["photo.png", QUESTION, "--out", "./photo.png"], "IMAGE"),
        (["photo.png", QUESTION, "--out", "show.xbm"], "show.xbm"),
        (["photo.png", QUESTION, "--out", "/proc/show.png"], "/proc/show.png"),
        (["bomb.png", QUESTION], "bomb.png"),
        (["broken.png", QUESTION], "broken.png"),
        (["photo.png", QUESTION, "--model", "./no/such/model"], "no such folder"),
    ],
)
def test_mistakes_are_refused_and_nothing_is_written(
    words: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture().save("photo.png")
    Path("text.png").write_text("no picture")
    written = Path("photo.png").read_bytes()
    # a chunk that is cut short, so that no chunk begins where the next one should
    Path("broken.png").write_bytes(written[:33] + struct.pack(">I", 10) + written[37:])
    # a header that promises more pixels than anyone may decode
    header = b"IHDR" + struct.pack(">IIBBBBB", 20000, 10000, 8, 2, 0, 0, 0)
    Path("bomb.png").write_bytes(written[:12] + header + struct.pack(">I", zlib.crc32(header)) + written[33:])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    done = CliRunner().invoke(app, ["show", *words])
    assert isinstance(done.exception, TokenPruneError), done.output
    assert complaint in str(done.exception)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_was_there_stays_if_writing_fails(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "shown.png"
    out.write_text("mine")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    words = ["show", "scene:0/3", "--model", model, "--strategies", "random", "--budgets", "9", "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, TokenPruneError), done.output
    assert "no space left" in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["shown.png"]
    assert out.read_text() == "mine"


def test_pictures_have_a_largest_side(model: str, tmp_path: Path) -> None:
    words = ["show", "scene:0/3", "--model", model, "--strategies", "random", "--budgets", "9"]
    done = CliRunner().invoke(app, [*words, "--side", "2049", "--out", str(tmp_path / "shown.png")])
    assert done.exit_code == 2
    assert list(tmp_path.iterdir()) == []
