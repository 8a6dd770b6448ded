"""Pictures from files, of any depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenprune.core.errors import ConfigError
from tokenprune.data.images import open_image

RAMP = np.linspace(0, 1, 256).reshape(16, 16)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("deep.png", np.rint(RAMP * 65535).astype(np.uint16)),
        ("deep.tiff", np.rint(RAMP * 65535).astype(np.uint16)),
        ("wide.tiff", np.rint(RAMP * 65535).astype(np.int32)),
        ("unit.tiff", RAMP.astype(np.float32)),
        ("bytes.tiff", (RAMP * 255).astype(np.float32)),
        ("plain.png", np.rint(RAMP * 255).astype(np.uint8)),
    ],
)
def test_grey_of_any_depth_keeps_its_shades(name: str, values: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / name)
    opened = open_image(tmp_path / name)
    assert opened.mode == "RGB"
    for channel in np.moveaxis(np.asarray(opened), -1, 0):
        assert (channel == np.rint(RAMP * 255)).all()


@pytest.mark.parametrize("bad", [np.full((4, 4), -1.0), np.full((4, 4), 3e4), np.full((4, 4), np.nan)])
def test_numbers_without_a_scale_are_refused(bad: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(bad.astype(np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(ConfigError, match=r"image '.*a\.tiff': its values go from .* no scale"):
        open_image(tmp_path / "a.tiff")


def test_other_modes_are_pillows_own(tmp_path: Path) -> None:
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK"):
        made = Image.new(mode, (4, 4))
        made.save(tmp_path / "a.tiff")
        assert open_image(tmp_path / "a.tiff").tobytes() == made.convert("RGB").tobytes()
