"""For tests of tokenprune and of its plugins: hypothesis strategies, and what holds a part to its promises."""

from tokenprune.testing.check import CheckReport, check
from tokenprune.testing.strategies import (
    channels,
    embeddings,
    features,
    gains_instances,
    joints,
    naive_bayes,
    taus,
)

__all__ = [
    "CheckReport",
    "channels",
    "check",
    "embeddings",
    "features",
    "gains_instances",
    "joints",
    "naive_bayes",
    "taus",
]
