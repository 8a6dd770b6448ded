"""Models as large as published ones with random weights: speed and memory do not depend on what weights say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from tokenprune.core.errors import ConfigError, UnknownNameError, closest
from tokenprune.hf.adapters.base import adapter_for

__all__ = ["GEOMETRIES", "Geometry", "asked", "build_model", "geometry"]

Inputs = dict[str, Tensor]

WORDS: Final = 60
"""Text tokens of a prompt by default, half of them before what is shown."""


@dataclass(frozen=True)
class Geometry:
    """Sizes of a model, and prompts for it.

    Attributes
    ----------
    name : str
    config : callable
        ``small`` (few and narrow layers, as many visual tokens) -> configuration.
    shows : mapping of str to callable
        Kind of prompt -> function of configuration, batch and device that returns the ids of what is shown and the
        model's visual inputs. The first kind is the default.
    """

    name: str
    config: Callable[[bool], Any]
    shows: Mapping[str, Callable[[Any, int, Any], tuple[list[int], Inputs]]]

    def kind(self, name: str | None = None) -> str:
        """Look a kind of prompt up; None is the first.

        Raises
        ------
        ConfigError
            Not one of ``shows``.
        """
        if name is None:
            return next(iter(self.shows))
        if name not in self.shows:
            raise ConfigError(f"kind: {self.name} shows no {name!r}; {closest(name, self.shows)}")
        return name

    def inputs(self, model: Any, kind: str | None = None, batch: int = 1, words: int = WORDS, seed: int = 0) -> Inputs:
        """Prompts of one length: words, what is shown, words that differ; noise as pictures.

        Parameters
        ----------
        model : PreTrainedModel
        kind : str, optional
            One of ``shows``.
        batch : int, default 1
        words : int, default 60
            Text tokens, what marks the ends of images not counted.
        seed : int, default 0
        """
        kind = self.kind(kind)
        draw = torch.Generator().manual_seed(seed)
        shown, visual = self.shows[kind](model, batch, draw)
        said = torch.randint(1000, 20000, (batch, words), generator=draw) % (model.config.get_text_config().vocab_size)
        ids = torch.cat([said[:, : words // 2], torch.tensor(shown).expand(batch, -1), said[:, words // 2 :]], 1)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **visual}
        if any(name.endswith("grid_thw") for name in visual):
            config = model.config
            inputs["mm_token_type_ids"] = (ids == config.image_token_id) + 2 * (ids == config.video_token_id)
        return {name: value.to(model.device) for name, value in inputs.items()}


def asked(model: Any) -> Callable[[Tensor], Tensor]:
    """What counts as text in such prompts, from ids (B, S) to a mask: all behind what is shown, as ids are no words.

    Pass it as ``text`` to :func:`~tokenprune.attach` and :func:`~tokenprune.compile`.
    """
    adapter = adapter_for(model)

    def behind(ids: Tensor) -> Tensor:
        special = torch.tensor(sorted(adapter.special_ids), device=ids.device)
        return (adapter.image_mask(ids).cumsum(1) > 0) & ~torch.isin(ids, special)

    return behind


def _noise(model: Any, draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=draw).to(model.dtype)


def _llama(small: bool, width: int, hidden: int, layers: int, heads: int, vocab: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": 64 if small else width,
        "intermediate_size": 128 if small else hidden,
        "num_hidden_layers": 2 if small else layers,
        "num_attention_heads": 2 if small else heads,
        "num_key_value_heads": 2 if small else heads,
        "eos_token_id": None,
        "pad_token_id": 0,
    }


def _clip(small: bool, side: int) -> dict[str, Any]:
    return {
        "model_type": "clip_vision_model",
        "hidden_size": 64 if small else 1024,
        "intermediate_size": 128 if small else 4096,
        "num_hidden_layers": 3 if small else 24,
        "num_attention_heads": 2 if small else 16,
        "image_size": 14 * side,
        "patch_size": 14,
        "projection_dim": 64 if small else 768,
    }


def _llava(width: int, hidden: int, layers: int, heads: int) -> Callable[[bool], Any]:
    def config(small: bool) -> Any:
        from transformers import LlavaConfig

        side = 24
        return LlavaConfig(
            vision_config=_clip(small, side),
            text_config=_llama(small, width, hidden, layers, heads, 32064),
            image_token_id=32000,
            image_seq_length=side**2,
        )

    return config


def _video_llava(small: bool) -> Any:
    from transformers import VideoLlavaConfig

    side = 16
    return VideoLlavaConfig(
        vision_config=_clip(small, side),
        text_config=_llama(small, 4096, 11008, 32, 32, 32064),
        image_token_index=32000,
        video_token_index=32001,
        image_seq_length=side**2,
        video_seq_length=8 * (side**2 + 1),
    )


QWEN_IDS: Final = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}


def _rope(small: bool, theta: float, sections: Sequence[int]) -> dict[str, Any]:
    return {
        "rope_type": "default",
        "rope_theta": theta,
        "mrope_section": [2, 3, 3] if small else list(sections),
    }


def _qwen25(small: bool) -> Any:
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 152064,
            "hidden_size": 64 if small else 3584,
            "intermediate_size": 128 if small else 18944,
            "num_hidden_layers": 2 if small else 28,
            "num_attention_heads": 4 if small else 28,
            "num_key_value_heads": 4,
            "rope_parameters": _rope(small, 1e6, (16, 24, 24)),
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
        **QWEN_IDS,
    )


def _qwen3(small: bool) -> Any:
    from transformers import Qwen3VLConfig

    return Qwen3VLConfig(
        text_config={
            "vocab_size": 151936,
            "hidden_size": 64 if small else 4096,
            "intermediate_size": 128 if small else 12288,
            "num_hidden_layers": 4 if small else 36,
            "num_attention_heads": 4 if small else 32,
            "num_key_value_heads": 4 if small else 8,
            "head_dim": 16 if small else 128,
            "rope_parameters": _rope(small, 5e6, (24, 20, 20)),
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
        **QWEN_IDS,
    )


def _pictures(images: int) -> Callable[[Any, int, Any], tuple[list[int], Inputs]]:
    """Some pictures a prompt, one behind another."""

    def show(model: Any, batch: int, draw: Any) -> tuple[list[int], Inputs]:
        config = model.config
        side = config.vision_config.image_size
        shown = [token for _ in range(images) for token in (*[config.image_token_id] * config.image_seq_length, 13)]
        return shown, {"pixel_values": _noise(model, draw, batch * images, 3, side, side)}

    return show


def _eight_frames(model: Any, batch: int, draw: Any) -> tuple[list[int], Inputs]:
    """A clip of eight frames, each with its [CLS]."""
    config = model.config
    side = config.vision_config.image_size
    shown = [config.video_token_index] * config.video_seq_length
    return shown, {"pixel_values_videos": _noise(model, draw, batch, 8, 3, side, side)}


def _native(modality: str, grid: tuple[int, int, int]) -> Callable[[Any, int, Any], tuple[list[int], Inputs]]:
    """A picture or clip of Qwen's, in patches (frames, rows, columns); Qwen3-VL puts times between frames."""

    def show(model: Any, batch: int, draw: Any) -> tuple[list[int], Inputs]:
        config, vision = model.config, model.config.vision_config
        placeholder = config.image_token_id if modality == "image" else config.video_token_id
        each = grid[1] * grid[2] // vision.spatial_merge_size**2
        start, end = config.vision_start_token_id, config.vision_end_token_id
        if modality == "video" and "qwen3" in config.model_type:
            frame = [start, *[placeholder] * each, end]
            shown = [token for moment in range(grid[0]) for token in (27, 15 + moment, 6486, 29, *frame)]
        else:
            shown = [start, *[placeholder] * (grid[0] * each), end]
        width = 3 * vision.temporal_patch_size * vision.patch_size**2
        suffix = "" if modality == "image" else "_videos"
        patches = batch * grid[0] * grid[1] * grid[2]
        return shown, {
            f"pixel_values{suffix}": _noise(model, draw, patches, width),
            f"{modality}_grid_thw": torch.tensor([grid] * batch),
        }

    return show


QWEN_SHOWS: Final = {
    "image": _native("image", (1, 36, 36)),
    "large-image": _native("image", (1, 60, 80)),
    "video": _native("video", (4, 24, 24)),
    "long-video": _native("video", (32, 32, 32)),
}
"""A picture of 324 tokens, one of 1,200 (1,280 x 960 pixels in patches of 16); eight frames, in pairs, of 576 tokens,
and 64 frames of 8,192."""

LLAVA_SHOWS: Final = {"image": _pictures(1), "eight-images": _pictures(8)}

GEOMETRIES: Final[Mapping[str, Geometry]] = {
    g.name: g
    for g in (
        Geometry("llava-1.5-7b", _llava(4096, 11008, 32, 32), LLAVA_SHOWS),
        Geometry("llava-1.5-13b", _llava(5120, 13824, 40, 40), LLAVA_SHOWS),
        Geometry("qwen2.5-vl-7b", _qwen25, QWEN_SHOWS),
        Geometry("qwen3-vl-8b", _qwen3, QWEN_SHOWS),
        Geometry("video-llava-7b", _video_llava, {"video": _eight_frames}),
    )
}
"""Name -> sizes of a published model."""


def geometry(name: str) -> Geometry:
    """Look a geometry up."""
    if name not in GEOMETRIES:
        raise UnknownNameError(f"geometry: no {name!r}; {closest(name, GEOMETRIES)}")
    return GEOMETRIES[name]


def build_model(
    name: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    small: bool = False,
    attention: str = "sdpa",
    layers: int | None = None,
) -> Any:
    """Make a model of random weights where it will run.

    Parameters
    ----------
    name : str
        One of :data:`GEOMETRIES`.
    device : str, default "cpu"
    dtype : torch.dtype, default float32
    small : bool, default False
        Few and narrow layers with all the parts and as many visual tokens, for a CPU.
    attention : str, default "sdpa"
    layers : int, optional
        Of the language model, where it is to have fewer than the published one; widths stay.
    """
    from transformers import AutoModelForImageTextToText

    config = geometry(name).config(small)
    if layers is not None:
        config.get_text_config().num_hidden_layers = layers
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attention)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model.eval()
