"""Encode and select here, answer elsewhere: the kept tokens of a picture, as servers take embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image
from torch import Tensor

from tokenprune.core.budget import Keep
from tokenprune.core.errors import UnsupportedError
from tokenprune.core.strategy import AnyStrategy
from tokenprune.hf.chat import prompt_inputs
from tokenprune.hf.encoded import tokens_of
from tokenprune.hf.prepare import prepare

__all__ = ["image_embeds"]

MODEL_TYPES = ("llava",)
"""Model types whose placeholders are as many as the embeddings; others count them from grids and sizes of pictures."""


def image_embeds(
    model: Any,
    processor: Any,
    image: Image.Image,
    question: str,
    strategy: AnyStrategy | str | Mapping[str, Any],
    keep: Keep,
) -> dict[str, Tensor]:
    """Projected tokens of a picture that a strategy keeps, for a server that runs only the language model.

    The server numbers positions without gaps, so its answers are those of ``positions="compact"``.

    Parameters
    ----------
    model : PreTrainedModel
        A LLaVA; encoder, projector and the embeddings of words are used, the decoder layers are not.
    processor : ProcessorMixin
    image : Image
    question : str
        The user's own words, which strategies guided by text read.
    strategy, keep
        As in :func:`tokenprune.prepare`.

    Returns
    -------
    dict of str to Tensor
        ``{"image": tokens}``, tokens (1, K, d) in the order of the picture, in the model's dtype, on its device.

    Raises
    ------
    UnsupportedError
        The model is of another family, or the strategy acts between layers of the language model.
    """
    model_type = str(model.config.model_type)
    if model_type not in MODEL_TYPES:
        raise UnsupportedError(
            f"image_embeds: in a {model_type!r} the number of placeholders does not follow from the embeddings; "
            f"families that work: {', '.join(MODEL_TYPES)}"
        )
    inputs = prompt_inputs(processor, [image], [question]).to(model.device, model.dtype)
    shorter = prepare(model, strategy, keep, positions="compact", processor=processor, **inputs)
    tokens = tokens_of(shorter["mm_encoder_outputs"]["image"])
    return {"image": tokens.detach().unsqueeze(0)}
