"""Graphs of fixed shapes from pixels to tokens: a fixed budget makes every image as long as every other."""

from tokenprune.hf.compiled.pipeline import Built, Compiled, compile

__all__ = ["Built", "Compiled", "compile"]
