"""The tiny models of :mod:`tokenprune.zoo.tiny`, for tests of plugins."""

from tokenprune.zoo.tiny import (
    FAMILIES,
    KINDS,
    Family,
    Kind,
    picture,
    tiny_inputs,
    tiny_llava,
    tiny_model,
    tiny_processor,
)

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
