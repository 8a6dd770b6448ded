"""MMTok: visual tokens that cover the question and the picture."""

from __future__ import annotations

import re

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.components import objectives, selectors

PROMPTS = (
    "Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
)
"""Instructions of benchmarks that say nothing about the picture."""

STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a an the am is are was were be been being have has had having do does did doing
        i you he she it we they me him her us them my your his its our their
        what which who whom whose when where why how and or but so if then question answer
        to for with by from at into onto upon""",
    )
)


def mmtok(
    *, alpha: float = 0.5, tau_text: float = 0.02, tau_visual: float = 0.2, faithful: bool = False
) -> tp.Strategy:
    """MMTok (Dong et al., ICLR 2026, arXiv 2508.18264): multimodal coverage.

    Maximises, greedily, how well the kept tokens cover the text tokens (softmax of cosines in projection space) and
    all visual tokens (softmax of cosines in encoder space): a facility location. Nothing is merged.

    Stage
        Projection space, before the language model; raster order, consecutive position ids.
    Signals
        ``visual``, ``text``, ``encoder``. An own bool signal ``extra={"candidates": ...}`` (B, N) excludes padded
        borders (:func:`padded`): they stay in the softmax and want to be covered, but cannot be picked.
    "64"
        64 tokens enter the language model and stay; the same temperatures at every budget.
    Cost
        O(N^2 e + T N d) for the tables, O(K (T + N) N) for the picks.
    Differences
        The official text is the question's sub-words after :func:`keywords`; here it is whatever ``text`` holds, by
        default the whole prompt. With fewer candidates than places the official code takes position 0 again and
        again (``faithful``); here excluded tokens follow.
    Whole
        :func:`tokenprune_strategies.reference.mmtok.mmtok`: the method as one loop.

    Parameters
    ----------
    alpha : float, default 0.5
        Weight of covering visual tokens.
    tau_text : float, default 0.02
        Temperature against the text; the authors use 0.01 for Qwen.
    tau_visual : float, default 0.2
        Temperature among visual tokens.
    faithful : bool, default False
        Repeat position 0 where candidates run out.
    """
    greedy = selectors.Greedy(objectives.FacilityLocation(alpha, tau_text, tau_visual))
    selector = selectors.Candidates(greedy, repeat_first=faithful)
    return tp.Strategy(selector=selector, positions="compact", name="mmtok")


def keywords(question: str) -> str:
    """Words of a question that may name something in the picture; all of it where none is left.

    Benchmark instructions go first, then stop words, whatever their case.
    """
    for prompt in PROMPTS:
        question = question.replace(prompt, "")
    question = question.strip()
    return " ".join(w for w in re.findall(r"\b\w+\b", question) if w.lower() not in STOP_WORDS) or question


def padded(width: int, height: int, side: int = 24, patch: int = 14, *, overlap: bool = False) -> Tensor:
    """Which tokens of a picture lie in the border that pads it to a square, bool (side * side,).

    Parameters
    ----------
    width, height : int
        Of the picture before padding.
    side, patch : int, default 24 and 14
        Tokens along a side of the square, and pixels along a side of a token.
    overlap : bool, default False
        Count tokens that the border covers in part, too; else only those that it covers whole.
    """
    pixels = side * patch
    inner = round(pixels * min(width, height) / max(width, height))
    before = (pixels - inner) // 2
    cells = [-(-border // patch) if overlap else border // patch for border in (before, pixels - inner - before)]
    line = torch.zeros(side, dtype=torch.bool)
    line[: cells[0]] = True
    line[side - cells[1] :] = True
    across = line.unsqueeze(1) if width > height else line.unsqueeze(0)
    return across.expand(side, side).flatten()
