"""The claims, one module a topic; importing this registers them all in listing order."""

from tokenprune_theory.claims import information, matrix

__all__ = ["information", "matrix"]
