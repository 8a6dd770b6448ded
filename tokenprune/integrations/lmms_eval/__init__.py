"""lmms-eval: ``lmms-eval --model tokenprune --model_args pretrained=...,strategy=...,keep=64 --tasks pope``.

The data path is that of the files: ``options`` (``--model_args``) -> ``chats`` (what a task asks) -> ``answering``
(pruned answers and what they cost) -> ``journal`` (lines that survive a crash) -> ``imported`` (samples as results of
ours). ``model`` is the class that the harness calls; only it, ``ending`` and ``scoring`` know the harness.
"""

from __future__ import annotations

from typing import Any

__all__ = ["manifests"]


def manifests() -> list[Any]:
    """What this package offers to lmms-eval; the entry point of its group ``lmms_eval.models``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest("tokenprune", chat_class_path=f"{__name__}.model.TokenPrune")]
