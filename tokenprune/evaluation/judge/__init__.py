"""Another language model as a judge: asked over an OpenAI-compatible endpoint, every reply kept, none counted twice."""

from __future__ import annotations

from tokenprune.evaluation.judge.endpoint import Endpoint
from tokenprune.evaluation.judge.journal import Journal, Spent, judge_of
from tokenprune.evaluation.judge.rounds import Judge, Request

__all__ = ["Endpoint", "Journal", "Judge", "Request", "Spent", "judge_of"]
