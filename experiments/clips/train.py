"""Train models on clips, from the weights of the embedded Qwen3-VL, which sees pictures.

``python -m experiments.clips.train --out DIR --seeds 0,1 --seconds 540``: options and folder are those of
``experiments.trainings.train``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from experiments.embedded.batches import Shown
from experiments.trainings.train import Trainings, parser, run
from tokenprune.zoo import embedded_qwen

CLIP = Shown(frames=8, size=(224, 224))
JOLT = 0.02
"""By which share of itself a weight differs at first from seed to seed; seed 0 begins with the weights as they are."""


class Clips(Trainings):
    """K models on one stream of clips and pictures."""

    stages_file = Path(__file__).with_name("stages.yaml")
    cycle = (CLIP, CLIP, CLIP, Shown())
    groups: Mapping[str, Sequence[Shown]] = MappingProxyType({"clips": (CLIP,), "plain": (Shown(),)})
    tested: Mapping[str, float] = MappingProxyType({"clips": 1, "plain": 0.25})
    judged_by = "clips"

    def first_model(self) -> Any:
        """The embedded Qwen3-VL, or where a shape is asked for a fresh model of it, which is for trials."""
        if self.shape:
            return super().first_model()
        model = embedded_qwen.load()[0].train()
        seed = torch.initial_seed() - 1000
        if seed:
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(1 + JOLT * torch.randn_like(weight))
        return model


def main() -> None:
    """Run one call."""
    run(Clips, parser(__doc__ or "").parse_args())


if __name__ == "__main__":
    main()
