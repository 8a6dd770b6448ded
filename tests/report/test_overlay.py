"""Pictures with pruned patches dimmed, laid out as a table."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import get_data_path
from PIL import Image, ImageDraw, features

from tokenprune.core.errors import FeatureError, FontWarning
from tokenprune.core.features import Grid
from tokenprune.report import lettering
from tokenprune.report.lettering import Lettering
from tokenprune.report.overlay import Cell, _wrapped, dimmed, sheet

grids = st.builds(Grid, st.integers(1, 6), st.integers(1, 6))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 200, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@given(grids, st.data())
def test_kept_patches_keep_their_pixels_and_others_fade(grid: Grid, data: st.DataObject) -> None:
    n, patch = grid.height * grid.width, 4
    kept = data.draw(st.sets(st.integers(0, n - 1)))
    image = noise(grid.width * patch, grid.height * patch)
    longest = max(grid.height, grid.width)
    drawn = np.asarray(dimmed(image, sorted(kept), grid, side=longest * patch))
    before = np.asarray(image)
    assert drawn.shape == before.shape
    for place in range(n):
        row, column = divmod(place, grid.width)
        window = np.s_[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
        if place in kept:
            assert (drawn[window] == before[window]).all()
        else:
            assert (drawn[window] > before[window]).all()


@given(st.floats(0, 1))
def test_strength_is_how_far_a_pruned_patch_goes_to_white(strength: float) -> None:
    image = Image.new("RGB", (4, 4), (55, 105, 155))
    drawn = np.asarray(dimmed(image, [], Grid(2, 2), side=4, strength=strength)).astype(float)
    expected = np.array([55, 105, 155]) + strength * (255 - np.array([55, 105, 155]))
    assert np.abs(drawn - expected).max() <= 1


@pytest.mark.parametrize("place", [-1, 6])
def test_a_position_outside_the_grid_is_refused(place: int) -> None:
    with pytest.raises(FeatureError, match="2 x 3"):
        dimmed(noise(6, 4), [place], Grid(2, 3))


def test_every_picture_of_a_sheet_is_there_once_and_empty_places_are_white() -> None:
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    cells = [Cell(Image.new("RGB", (50, 40), color), "an answer", "a note") for color in colors]
    page = sheet([[cells[0], cells[1]], [None, cells[2]]], ["full", "mine"], ["64 tokens", "32 tokens"], "a title")
    pixels = np.asarray(page)
    boxes = []
    for color in colors:
        rows, columns = np.nonzero((pixels == color).all(-1))
        assert len(rows) == 50 * 40
        boxes.append((rows.min(), columns.min()))
    (top, left), (top_1, left_1), (top_2, left_2) = boxes
    assert (top, left_1) == (top_1, left_2)
    assert left_1 - left == 58
    assert top_2 > top + 40
    below = pixels[top_2 : top_2 + 40, left : left + 50]
    assert (below == 255).all()


def test_a_sheet_grows_with_its_rows_and_columns() -> None:
    cell = Cell(Image.new("RGB", (200, 100)))
    one = sheet([[cell, cell]], ["a", "b"], ["64 tokens"])
    two = sheet([[cell, cell, cell]] * 2, ["a", "b", "c"], ["64 tokens"] * 2)
    assert two.width - one.width == 208
    assert two.height - one.height > 100


def test_long_words_stay_inside_their_column() -> None:
    endless = "word " * 400 + "x" * 4000
    cell = Cell(Image.new("RGB", (80, 60)), endless, color="#c0392b")
    short = sheet([[cell, cell]], [endless, "b"], ["8 tokens"], endless)
    assert short.size[0] == sheet([[Cell(cell.picture)] * 2], ["a", "b"], ["8 tokens"]).size[0]


def ink(page: Image.Image) -> int:
    return int((np.asarray(page.convert("L")) < 128).sum())


def drawn(text: str) -> Image.Image:
    letters = Lettering(24)
    page = Image.new("RGB", (int(letters.width(text)) + 8, 48), "white")
    letters.draw(ImageDraw.Draw(page), (2, 2), text, "black")
    return page


SCRIPTS = {"Latin": "Où est l'été ?", "Arabic": "ما لون الكوب؟", "Greek": "Τι χρώμα έχει;", "Cyrillic": "Какого цвета?"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_drawn_and_not_as_boxes(script: str) -> None:
    """Fonts that matplotlib brings have these, whatever the machine."""
    text = SCRIPTS[script]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pages = {character: drawn(character) for character in text if character.isalpha()}
        whole = drawn(text)
    assert len({page.tobytes() for page in pages.values()}) > 4
    assert ink(whole) > 4 * min(map(ink, pages.values()))


def test_arabic_letters_are_joined_where_pillow_lays_text_out() -> None:
    letters = Lettering(24)
    joined = letters.width("لون") < sum(letters.width(character) for character in "لون")
    assert joined == features.check("raqm")


@pytest.fixture
def first_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without any fonts but Pillow's and matplotlib's first."""
    two = lettering._sources()[:2]
    monkeypatch.setattr(lettering, "_sources", lambda: two)
    lettering._source_of.cache_clear()
    yield
    lettering._source_of.cache_clear()


@pytest.mark.usefixtures("first_fonts")
def test_what_no_font_has_is_a_mark_and_said() -> None:
    with pytest.warns(FontWarning, match=r"no font .*'杯' \(U\+676F\), '子' .*Noto Sans CJK"):
        page = drawn("杯子 cup")
    assert ink(page) > ink(drawn("cup"))


def test_fonts_of_the_machine_are_looked_through(request: pytest.FixtureRequest) -> None:
    """A letter that one font alone has, as is so of Chinese on most machines."""
    symbols = lettering._has(str(Path(get_data_path(), "fonts", "ttf", "STIXGeneral.ttf")))
    only = chr(max(symbols - lettering._has(lettering._sources()[1])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ink(drawn(only)) > 0
    request.getfixturevalue("first_fonts")
    with pytest.warns(FontWarning):
        drawn(only)


def test_lines_of_scripts_without_spaces_are_broken_between_characters() -> None:
    text = "杯子是什么颜色的？" * 6
    letters = Lettering(14)
    lines = _wrapped(text, letters, 200, lines=6)
    assert len(lines) > 1
    assert "".join(lines) == text
    assert all(letters.width(line) <= 200 for line in lines)
    assert _wrapped("what color  is\nthe dog", letters, 10_000, lines=2) == ["what color is the dog"]
