"""The Qwen-VL families: images of any grid, positions of three axes, windows, features added between layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil, Qwen2VLProcessor, Qwen3VLProcessor

from tokenprune.zoo.tiny.family import CHAT, Family, NoVideos, Visual, images_only, llama, token_types

__all__ = ["QWEN2_5_VL", "QWEN2_VL", "QWEN3_VL", "QWEN3_VL_MOE"]

IMAGE, VIDEO, START, END = "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
SPECIAL = (IMAGE, VIDEO, START, END, "<|im_start|>", "<|im_end|>")
WORDS = ("user", "assistant", "<", ">", "seconds", "0", "1", "2", "3", "5")
NAMED = {"image_token": IMAGE, "video_token": VIDEO, "vision_bos_token": START, "vision_eos_token": END}

PATCH, MERGE, TEMPORAL = 4, 2, 2
PIXELS = (PATCH * MERGE) ** 2
"""Pixels of a token."""

GRIDS = ((1, 8, 8), (1, 4, 10), (1, 6, 4))
CLIPS = ((3, 6, 4), (2, 4, 8))


def _pixels(grid: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
    patches = grid[0] * grid[1] * grid[2]
    return torch.randn(patches, 3 * TEMPORAL * PATCH * PATCH, generator=generator)


def _image(number: int, generator: torch.Generator) -> Visual:
    grid = GRIDS[number % len(GRIDS)]
    text = START + IMAGE * (grid[1] * grid[2] // MERGE**2) + END
    return Visual(text, {"pixel_values": _pixels(grid, generator), "image_grid_thw": torch.tensor([grid])})


def _clip(number: int, generator: torch.Generator, *, timed: bool = False, stamped: bool = False) -> Visual:
    """A video: one block of placeholders, or (``stamped``) one a frame behind its time."""
    grid = CLIPS[number % len(CLIPS)]
    block = VIDEO * (grid[1] * grid[2] // MERGE**2)
    if stamped:
        text = "".join(f"<{t + 0.5:.1f} seconds>{START}{block}{END}" for t in range(grid[0]))
    else:
        text = START + block * grid[0] + END
    tensors = {"pixel_values_videos": _pixels(grid, generator), "video_grid_thw": torch.tensor([grid])}
    if timed:
        tensors["second_per_grid_ts"] = torch.tensor([0.5 * (1 + number % 2)])
    return Visual(text, tensors)


def _config(
    vision: Mapping[str, Any], language: Callable[[Mapping[str, int]], dict[str, Any]]
) -> Callable[[Mapping[str, int]], dict[str, Any]]:
    def config(tokens: Mapping[str, int]) -> dict[str, Any]:
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
        return {
            "text_config": llama(tokens, num_hidden_layers=4, rope_parameters=rope, **language(tokens)),
            "vision_config": {
                "num_heads": 2,
                "patch_size": PATCH,
                "spatial_merge_size": MERGE,
                "temporal_patch_size": TEMPORAL,
                **vision,
            },
            "image_token_id": tokens[IMAGE],
            "video_token_id": tokens[VIDEO],
            "vision_start_token_id": tokens[START],
            "vision_end_token_id": tokens[END],
        }

    return config


def _processor(kind: Any, **changes: Any) -> Callable[[Any, str], Any]:
    def build(tokenizer: Any, template: str) -> Any:
        # every pixel counts: images are scaled to multiples of a token, and down to at most 144 of them
        size = {"shortest_edge": 4 * PIXELS, "longest_edge": 144 * PIXELS}
        images = Qwen2VLImageProcessorPil(
            size=size, patch_size=PATCH, merge_size=MERGE, temporal_patch_size=TEMPORAL, **changes
        )
        return images_only(kind)(images, tokenizer, NoVideos(), chat_template=template)

    return build


def _family(
    model_type: str,
    vision: Mapping[str, Any],
    processor: Callable[[Any, str], Any],
    *,
    timed: bool = False,
    stamped: bool = False,
    **language: Any,
) -> Family:
    return Family(
        model_type,
        SPECIAL,
        _config(vision, lambda _tokens: language),
        CHAT,
        _image,
        lambda number, generator: _clip(number, generator, timed=timed, stamped=stamped),
        words=WORDS,
        named=NAMED,
        types=token_types("mm_token_type_ids", [IMAGE], [VIDEO]),
        processor=processor,
        marks=(START + IMAGE + END, START + VIDEO + END),
    )


QWEN2_VL = _family(
    "qwen2_vl", {"depth": 2, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}, _processor(Qwen2VLProcessor)
)

QWEN2_5_VL = _family(
    "qwen2_5_vl",
    {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "out_hidden_size": 64,
        "window_size": 2 * PATCH * MERGE,  # windows of two by two merged patches
        "fullatt_block_indexes": [1],
        "tokens_per_second": 4,
    },
    _processor(Qwen2_5_VLProcessor),
    timed=True,
)

_QWEN3_VISION = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "out_hidden_size": 64,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1],
}

_QWEN3_PROCESSOR = _processor(Qwen3VLProcessor, image_mean=[0.5] * 3, image_std=[0.5] * 3)

QWEN3_VL = _family("qwen3_vl", _QWEN3_VISION, _QWEN3_PROCESSOR, stamped=True, head_dim=16)

QWEN3_VL_MOE = _family(
    "qwen3_vl_moe",
    _QWEN3_VISION,
    _QWEN3_PROCESSOR,
    stamped=True,
    head_dim=16,
    num_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    decoder_sparse_step=1,
)
