"""Models among the package data: one way to load them, one check that they are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tokenprune.core.errors import UnsupportedError

__all__ = ["load_shipped"]


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
