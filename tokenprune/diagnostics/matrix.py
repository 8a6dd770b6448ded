"""Every strategy on a tiny model of every family: does it prune, do the laws hold, and if it is refused, why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenprune.core.budget import Unit
from tokenprune.core.registry import build
from tokenprune.diagnostics.doctor import broken_line, diagnose
from tokenprune.hf.adapters.base import adapter_for
from tokenprune.hf.sources import refusal
from tokenprune.zoo.tiny import tiny_inputs, tiny_model

__all__ = ["Cell", "matrix", "video_of"]

BATCH = 2
"""Prompts of different lengths, padded on the left."""


@dataclass(frozen=True)
class Cell:
    """One strategy on one family.

    Attributes
    ----------
    family, strategy : str
    laws : dict of str to float
        How far from exact each law is that could be tried.
    wrong : str
        What does not hold, or what was raised; empty where all is well.
    refused : str
        Why the family cannot run it; empty where it can.
    unit : str or None
        What the budget applied to, where that is not the usual: strategies that read rows and columns choose in each
        tile of a picture that is cut into several, those that compare frames in a whole sample where every frame
        stands alone.
    """

    family: str
    strategy: str
    laws: dict[str, float] = field(default_factory=dict)
    wrong: str = ""
    refused: str = ""
    unit: Unit | None = None

    @property
    def short(self) -> str:
        """A word for a table."""
        return "-" if self.refused else "BROKEN" if self.wrong else "ok"


def video_of(model: Any, name: str, batch: int = 1) -> tuple[dict[str, Any], Unit | None] | None:
    """A prompt that shows a video, and its unit, where a tiny model of a family reads any."""
    adapter = adapter_for(model)
    if "frames" not in adapter.layouts:
        return None
    inputs = {
        key: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        for key, value in tiny_inputs(name, "video", batch).items()
    }
    return inputs, "sample" if adapter.frames_apart else None


def matrix(families: Sequence[str], strategies: Sequence[str], keep: float = 0.5) -> Iterator[Cell]:
    """Yield family after family, one cell a strategy.

    Parameters
    ----------
    families : sequence of str
        Model types that have a tiny model.
    strategies : sequence of str
        What :func:`tokenprune.build` takes by name.
    keep : float, default 0.5
        Share of the visual tokens.
    """
    for family in families:
        model = tiny_model(family)
        pictures, filmed = tiny_inputs(family, "image", BATCH), video_of(model, family, BATCH)
        for name in strategies:
            strategy = build(name)
            why = refusal(adapter_for(model), strategy)
            if why is not None:
                yield Cell(family, name, refused=why)
                continue
            shown: dict[str, Any] = pictures
            unit: Unit | None = "tile" if "places" in strategy.requires else None
            if filmed is not None and "frames" in strategy.requires:
                shown, unit = filmed
            try:
                found = diagnose(model, None, name, keep, shown, unit=unit)
            except Exception as error:  # one cell costs no other
                yield Cell(family, name, wrong=broken_line(name, error), unit=unit)
                continue
            broken = [law for law, result in found.laws.items() if not result.holds]
            pruned = found.tokens_after < found.tokens_before
            wrong = ", ".join(broken) or (
                "" if pruned else f"{found.tokens_after} of {found.tokens_before} tokens left"
            )
            yield Cell(family, name, {law: result.error for law, result in found.laws.items()}, wrong, unit=unit)
