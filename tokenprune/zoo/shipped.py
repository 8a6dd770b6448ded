"""Models among the package data: one way to load them, one check that they are there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tokenprune.core.errors import UnsupportedError
from tokenprune.hf.saved_processor import MAKES_PROCESSOR

__all__ = ["load_qwen", "load_shipped"]


def load_shipped(folder: Path, kind: Any, device: str | torch.device, dtype: torch.dtype) -> Any:
    """Load a model of the package.

    Parameters
    ----------
    folder : Path
        An ordinary model folder.
    kind : type
        A class of transformers.
    device : str or torch.device
    dtype : torch.dtype
        The weights are stored in float16.

    Returns
    -------
    PreTrainedModel
        In evaluation mode.

    Raises
    ------
    UnsupportedError
        The installation lacks the weights.
    """
    if not (folder / "model.safetensors").exists():
        raise UnsupportedError(f"{str(folder)!r} holds no weights: this installation came without the embedded model")
    return kind.from_pretrained(folder, dtype=dtype, local_files_only=True).to(device).eval()


def load_qwen(
    folder: Path, read_processor: Callable[[Path], Any], device: str | torch.device, dtype: torch.dtype
) -> tuple[Any, Any]:
    """Load a ``Qwen3VLForConditionalGeneration`` of the package and a processor that does without torchvision.

    The model keeps how its processor is made, for ``attach`` without one.

    Raises
    ------
    UnsupportedError
        The installation lacks the weights.
    """
    from transformers import Qwen3VLForConditionalGeneration

    model = load_shipped(folder, Qwen3VLForConditionalGeneration, device, dtype)
    vars(model)[MAKES_PROCESSOR] = partial(read_processor, folder)
    return model, read_processor(folder)
