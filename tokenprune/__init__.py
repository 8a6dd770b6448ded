"""Visual token pruning for multimodal LLMs.

Compose a strategy from parts (``build``), run it on tensors (``Strategy.select``) or inside a stock transformers model
(``attach``, ``prepare``), or as graphs of fixed shapes (``compile``).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tokenprune._version import __version__
from tokenprune.core import errors
from tokenprune.core.errors import TokenPruneError, TokenPruneWarning

if TYPE_CHECKING:
    from tokenprune.core.adaptive import BudgetRule, Evidence
    from tokenprune.core.budget import Budget
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

_HOMES = {
    "core.adaptive": "BudgetRule Evidence",
    "core.budget": "Budget",
    "core.features": "SIGNALS Features Grid",
    "core.groups": "Groups Picks",
    "core.kinds": "Aggregator Merged Merger Normalizer Objective PairTable Pairwise Prior Problem Scorer Selector",
    "core.metric": "JudgedMetric Metric",
    "core.registry": "build build_component list_components list_strategies register",
    "core.selection": "Selection",
    "core.strategy": "Strategy",
    "hf.attach": "attach",
    "hf.collectors": "Collector",
    "hf.compiled": "Compiled compile",
    "hf.encoded": "Encoded encode",
    "hf.prepare": "prepare",
    "hf.record": "Run",
}
"""Public names by the module that has them. They are looked up when they are first read: ``tokenprune --help``, and a
shell that completes its options, would otherwise wait for torch."""


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names.split():
            value = globals()[name] = getattr(import_module(f"tokenprune.{module}"), name)
            return value
    raise AttributeError(f"module 'tokenprune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
