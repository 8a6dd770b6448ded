"""The claims, one module a topic; importing this registers them all."""

from tokenprune_theory.claims import algorithm, cost, information, limits, marginal, matrix

__all__ = ["TOPICS"]

TOPICS = (information, matrix, algorithm, marginal, cost, limits)
"""Topics in the order in which they are listed."""
