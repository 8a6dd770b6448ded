"""How many tokens were kept, by question type, where that is not the same for all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

__all__ = ["QUANTILES", "kept_by_task"]

QUANTILES = {"least": 0.0, "quarter": 0.25, "median": 0.5, "three_quarters": 0.75, "most": 1.0}
"""What is told of a distribution, besides its mean."""


def kept_by_task(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and quantiles of visual tokens in the last layer: "all" first, then each task.

    Parameters
    ----------
    lines : iterable of mapping
        Rows of results.jsonl, of one strategy at one budget.
    """
    counts: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        counts["all"].append(line["tokens"])
        counts[line["task"]].append(line["tokens"])
    return {
        task: {
            "n": len(counts[task]),
            "mean": float(np.mean(counts[task])),
            **{name: float(np.quantile(counts[task], q)) for name, q in QUANTILES.items()},
        }
        for task in sorted(counts, key=lambda task: (task != "all", task))
    }
