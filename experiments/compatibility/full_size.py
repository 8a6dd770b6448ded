"""Generate with models as large as real ones, at random weights: images and eight-frame videos, four prompts at once.

    python experiments/compatibility/full_size.py --device cuda --out experiments/compatibility/results/full-size.json

For each model: the laws (everything kept gives the plain model's tokens; logits of the last token with most dropped,
against the whole prompt with those masked out), tokens that enter the language model, peak memory above the weights,
and seconds to generate, with and without pruning. ``--small`` shrinks everything for a try on a CPU.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from laws import environment
from torch import Tensor

import tokenprune as tp
from tokenprune.evaluation.examination import mask_out
from tokenprune.models import adapter_for
from tokenprune.testing.laws import difference, forward

Inputs = dict[str, Tensor]
WORDS = 24
"""Text tokens before and after what is shown."""


@dataclass(frozen=True)
class Geometry:
    """A model's sizes, and prompts for it."""

    config: Callable[[bool], Any]
    prompts: dict[str, Callable[[Any, int], Inputs]]
    keep: float | int


def llava_config(small: bool) -> Any:
    """LLaVA-1.5-7B."""
    return transformers.LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 64 if small else 1024,
            "intermediate_size": 128 if small else 4096,
            "num_hidden_layers": 2 if small else 24,
            "num_attention_heads": 2 if small else 16,
            "image_size": 336,
            "patch_size": 14,
        },
        text_config=llama_sizes(small, vocab=32064),
        image_token_id=32000,
        image_seq_length=576,
    )


def llama_sizes(small: bool, vocab: int) -> dict[str, Any]:
    """Llama-2-7B."""
    return {
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": 64 if small else 4096,
        "intermediate_size": 128 if small else 11008,
        "num_hidden_layers": 2 if small else 32,
        "num_attention_heads": 2 if small else 32,
        "num_key_value_heads": 2 if small else 32,
        "eos_token_id": None,
        "pad_token_id": 0,
    }


def qwen_ids() -> dict[str, int]:
    """Ids around what is shown."""
    return {
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
    }


def qwen25_config(small: bool) -> Any:
    """Qwen2.5-VL-7B."""
    return transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 152064,
            "hidden_size": 64 if small else 3584,
            "intermediate_size": 128 if small else 18944,
            "num_hidden_layers": 2 if small else 28,
            "num_attention_heads": 4 if small else 28,
            "num_key_value_heads": 4,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [2, 3, 3] if small else [16, 24, 24],
            },
            "eos_token_id": None,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 64 if small else 1280,
            "intermediate_size": 128 if small else 3420,
            "depth": 2 if small else 32,
            "num_heads": 2 if small else 16,
            "out_hidden_size": 64 if small else 3584,
            "fullatt_block_indexes": [1] if small else [7, 15, 23, 31],
        },
        **qwen_ids(),
    )


def qwen3_config(small: bool) -> Any:
    """Qwen3-VL-8B."""
    return transformers.Qwen3VLConfig(
        text_config={
            "vocab_size": 151936,
            "hidden_size": 64 if small else 4096,
            "intermediate_size": 128 if small else 12288,
            "num_hidden_layers": 4 if small else 36,
            "num_attention_heads": 4 if small else 32,
            "num_key_value_heads": 4 if small else 8,
            "head_dim": 16 if small else 128,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [2, 3, 3] if small else [24, 20, 20],
            },
            "eos_token_id": None,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 64 if small else 1152,
            "intermediate_size": 128 if small else 4304,
            "depth": 3 if small else 27,
            "num_heads": 2 if small else 16,
            "out_hidden_size": 64 if small else 4096,
            "deepstack_visual_indexes": [0, 1] if small else [8, 16, 24],
        },
        **qwen_ids(),
    )


def rows(model: Any, shown: list[int], batch: int) -> Inputs:
    """Prompts of one length: words, what is shown, words that differ."""
    words = torch.randint(1000, 20000, (batch, 2 * WORDS), generator=torch.Generator().manual_seed(0))
    middle = torch.tensor(shown).expand(batch, -1)
    ids = torch.cat([words[:, :WORDS], middle, words[:, WORDS:]], 1).to(model.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def pixels(model: Any, *shape: int) -> Tensor:
    """Noise."""
    return torch.randn(*shape, device=model.device, dtype=model.dtype)


def llava_images(model: Any, batch: int, images: int = 1) -> Inputs:
    """Some pictures a prompt."""
    placeholder = model.config.image_token_id
    shown = [token for _ in range(images) for token in (*[placeholder] * 576, 13)]
    return {**rows(model, shown, batch), "pixel_values": pixels(model, batch * images, 3, 336, 336)}


def qwen_images(model: Any, batch: int) -> Inputs:
    """One picture a prompt: 36 by 36 patches, 324 tokens."""
    return qwen_prompt(model, batch, "image", (1, 36, 36))


def qwen_videos(model: Any, batch: int) -> Inputs:
    """Eight frames a prompt, in pairs: four times 24 by 24 patches, 576 tokens."""
    return qwen_prompt(model, batch, "video", (4, 24, 24))


def qwen_prompt(model: Any, batch: int, modality: str, grid: tuple[int, int, int]) -> Inputs:
    """Placeholders of one picture or video; Qwen3-VL's frames stand apart, behind their times."""
    config, vision = model.config, model.config.vision_config
    placeholder = config.image_token_id if modality == "image" else config.video_token_id
    each = grid[1] * grid[2] // 4
    frame = [config.vision_start_token_id, *[placeholder] * each, config.vision_end_token_id]
    if modality == "image":
        shown = frame
    elif "qwen3" in config.model_type:
        shown = [token for time_ in range(grid[0]) for token in (27, 15 + time_, 6486, 29, *frame)]
    else:
        shown = [frame[0], *[placeholder] * each * grid[0], frame[-1]]
    inputs = rows(model, shown, batch)
    width = 3 * vision.temporal_patch_size * vision.patch_size**2
    suffix = "" if modality == "image" else "_videos"
    inputs[f"pixel_values{suffix}"] = pixels(model, batch * grid[0] * grid[1] * grid[2], width)
    inputs[f"{modality}_grid_thw"] = torch.tensor([grid] * batch, device=model.device)
    kinds = {"image": 1, "video": 2}
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == placeholder).long() * kinds[modality]
    return inputs


GEOMETRIES = {
    "LLaVA-1.5-7B": Geometry(
        llava_config,
        {"image": llava_images, "eight images": lambda model, batch: llava_images(model, batch, 8)},
        64,
    ),
    "Qwen2.5-VL-7B": Geometry(qwen25_config, {"image": qwen_images, "video": qwen_videos}, 0.1),
    "Qwen3-VL-8B": Geometry(qwen3_config, {"image": qwen_images, "video": qwen_videos}, 0.1),
}


def build(config: Any, device: str, dtype: torch.dtype) -> Any:
    """A model of random weights, made where it will run."""
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForImageTextToText.from_config(config, dtype=dtype)
    model.generation_config.pad_token_id = 0
    return model.eval()


def timed(model: Any, inputs: Inputs, new: int) -> dict[str, Any]:
    """Generate; what it took. The first call warms up."""
    cuda = model.device.type == "cuda"
    quiet = list(adapter_for(model).image_token_ids)
    for _ in range(2):
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            weights = torch.cuda.memory_allocated()
        start = time.perf_counter()
        out = model.generate(**inputs, max_new_tokens=new, do_sample=False, suppress_tokens=quiet)
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    peak = (torch.cuda.max_memory_allocated() - weights) / 2**30 if cuda else None
    return {"seconds": seconds, "peak_gib_above_weights": peak, "tokens": out[:, inputs["input_ids"].shape[1] :]}


def measure(model: Any, inputs: Inputs, keep: float | int, new: int) -> dict[str, Any]:
    """Laws and costs of one kind of prompt."""
    full = timed(model, inputs, new)
    with tp.attach(model, "mi-pruner", 1.0):
        everything = timed(model, inputs, new)
    with tp.attach(model, "mi-pruner", keep) as run:
        pruned = timed(model, inputs, new)
        run.history.clear()
        last = forward(model, inputs)[:, -1]
    prefill = run.history[-1]
    return {
        "batch": len(inputs["input_ids"]),
        "keep all gives the plain tokens": bool(torch.equal(full["tokens"], everything["tokens"])),
        "drop = mask out": difference(last, mask_out(model, inputs, prefill)),
        "visual tokens": [run.tokens_before, run.tokens_after],
        "sequence": [prefill.sequence_before, prefill.sequence_after],
        "full": {k: v for k, v in full.items() if k != "tokens"},
        "pruned": {k: v for k, v in pruned.items() if k != "tokens"},
    }


@torch.no_grad()
def main() -> None:
    """Measure and write JSON after each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(GEOMETRIES), choices=list(GEOMETRIES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    report: dict[str, Any] = {"environment": environment(asked.device), "dtype": asked.dtype, "models": {}}
    for name in asked.models:
        geometry = GEOMETRIES[name]
        model = build(geometry.config(asked.small), asked.device, getattr(torch, asked.dtype))
        found = {"parameters": sum(p.numel() for p in model.parameters())}
        for kind, make in geometry.prompts.items():
            found[kind] = measure(model, make(model, asked.batch), geometry.keep, asked.new_tokens)
            print(name, kind, json.dumps(found[kind]), flush=True)
        report["models"][name] = found
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(report, indent=1))
        del model


if __name__ == "__main__":
    main()
