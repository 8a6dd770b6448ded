"""Videos as frames: rows of features one at a time, and what tokens have in common with the same place elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tokenprune.core.errors import FeatureError, MissingSignalError
from tokenprune.core.features import Features, working_precision

__all__ = ["by_frame", "same_place", "whole_rows"]


def same_place(x: Tensor, y: Tensor) -> Tensor:
    """Cosine of tokens at the same place: (..., d), (..., d) -> (...); 0 where a token is zero."""
    return torch.cosine_similarity(working_precision(x), working_precision(y), dim=-1, eps=1e-8)


def by_frame(features: Features, name: str = "visual") -> Iterator[Tensor]:
    """A signal of each row, frame after frame: (T, n, ...) a row, of its own size.

    Raises
    ------
    MissingSignalError
        It is not known where the tokens lie.
    FeatureError
        Part of a frame is missing.
    """
    value = features[name]
    for row, (frames, each) in enumerate(whole_rows(features)):
        yield torch.unflatten(value[row, : frames * each], 0, (frames, each))


def whole_rows(features: Features) -> list[tuple[int, int]]:
    """Frames and tokens of a frame, for each row."""
    if features.grids is None:
        features["frames"]  # raises, saying what is missing
        raise MissingSignalError("no grids")
    sizes = [(grid.frames, grid.height * grid.width) for grid in features.grids]
    for row, ((frames, each), count) in enumerate(zip(sizes, features.counts(), strict=True)):
        if frames * each != count:
            raise FeatureError(
                f"row {row} holds {count} of the {frames * each} tokens of its {frames} frames: this part compares "
                "whole frames, so nothing may drop tokens before it"
            )
    return sizes
