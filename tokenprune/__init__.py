"""Visual token pruning for multimodal LLMs.

Compose a strategy from parts (``build``), run it on tensors (``Strategy.select``) or inside a stock transformers model
(``attach``, ``prepare``), or as graphs of fixed shapes (``compile``).
"""

from tokenprune._version import __version__
from tokenprune.core import errors
from tokenprune.core.adaptive import BudgetRule, Evidence
from tokenprune.core.budget import Budget
from tokenprune.core.errors import TokenPruneError, TokenPruneWarning
from tokenprune.core.features import SIGNALS, Features, Grid
from tokenprune.core.groups import Groups, Picks
from tokenprune.core.kinds import (
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
from tokenprune.core.metric import JudgedMetric, Metric
from tokenprune.core.registry import build, build_component, list_components, list_strategies, register
from tokenprune.core.selection import Selection
from tokenprune.core.strategy import Strategy
from tokenprune.hf.attach import attach
from tokenprune.hf.collectors import Collector
from tokenprune.hf.compiled import Compiled, compile
from tokenprune.hf.encoded import Encoded, encode
from tokenprune.hf.prepare import prepare
from tokenprune.hf.record import Run

__all__ = [
    "SIGNALS",
    "Aggregator",
    "Budget",
    "BudgetRule",
    "Collector",
    "Compiled",
    "Encoded",
    "Evidence",
    "Features",
    "Grid",
    "Groups",
    "JudgedMetric",
    "Merged",
    "Merger",
    "Metric",
    "Normalizer",
    "Objective",
    "PairTable",
    "Pairwise",
    "Picks",
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
    "errors",
    "list_components",
    "list_strategies",
    "prepare",
    "register",
]
