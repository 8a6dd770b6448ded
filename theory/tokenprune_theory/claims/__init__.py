"""The claims, one module a topic; importing this registers them all."""

from tokenprune_theory.claims import (
    algorithm,
    cost,
    framework,
    information,
    limits,
    marginal,
    matrix,
    precision,
    submodular,
)

__all__ = ["TOPICS"]

TOPICS = (information, matrix, algorithm, marginal, cost, limits, precision, submodular, framework)
"""Topics in the order in which they are listed."""
