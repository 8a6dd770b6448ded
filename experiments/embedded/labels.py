"""What each patch of a picture shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.embedded.network import PATCH
from tokenprune.data.scenes.atlas import CHARACTERS
from tokenprune.data.scenes.painter import Painting
from tokenprune.data.scenes.placement import Arrangement
from tokenprune.data.scenes.world import COLORS, NAMES

SIGN = len(NAMES) + 1
"""Label of a patch that shows a sign; 0 is background, 1.. are the categories."""
_COLOR = {name: i + 1 for i, name in enumerate(COLORS)}


def color_label(name: str | None) -> int:
    """Label of a tint; 0 is none."""
    return _COLOR[name] if name else 0


def least_seen(side: int) -> int:
    """Pixels of an object that make a patch of so many pixels a side its own."""
    return side * side * 13 // 100


def patch_labels(
    seen: NDArray[np.uint8], labels: Sequence[Sequence[int]], side: int = PATCH
) -> list[NDArray[np.uint8]]:
    """Label of each patch, by what covers most of it, for each list of labels (the first is the background's)."""
    down, across = (length // side for length in seen.shape)
    patches = down * across
    tiles = seen.reshape(down, side, across, side).swapaxes(1, 2).reshape(patches, -1).astype(np.int64)
    number = len(labels[0])
    keys = tiles + np.arange(patches)[:, None] * number
    counts = np.bincount(keys.ravel(), minlength=patches * number).reshape(-1, number)
    counts[:, 0] = least_seen(side)
    winner = counts.argmax(1)
    return [np.asarray(row, np.uint8)[winner] for row in labels]


def labels_of(arrangement: Arrangement, painting: Painting, side: int = PATCH) -> dict[str, NDArray[np.uint8]]:
    """Labels of all patches of a picture: ``objects``, ``colors`` and ``characters``."""
    things = [o.category + 1 for o in arrangement.objects] + [SIGN] * len(arrangement.signs)
    tints = [color_label(o.color) for o in arrangement.objects] + [color_label(s.color) for s in arrangement.signs]
    letters = [CHARACTERS.index(c) + 1 for sign in arrangement.signs for c in sign.text.upper()]
    objects, colors = patch_labels(painting.owner, [[0, *things], [0, *tints]], side)
    (characters,) = patch_labels(painting.letter, [[0, *letters]], side)
    return {"objects": objects, "colors": colors, "characters": characters}
