"""Video-LLaVA: one encoder for images, one for the frames of videos, one projector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.core.features import Grid, signal_of
from tokenprune.hf.adapters.base import Block, frames_in
from tokenprune.hf.adapters.encoder_attention import Readings
from tokenprune.hf.adapters.llava import LlavaAdapter

__all__ = ["VideoLlavaAdapter"]


class VideoLlavaAdapter(LlavaAdapter):
    """``VideoLlavaForConditionalGeneration``.

    Frames of a video keep their [CLS] token, which is no part of the picture: it stays, and is not counted. Patches may
    leave the encoder of images while it runs, not that of videos.
    """

    @property
    def placeholders(self) -> Mapping[str, int]:
        """``<image>`` and ``<video>``."""
        return {"image": self.model.config.image_token_id, "video": self.model.config.video_token_id}

    def tower(self, modality: str) -> nn.Module:
        """Images and videos have an encoder each."""
        return self.core.get_submodule(f"{modality}_tower")

    def blocks(self, modality: str, output: Any, inputs: Mapping[str, Any], readings: Readings) -> list[Block]:
        """One block an image, or all frames of a video."""
        pictures, size = output.pooler_output.shape[:2]
        frames = frames_in(inputs) if modality == "video" else 1
        patches = self.side**2
        first = torch.arange(size, device=output.pooler_output.device) < size - patches
        fixed = first.repeat(frames) if bool(first.any()) else None
        signals = {
            name: [_joined(name, values[i : i + frames], patches) for i in range(0, pictures, frames)]
            for name, values in readings.items()
        }
        return [
            Block(
                size * frames,
                (Grid(self.side, self.side, frames),),
                fixed,
                {name: parts[i] for name, parts in signals.items()},
            )
            for i in range(pictures // frames)
        ]


def _joined(name: str, frames: list[Tensor], patches: int) -> Tensor:
    """A signal of the frames of one video, over all their patches."""
    letters = signal_of(name).shape.split()[1:]
    if "n" not in letters:
        return frames[0]
    axis = letters.index("n")
    # what the projector is given may hold [CLS] too
    return torch.cat([frame.narrow(axis, frame.shape[axis] - patches, patches) for frame in frames], axis)
