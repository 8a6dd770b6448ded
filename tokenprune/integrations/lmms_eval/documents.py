"""What is known of a document of a task besides what is shown: its name, its picture's, its part of the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenprune.integrations.lmms_eval.tasks import PREFIX

__all__ = ["facts_of"]

_METRICS = {"mme": "mme", "pope": "yes-no:strict=true"}
"""What stock tasks are graded by, where a metric of ours makes further numbers of their answers."""


def facts_of(task: str, number: int, document: Mapping[str, Any], media: str) -> dict[str, Any]:
    """Names under which an answer is compared with others.

    Parameters
    ----------
    task : str
    number : int
        Of the document in the task.
    document : mapping
        A row of the task's data set.
    media : str
        Hash of what it shows.

    Returns
    -------
    dict
        ``sample``, ``image``, ``task``, ``family``, and ``metric`` where one is known: for tasks of ours those of
        ``compare``, for others the document's number and the hash.
    """
    if task.startswith(PREFIX) and {"id", "image_id", "task", "family", "metric"} <= document.keys():
        names = {"sample": "id", "image": "image_id", "task": "task", "family": "family", "metric": "metric"}
        return {name: document[column] for name, column in names.items()}
    category = document.get("category")
    family = category if isinstance(category, str) and category.strip() else "all"
    metric = {"metric": _METRICS[task]} if task in _METRICS else {}
    return {"sample": f"{task}/{number}", "image": media, "task": task, "family": family, **metric}
