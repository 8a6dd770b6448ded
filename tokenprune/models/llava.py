"""Former name of :mod:`tokenprune.hf.adapters.llava`."""

from tokenprune.hf.adapters.llava import LlavaAdapter

__all__ = ["LlavaAdapter"]
