"""The LLaVA families: an encoder whose tokens are projected one by one."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    LlavaForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    VideoLlavaForConditionalGeneration,
    VideoLlavaImageProcessor,
    VideoLlavaProcessor,
)

from tokenprune.zoo.tiny.family import (
    CHAT,
    Chat,
    Family,
    FramesAsPictures,
    NoVideos,
    Tensors,
    Visual,
    build_model,
    build_processor,
    images_only,
    llama,
    padded_tiles,
)

__all__ = ["LLAVA", "LLAVA_NEXT", "LLAVA_ONEVISION", "VIDEO_LLAVA", "tiny_llava", "tiny_llava_processor"]

SPECIAL = ("<image>",)
PATCH = 8
USER = Chat("USER:", "ASSISTANT:")


def _encoder(side: int, layers: int = 3) -> dict[str, Any]:
    """A CLIP encoder with [CLS]."""
    return {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "image_size": PATCH * side,
        "patch_size": PATCH,
        "projection_dim": 32,
    }


def _llava(side: int = 6, layers: int = 3, encoder_layers: int = 3) -> Family:
    def config(tokens: Mapping[str, int]) -> dict[str, Any]:
        return {
            "vision_config": _encoder(side, encoder_layers),
            "text_config": {"model_type": "llama", **llama(tokens, num_hidden_layers=layers)},
            "image_token_id": tokens["<image>"],
            "image_seq_length": side * side,
            "vision_feature_layer": -2,
        }

    def image(_number: int, generator: torch.Generator) -> Visual:
        pixels = torch.randn(1, 3, PATCH * side, PATCH * side, generator=generator)
        return Visual("<image>" * side**2, {"pixel_values": pixels})

    def processor(tokenizer: Any, template: str) -> Any:
        return LlavaProcessor(
            image_processor=_clip_images(PATCH * side),
            tokenizer=tokenizer,
            patch_size=PATCH,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=template,
        )

    return Family("llava", SPECIAL, config, USER, image, several_sizes=False, processor=processor)


def _clip_images(pixels: int, kind: Any = CLIPImageProcessorPil, **changes: Any) -> Any:
    """A processor that scales images down to squares of so many pixels a side and crops them."""
    square = {"height": pixels, "width": pixels}
    return kind(size={"shortest_edge": pixels}, crop_size=square, **changes)


LLAVA = _llava()


def tiny_llava(
    *, side: int = 6, layers: int = 3, encoder_layers: int = 3, attention: str = "sdpa", seed: int = 0
) -> LlavaForConditionalGeneration:
    """Build a LLaVA of random weights: CLIP-like encoder with [CLS], two-layer projector, Llama decoder.

    Parameters
    ----------
    side : int, default 6
        Patches along each side: an image has ``side**2`` visual tokens.
    layers, encoder_layers : int, default 3
    attention : str, default "sdpa"
        Attention implementation.
    seed : int, default 0
        The caller's random state is left as it was.
    """
    return build_model(_llava(side, layers, encoder_layers), attention=attention, seed=seed)


def tiny_llava_processor(side: int) -> Any:
    """The processor of :func:`tiny_llava` with as many patches along each side."""
    return build_processor(_llava(side))


TILE = 4
"""Patches along the side of a tile."""

PINPOINTS = [[32, 64], [64, 32], [64, 64], [32, 96]]
SIZES = ((40, 60), (64, 40), (30, 90), (64, 64))
"""Heights and widths of images: they take two, four and three tiles, and all but the last lose patches to padding."""


def tiles(number: int) -> tuple[int, int, int, int]:
    """For an image of :data:`SIZES`: tiles down and across, and the patches down and across that are no padding."""
    height, width = SIZES[number % len(SIZES)]
    best = max(PINPOINTS, key=lambda p: (_effective(height, width, p), -_wasted(height, width, p)))
    down, across = best[0] // (PATCH * TILE), best[1] // (PATCH * TILE)
    rows, columns = down * TILE, across * TILE
    if width / height > columns / rows:
        rows -= 2 * ((rows - int(round(height * columns / width, 7))) // 2)
    else:
        columns -= 2 * ((columns - int(round(width * rows / height, 7))) // 2)
    return down, across, rows, columns


def _effective(height: int, width: int, size: Sequence[int]) -> int:
    scale = min(size[1] / width, size[0] / height)
    return min(int(width * scale) * int(height * scale), width * height)


def _wasted(height: int, width: int, size: Sequence[int]) -> int:
    return size[0] * size[1] - _effective(height, width, size)


def _tiled_image(number: int, generator: torch.Generator) -> Visual:
    down, across, rows, columns = tiles(number)
    n = TILE**2 + rows * (columns + 1)  # the whole image small, then its tiles with a newline after each row
    side = PATCH * TILE
    pixels = torch.randn(1, 1 + down * across, 3, side, side, generator=generator)
    return Visual("<image>" * n, {"pixel_values": pixels, "image_sizes": torch.tensor([SIZES[number % len(SIZES)]])})


def _next_processor(tokenizer: Any, template: str) -> Any:
    return LlavaNextProcessor(
        image_processor=_clip_images(PATCH * TILE, LlavaNextImageProcessorPil, image_grid_pinpoints=PINPOINTS),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


LLAVA_NEXT = Family(
    "llava_next",
    SPECIAL,
    lambda tokens: {
        "vision_config": _encoder(TILE),
        "text_config": {"model_type": "llama", **llama(tokens)},
        "image_token_index": tokens["<image>"],
        "image_seq_length": TILE**2,
        "image_grid_pinpoints": PINPOINTS,
        "vision_feature_layer": -2,
    },
    USER,
    _tiled_image,
    collate=padded_tiles,
    processor=_next_processor,
)

FRAMES = 4


def _fitted(rows: int, columns: int) -> tuple[int, int]:
    """What is left of patches where an image may have as many as :data:`MOST` tiles."""
    ratio = math.sqrt(rows * columns / (MOST * TILE**2))
    return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)


MOST = 2


def _one_of_several(_number: int, generator: torch.Generator) -> Visual:
    pixels = torch.randn(1, 1, 3, PATCH * TILE, PATCH * TILE, generator=generator)
    return Visual("<image>" * (TILE**2 + 1), {"pixel_values": pixels, "image_sizes": torch.tensor([SIZES[0]])})


def _onevision_image(number: int, generator: torch.Generator) -> Visual:
    down, across, rows, columns = tiles(number)
    rows, columns = _fitted(rows, columns)
    pixels = torch.randn(1, 1 + down * across, 3, PATCH * TILE, PATCH * TILE, generator=generator)
    n = TILE**2 + rows * (columns + 1)
    return Visual("<image>" * n, {"pixel_values": pixels, "image_sizes": torch.tensor([SIZES[number % len(SIZES)]])})


def _onevision_clip(_number: int, generator: torch.Generator) -> Visual:
    pixels = torch.randn(1, FRAMES, 3, PATCH * TILE, PATCH * TILE, generator=generator)
    # frames are pooled two by two, and the video ends with one newline
    return Visual("<video>" * (FRAMES * (TILE // 2) ** 2 + 1), {"pixel_values_videos": pixels})


def _counted(samples: Sequence[Sequence[Tensors]]) -> dict[str, Tensor]:
    """Pixels as in LLaVA-NeXT, and how many images each sample has."""
    tensors = padded_tiles(samples)
    counts = [sum("pixel_values" in visual for visual in sample) for sample in samples]
    return {**tensors, "batch_num_images": torch.tensor([n for n in counts if n])} if any(counts) else tensors


def _onevision_processor(tokenizer: Any, template: str) -> Any:
    square = {"height": PATCH * TILE, "width": PATCH * TILE}
    return images_only(LlavaOnevisionProcessor)(
        image_processor=LlavaOnevisionImageProcessorPil(size=square, image_grid_pinpoints=PINPOINTS),
        tokenizer=tokenizer,
        video_processor=NoVideos(),
        num_image_tokens=TILE**2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=f"anyres_max_{MOST}",
        chat_template=template,
    )


LLAVA_ONEVISION = Family(
    "llava_onevision",
    ("<image>", "<video>", "<|im_start|>", "<|im_end|>"),
    lambda tokens: {
        "vision_config": {**_encoder(TILE), "model_type": "siglip_vision_model"},
        "text_config": {"model_type": "qwen2", **llama(tokens)},
        "image_token_index": tokens["<image>"],
        "video_token_index": tokens["<video>"],
        "image_grid_pinpoints": PINPOINTS,
        "vision_aspect_ratio": f"anyres_max_{MOST}",
    },
    CHAT,
    _onevision_image,
    _onevision_clip,
    several=_one_of_several,
    words=("user", "assistant"),
    collate=_counted,
    processor=_onevision_processor,
)

# older versions of transformers have a name of their own for the images of Video-LLaVA
_IMAGES = (
    "pixel_values"
    if "pixel_values" in inspect.signature(VideoLlavaForConditionalGeneration.forward).parameters
    else "pixel_values_images"
)


def _square(_number: int, generator: torch.Generator) -> Visual:
    pixels = torch.randn(1, 3, PATCH * TILE, PATCH * TILE, generator=generator)
    return Visual("<image>" * TILE**2, {_IMAGES: pixels})


def _clip(_number: int, generator: torch.Generator) -> Visual:
    pixels = torch.randn(1, FRAMES, 3, PATCH * TILE, PATCH * TILE, generator=generator)
    # frames keep their [CLS]
    return Visual("<video>" * (FRAMES * (TILE**2 + 1)), {"pixel_values_videos": pixels})


def _video_processor(tokenizer: Any, template: str) -> Any:
    return images_only(VideoLlavaProcessor)(
        image_processor=_clip_images(PATCH * TILE, VideoLlavaImageProcessor),
        video_processor=FramesAsPictures(_clip_images(PATCH * TILE)),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


VIDEO_LLAVA = Family(
    "video_llava",
    ("<image>", "<video>"),
    lambda tokens: {
        "vision_config": _encoder(TILE),
        "text_config": {"model_type": "llama", **llama(tokens)},
        "image_token_index": tokens["<image>"],
        "video_token_index": tokens["<video>"],
        "image_seq_length": TILE**2,
        "video_seq_length": FRAMES * (TILE**2 + 1),
        "vision_feature_layer": -2,
    },
    USER,
    _square,
    _clip,
    several_sizes=False,
    processor=_video_processor,
)
