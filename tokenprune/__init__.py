"""Visual token pruning for multimodal LLMs.

Compose a strategy from parts (``build``), run it on tensors (``Strategy.select``) or inside a stock transformers model
(``attach``, ``prepare``), or as graphs of fixed shapes (``compile``).
"""

from tokenprune._version import __version__
from tokenprune.budget import Budget
from tokenprune.compiled import Compiled, compile
from tokenprune.components.base import (
    Aggregator,
    Merged,
    Merger,
    Normalizer,
    Objective,
    PairTable,
    Pairwise,
    Prior,
    Problem,
    Scorer,
    Selector,
)
from tokenprune.encoded import Encoded, encode
from tokenprune.errors import TokenPruneError, TokenPruneWarning
from tokenprune.features import SIGNALS, Features, Grid
from tokenprune.registry import build, build_component, list_components, list_strategies, register
from tokenprune.run import Run
from tokenprune.selection import Selection
from tokenprune.session import attach, prepare
from tokenprune.strategy import Strategy

__all__ = [
    "SIGNALS",
    "Aggregator",
    "Budget",
    "Compiled",
    "Encoded",
    "Features",
    "Grid",
    "Merged",
    "Merger",
    "Normalizer",
    "Objective",
    "PairTable",
    "Pairwise",
    "Prior",
    "Problem",
    "Run",
    "Scorer",
    "Selection",
    "Selector",
    "Strategy",
    "TokenPruneError",
    "TokenPruneWarning",
    "__version__",
    "attach",
    "build",
    "build_component",
    "compile",
    "encode",
    "list_components",
    "list_strategies",
    "prepare",
    "register",
]
