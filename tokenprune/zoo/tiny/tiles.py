"""Families that cut images into tiles of one size and shrink each by pixel shuffle or pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    GotOcr2ImageProcessorPil,
    Idefics3Processor,
    InternVLProcessor,
)

# older versions of transformers export it with torchvision only
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from tokenprune.zoo.tiny.family import (
    CHAT,
    Chat,
    Family,
    NoVideos,
    Tensors,
    Visual,
    images_only,
    llama,
    token_types,
)

__all__ = ["GEMMA3", "IDEFICS3", "INTERNVL", "SMOLVLM"]

SIDE, PATCH, SCALE = 64, 8, 2
TOKENS = (SIDE // PATCH // SCALE) ** 2
"""Tokens of a tile."""

SPLITS = ((1, 2), (0, 0), (2, 1))
"""Rows and columns of tiles; an image that is not split is shown whole only."""

FRAMES = 3


def _encoder(**changes: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
        **changes,
    }


def _tiles(count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=generator)


CONTEXT = "<IMG_CONTEXT>"


def _internvl_image(number: int, generator: torch.Generator) -> Visual:
    rows, columns = SPLITS[number % len(SPLITS)]
    count = rows * columns + 1  # tiles first, the whole image last
    return Visual("<img>" + CONTEXT * TOKENS * count + "</img>", {"pixel_values": _tiles(count, generator)})


def _internvl_clip(_number: int, generator: torch.Generator) -> Visual:
    frames = (f"Frame{i + 1} : <img>{CONTEXT * TOKENS}</img>" for i in range(FRAMES))
    return Visual(" ".join(frames), {"pixel_values": _tiles(FRAMES, generator)})


def _internvl_processor(tokenizer: Any, template: str) -> Any:
    images = GotOcr2ImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    return images_only(InternVLProcessor)(
        images, tokenizer, NoVideos(), image_seq_length=TOKENS, chat_template=template
    )


INTERNVL = Family(
    "internvl",
    (CONTEXT, "<img>", "</img>", "<|im_start|>", "<|im_end|>", "<video>"),
    lambda tokens: {
        "vision_config": _encoder(),
        "text_config": {"model_type": "qwen2", **llama(tokens)},
        "image_token_id": tokens[CONTEXT],
        "image_seq_length": TOKENS,
        "downsample_ratio": 1 / SCALE,
        "tie_word_embeddings": False,
    },
    CHAT,
    _internvl_image,
    _internvl_clip,
    words=("user", "assistant", *(f"Frame{i + 1}" for i in range(FRAMES))),
    named={
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": CONTEXT,
        "video_token": "<video>",
    },
    processor=_internvl_processor,
    marks=(CONTEXT, "<video>"),
)

AROUND, WHOLE, END = "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"
PLACES = tuple(f"<row_{row + 1}_col_{column + 1}>" for row in range(2) for column in range(2))


def _idefics_image(number: int, generator: torch.Generator) -> Visual:
    rows, columns = SPLITS[number % len(SPLITS)]
    block = "<image>" * TOKENS
    text = "".join(f"{AROUND}<row_{r + 1}_col_{c + 1}>{block}" for r in range(rows) for c in range(columns))
    pixels = _tiles(rows * columns + 1, generator)
    seen = torch.ones(len(pixels), SIDE, SIDE, dtype=torch.long)
    if not rows:  # a wide image that is not split leaves the lower part of its tile empty
        seen[:, SIDE - 2 * PATCH :] = 0
        pixels = pixels * seen.unsqueeze(1)
    return Visual(f"{text}{AROUND}{WHOLE}{block}{AROUND}", {"pixel_values": pixels, "pixel_attention_mask": seen})


def _smolvlm_clip(_number: int, generator: torch.Generator) -> Visual:
    frames = (f"Frame from 00 : 0{i} : {AROUND}{WHOLE}{'<image>' * TOKENS}{AROUND}" for i in range(FRAMES))
    seen = torch.ones(FRAMES, SIDE, SIDE, dtype=torch.long)
    return Visual(" ".join(frames), {"pixel_values": _tiles(FRAMES, generator), "pixel_attention_mask": seen})


def _rows_of_tiles(samples: Sequence[Sequence[Tensors]]) -> dict[str, Tensor]:
    """One row a sample, filled up with black tiles: (B, tiles, ...)."""
    named = ("pixel_values", "pixel_attention_mask")
    rows = [{name: torch.cat([visual[name] for visual in sample]) for name in named} for sample in samples if sample]
    if not rows:
        return {}
    most = max(len(row["pixel_values"]) for row in rows)
    shown = iter(rows)
    whole = [next(shown) if sample else {name: rows[0][name][:0] for name in named} for sample in samples]
    return {name: torch.stack([torch.cat([row[name], _black(row[name], most)]) for row in whole]) for name in named}


def _black(tiles: Tensor, most: int) -> Tensor:
    return tiles.new_zeros(most - len(tiles), *tiles.shape[1:])


def _idefics_processor(tokenizer: Any, template: str) -> Any:
    # SmolVLM's own processor reads images alike, but needs a package for the numbers in what it says of videos
    images = Idefics3ImageProcessorPil(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    return Idefics3Processor(images, tokenizer, image_seq_len=TOKENS, chat_template=template)


def _idefics(model_type: str, **changes: Any) -> Family:
    def config(tokens: Mapping[str, int]) -> dict[str, Any]:
        return {
            "vision_config": _encoder(),
            "text_config": {"model_type": "llama", **llama(tokens)},
            "image_token_id": tokens["<image>"],
            "scale_factor": SCALE,
            "pad_token_id": tokens["<pad>"],
        }

    return Family(
        model_type,
        ("<image>", AROUND, WHOLE, END, *PLACES),
        config,
        Chat("User :", "Assistant :", END, "<s>"),
        _idefics_image,
        collate=_rows_of_tiles,
        processor=_idefics_processor,
        **changes,
    )


SPEAKERS = ("User", "Assistant")

IDEFICS3 = _idefics("idefics3", words=SPEAKERS)

SMOLVLM = _idefics(
    "smolvlm",
    video=_smolvlm_clip,
    words=(*SPEAKERS, "Frame", "from", "00", *(f"0{i}" for i in range(FRAMES))),
    # images and frames would share one name for their pixels
    without=("image-and-video",),
)


def _gemma_image(_number: int, generator: torch.Generator) -> Visual:
    block = "<image_soft_token>" * TOKENS
    return Visual(f"<start_of_image>{block}<end_of_image>", {"pixel_values": _tiles(1, generator)})


def _gemma_processor(tokenizer: Any, template: str) -> Any:
    images = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=TOKENS)


GEMMA3 = Family(
    "gemma3",
    ("<image_soft_token>", "<start_of_image>", "<end_of_image>", "<start_of_turn>", "<end_of_turn>"),
    lambda tokens: {
        "vision_config": _encoder(model_type="siglip_vision_model"),
        "text_config": {
            "model_type": "gemma3_text",
            # embeddings are scaled by the root of the width: tied ones would predict the last token again and again
            **llama(tokens, num_hidden_layers=4, tie_word_embeddings=False),
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 12,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
        "mm_tokens_per_image": TOKENS,
        "image_token_index": tokens["<image_soft_token>"],
        "boi_token_index": tokens["<start_of_image>"],
        "eoi_token_index": tokens["<end_of_image>"],
        "tie_word_embeddings": False,
        "pad_token_id": tokens["<pad>"],
        "eos_token_id": None,
    },
    Chat("<start_of_turn> user", "<start_of_turn> model", "<end_of_turn>", "<s>"),
    _gemma_image,
    words=("user", "model"),
    named={
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    },
    processor=_gemma_processor,
    marks=("<start_of_image>", ""),
    types=token_types("token_type_ids", ["<image_soft_token>"]),
    sliding=True,
    several_sizes=False,
)
