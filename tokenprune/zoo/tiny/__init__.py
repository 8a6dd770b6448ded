"""Tiny models with random weights, built in code: what tests and first tries run on without a model hub.

They see nothing and know nothing; they have every part that a real model has, so laws about hooks, masks, positions
and caches hold on them or do not hold at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from torch import Tensor

from tokenprune.core.errors import ConfigError, UnknownNameError, closest
from tokenprune.data.images import picture
from tokenprune.zoo.tiny.family import KINDS, Family, Kind, build_inputs, build_model, build_processor
from tokenprune.zoo.tiny.llava import (
    LLAVA,
    LLAVA_NEXT,
    LLAVA_ONEVISION,
    VIDEO_LLAVA,
    tiny_llava,
    tiny_llava_processor,
)
from tokenprune.zoo.tiny.qwen import QWEN2_5_VL, QWEN2_VL, QWEN3_VL, QWEN3_VL_MOE
from tokenprune.zoo.tiny.tiles import GEMMA3, IDEFICS3, INTERNVL, SMOLVLM

__all__ = [
    "FAMILIES",
    "KINDS",
    "Family",
    "Kind",
    "picture",
    "tiny_inputs",
    "tiny_llava",
    "tiny_model",
    "tiny_processor",
]

FAMILIES: Final[dict[str, Family]] = {
    family.model_type: family
    for family in (
        LLAVA,
        LLAVA_NEXT,
        LLAVA_ONEVISION,
        VIDEO_LLAVA,
        QWEN2_VL,
        QWEN2_5_VL,
        QWEN3_VL,
        QWEN3_VL_MOE,
        INTERNVL,
        IDEFICS3,
        SMOLVLM,
        GEMMA3,
    )
}
"""Model type -> what a tiny model of it consists of."""


def family(model_type: str) -> Family:
    """Look a family up."""
    if model_type not in FAMILIES:
        raise UnknownNameError(f"model_type: no tiny model of {model_type!r}; {closest(model_type, FAMILIES)}")
    return FAMILIES[model_type]


def tiny_model(model_type: str, attention: str = "sdpa", seed: int = 0) -> Any:
    """Build a model of a family: random weights, about four layers of width 64, every part that real ones have.

    Parameters
    ----------
    model_type : str
        One of :data:`FAMILIES`.
    attention : str, default "sdpa"
        Attention implementation.
    seed : int, default 0
        The caller's random state is left as it was.
    """
    return build_model(family(model_type), attention=attention, seed=seed)


def tiny_inputs(
    model_type: str,
    kind: Kind | Sequence[Kind] = "image",
    batch: int = 1,
    seed: int = 0,
    only: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Make what a family's processor returns, left-padded.

    Parameters
    ----------
    model_type : str
        One of :data:`FAMILIES`.
    kind : str or sequence of str, default "image"
        What the prompts show, one of :data:`KINDS` (a family without videos takes fewer); a sequence gives each sample
        of the batch its own.
    batch : int, default 1
        Number of samples, if ``kind`` is one. Samples differ in their questions' lengths and, where the family knows
        several, in the sizes of their images.
    seed : int, default 0
        Of the pixels.
    only : sequence of int, optional
        Only these samples of the batch, as if they came by themselves.
    """
    kinds: Sequence[Kind] = [kind] * batch if isinstance(kind, str) else kind
    return build_inputs(family(model_type), kinds, seed=seed, only=only)


def tiny_processor(model_type: str = "llava", *, side: int | None = None) -> Any:
    """Build a family's processor: a word-level tokenizer with a chat template, and what cuts images up.

    It is made of transformers' classes, and returns what :func:`tiny_inputs` does for images of those sizes. Videos
    are refused: video processors need torchvision.

    Parameters
    ----------
    model_type : str, default "llava"
        One of :data:`FAMILIES`.
    side : int, optional
        For :func:`tiny_llava` of another size: patches along each side.
    """
    if side is None:
        return build_processor(family(model_type))
    if model_type != "llava":
        raise ConfigError(f"side: {model_type} has one size; leave it out")
    return tiny_llava_processor(side)
