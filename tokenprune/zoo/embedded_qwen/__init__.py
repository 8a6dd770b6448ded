"""A small Qwen3-VL that sees, trained on the scenes, shipped with the package.

Stock classes: pictures of any shape (up to 144 tokens, one for 28 x 28 pixels), 2 x 2 patches a token, features of two
encoder layers added behind the first two of the language model (deepstack), positions along three axes, no [CLS].
``path()`` is an ordinary model folder; its ``README.md`` says how the model was trained and what it can and cannot do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tokenprune.zoo.shipped import load_qwen
from tokenprune.zoo.tiny.family import NoVideos, images_only

__all__ = ["load", "path", "read_processor"]


def path() -> Path:
    """Folder of the model, for ``from_pretrained``."""
    return Path(__file__).with_name("model")


def read_processor(folder: Path) -> Any:
    """Processor of a folder, for pictures: without torchvision, which the stock one asks for to read videos."""
    from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessorPil, Qwen3VLProcessor

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    pictures = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return images_only(Qwen3VLProcessor)(pictures, tokenizer, NoVideos(), chat_template=template)


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
