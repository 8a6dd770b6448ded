"""A small Qwen3-VL that sees clips, trained on painted ones, shipped with the package.

Stock classes: eight frames, of which every two are one block of 64 tokens with its time in front; otherwise the shape
of :mod:`tokenprune.zoo.embedded_qwen`, whose weights it was trained from. ``path()`` is an ordinary model folder; its
``README.md`` says how the model was trained and what it can and cannot do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange

from tokenprune.data.items import FRAMES_A_SECOND
from tokenprune.zoo.shipped import load_qwen
from tokenprune.zoo.tiny.family import NoVideos, images_only

__all__ = ["TOKENS", "PairedFrames", "load", "path", "read_processor"]

TOKENS = 256
"""Of a painted clip: four pairs of frames of 8 x 8."""


def path() -> Path:
    """Folder of the model, for ``from_pretrained``."""
    return Path(__file__).with_name("model")


class PairedFrames(NoVideos):
    """What the stock video processor makes of frames, without torchvision: all of them, two by two.

    Parameters
    ----------
    pictures : BaseImageProcessor
        Scales and normalises a frame as a picture.
    """

    def __init__(self, pictures: Any) -> None:
        self.pictures = pictures
        self.merge_size, self.temporal_patch_size = pictures.merge_size, pictures.temporal_patch_size

    def __call__(
        self, videos: Any, video_metadata: Sequence[Mapping[str, Any] | None] | None = None, **_options: Any
    ) -> Any:
        """Pixels of all videos, one after the other, their grids, and when their frames are.

        Parameters
        ----------
        videos : sequence of (array of uint8, (frames, height, width, 3), or of its frames)
        video_metadata : sequence of (mapping or None), optional
            ``fps`` and ``frames_indices`` of each; by default two frames a second, all of them.
        """
        from transformers import BatchFeature
        from transformers.video_utils import VideoMetadata

        pixels, grids, facts = [], [], []
        for number, video in enumerate(videos):
            frames = [np.asarray(frame) for frame in video]
            said = None if video_metadata is None else video_metadata[number]
            facts.append(VideoMetadata(**_facts(said, len(frames))))
            together = self.temporal_patch_size
            frames += [frames[-1]] * (-len(frames) % together)
            read = self.pictures(images=frames, return_tensors="pt")
            # a picture stands for as many equal frames as a token has: of each frame the part of its place
            each = rearrange(
                read["pixel_values"],
                "(t f n) (c g w) -> t f n c g w",
                t=len(frames) // together,
                f=together,
                c=3,
                g=together,
            )
            own = each.diagonal(dim1=1, dim2=4)  # (t, n, c, w, f)
            pixels.append(rearrange(own, "t n c w f -> (t n) (c f w)"))
            grids.append([len(frames) // together, *read["image_grid_thw"][0].tolist()[1:]])
        return BatchFeature(
            {
                "pixel_values_videos": torch.cat(pixels),
                "video_grid_thw": torch.tensor(grids),
                "video_metadata": facts,
            }
        )


def _facts(said: Mapping[str, Any] | None, frames: int) -> dict[str, Any]:
    """What is known of a video, and what is assumed where nothing is."""
    found = {name: value for name, value in dict(said or {}).items() if value is not None}
    return {"total_num_frames": frames, "fps": FRAMES_A_SECOND, "frames_indices": list(range(frames)), **found}


def read_processor(folder: Path) -> Any:
    """Processor of a folder, for pictures and clips: without torchvision, which the stock one asks for."""
    from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessorPil, Qwen3VLProcessor

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    pictures = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    # frames have as many tokens as the smallest pictures
    fewest = int(pictures.size["shortest_edge"])
    frames = Qwen2VLImageProcessorPil.from_pretrained(
        folder, local_files_only=True, size={"shortest_edge": fewest, "longest_edge": fewest}
    )
    return images_only(Qwen3VLProcessor)(pictures, tokenizer, PairedFrames(frames), chat_template=template)


def load(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Load the model and its processor.

    Parameters
    ----------
    device : str or torch.device, default "cpu"
    dtype : torch.dtype, default torch.float32
        The weights are stored in float16.

    Returns
    -------
    tuple
        ``Qwen3VLForConditionalGeneration`` in evaluation mode, and its processor.

    Raises
    ------
    UnsupportedError
        The installation lacks the weights.
    """
    return load_qwen(path(), read_processor, device, dtype)
