"""For tests of tokenprune and of its plugins: hypothesis strategies."""

from tokenprune.testing.strategies import (
    channels,
    embeddings,
    features,
    gains_instances,
    joints,
    naive_bayes,
    taus,
)

__all__ = ["channels", "embeddings", "features", "gains_instances", "joints", "naive_bayes", "taus"]
