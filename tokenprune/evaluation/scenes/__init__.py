"""Procedural pictures with questions: a benchmark that needs no download and knows every answer.

Everything follows from a seed by integer arithmetic, so a scene is the same on every machine.
"""

from __future__ import annotations

from tokenprune.evaluation.scenes.export import export
from tokenprune.evaluation.scenes.layout import Layout, SceneObject, Sign
from tokenprune.evaluation.scenes.questions import Question
from tokenprune.evaluation.scenes.scene import Sample, Scene, samples, scene, subfamilies
from tokenprune.evaluation.scenes.video import VIDEO_SUBFAMILIES, Clip, clip
from tokenprune.evaluation.scenes.world import FAMILIES

__all__ = [
    "FAMILIES",
    "VIDEO_SUBFAMILIES",
    "Clip",
    "Layout",
    "Question",
    "Sample",
    "Scene",
    "SceneObject",
    "Sign",
    "clip",
    "export",
    "samples",
    "scene",
    "subfamilies",
]
