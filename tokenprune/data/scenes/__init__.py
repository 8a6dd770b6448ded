"""Procedural pictures with questions: a benchmark that needs no download and knows every answer.

Everything follows from a seed by integer arithmetic, so a scene is the same on every machine.
"""

from __future__ import annotations

from tokenprune.data.scenes.clip_questions import CLIP_FAMILIES, clip_questions, clip_samples
from tokenprune.data.scenes.export import export
from tokenprune.data.scenes.placement import Arrangement, SceneObject, Sign
from tokenprune.data.scenes.questions import Question
from tokenprune.data.scenes.scene import Sample, Scene, samples, scene, subfamilies
from tokenprune.data.scenes.video import VIDEO_SUBFAMILIES, Clip, clip
from tokenprune.data.scenes.world import QUESTION_FAMILIES

__all__ = [
    "CLIP_FAMILIES",
    "QUESTION_FAMILIES",
    "VIDEO_SUBFAMILIES",
    "Arrangement",
    "Clip",
    "Question",
    "Sample",
    "Scene",
    "SceneObject",
    "Sign",
    "clip",
    "clip_questions",
    "clip_samples",
    "export",
    "samples",
    "scene",
    "subfamilies",
]
