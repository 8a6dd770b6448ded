"""A tuned strategy as a file: what ``tokenprune.build``, ``attach`` and ``compare --strategies`` take."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from tokenprune._version import __version__
from tokenprune.evaluation.tune.goal import Goal
from tokenprune.evaluation.tune.split import SHARES
from tokenprune.evaluation.tune.verdict import Candidate, Verdict
from tokenprune.results.provenance import short
from tokenprune.results.store import write_atomically

__all__ = ["write_strategy"]


def write_strategy(
    path: Path, candidate: Candidate, verdict: Verdict, goal: Goal, record: Mapping[str, Any], looked: int
) -> None:
    """Write a strategy with where it comes from.

    Parameters
    ----------
    path : Path
    candidate : Candidate
    verdict : Verdict
    goal : Goal
    record : mapping
        The run's, from :func:`tokenprune.results.provenance.provenance`.
    looked : int
        Compositions that were tried.
    """
    asked = record["asked"]
    document = {
        "label": "tuned",
        "keep": candidate.keep,
        "strategy": {"strategy": candidate.strategy} if isinstance(candidate.strategy, str) else candidate.strategy,
        "tuned": {
            "goal": goal.said,
            "run": short(record),
            "model": asked.get("model"),
            "weights": record["model"].get("weights"),
            "questions": dict(record["questions"]),
            "split": {"seed": asked["tune"]["seed"], "shares": dict(SHARES)},
            "compositions_tried": looked,
            "test": [dict(row) for row in verdict.rows],
            "p_default": verdict.p_default,
            "p_random": verdict.p_random,
            "versions": {
                "tokenprune": __version__,
                **{name: metadata.version(name) for name in ("torch", "transformers", "optuna")},
            },
        },
    }
    head = "# made by tokenprune tune; take it with tokenprune.build, or compare --strategies\n"
    write_atomically(path, head + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100))
