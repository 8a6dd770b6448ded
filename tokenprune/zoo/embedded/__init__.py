"""A small model that sees: a stock LLaVA of 10 million parameters, trained on the scenes, shipped with the package.

It has LLaVA-1.5's visual geometry (336 x 336 pictures, 576 visual tokens, [CLS], features of the layer before the
last), so a strategy runs on it as on the real one, on a laptop and without a download. ``path()`` is an ordinary model
folder; its ``README.md`` says how the model was trained and what it can and cannot do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tokenprune.zoo.shipped import load_shipped

__all__ = ["load", "path"]


def path() -> Path:
    """Folder of the model, for ``from_pretrained``."""
    return Path(__file__).with_name("model")


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
        ``LlavaForConditionalGeneration`` in evaluation mode, and ``LlavaProcessor``.

    Raises
    ------
    UnsupportedError
        The installation lacks the weights.
    """
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    model = load_shipped(path(), LlavaForConditionalGeneration, device, dtype)
    return model, LlavaProcessor.from_pretrained(path(), local_files_only=True)
