"""Qwen3-VL in small, and a forward pass of several such models at once.

The models of one run differ in their weights alone: parameters carry a leading axis K, so that K trainings share their
pictures, their questions and every launch on the accelerator. As in ``experiments.embedded.network``, a picture and
what precedes it are computed once, and every question about it is a branch that sees them and itself alone.
``tests/zoo`` holds all of it to the stock model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from experiments.embedded.batches import Shown
from experiments.embedded.clips import MOTIONS
from experiments.embedded.network import PATCH, Branches, plain_state
from experiments.embedded.vocabulary import (
    ALL_WORDS,
    BOS,
    EOS,
    IMAGE,
    PAD,
    VIDEO,
    VISION_END,
    VISION_START,
    encode,
)
from experiments.trainings.layers import State, attention, layer_norm, linear, parts_of, rms_norm, turn
from tokenprune.data.scenes.atlas import CHARACTERS
from tokenprune.data.scenes.world import COLORS, NAMES

MERGE, TEMPORAL, TABLE = 2, 2, 24
"""Patches a token, down and across; frames a token; side of the table of learned positions."""
FRAMES_A_SECOND = 2
MEAN, STD = 127.5, 127.5
SECTIONS = (12, 10, 10)
"""Rotary frequencies of time, row and column."""
THETA = 10000.0
ALIGNED = 64


def build(width: int = 256, seen: int = 192, depth: int = 8, layers: int = 6) -> Any:
    """Build one model with fresh weights; 64 dimensions a head.

    Parameters
    ----------
    width, layers : int
        Of the language model.
    seen, depth : int
        Width and layers of the encoder. Features of two of its layers enter the first two of the language model.
    """
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(ALL_WORDS),
            "hidden_size": width,
            "intermediate_size": width * 8 // 3 // 16 * 16,
            "num_hidden_layers": layers,
            "num_attention_heads": max(1, width // 64),
            "num_key_value_heads": max(1, width // 64),
            "head_dim": 64,
            "max_position_embeddings": 4096,
            "initializer_range": 0.04,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": THETA,
                "mrope_section": list(SECTIONS),
                "mrope_interleaved": True,
            },
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
        },
        vision_config={
            "depth": depth,
            "hidden_size": seen,
            "intermediate_size": 4 * seen,
            "num_heads": max(1, seen // 64),
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL,
            "out_hidden_size": width,
            "num_position_embeddings": TABLE**2,
            "deepstack_visual_indexes": [depth // 3, depth * 2 // 3],
            "initializer_range": 0.04,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=False,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    model = Qwen3VLForConditionalGeneration(config).float()
    visual = model.model.visual
    for merger in (visual.merger, *visual.deepstack_merger_list):
        for layer in (merger.linear_fc1, merger.linear_fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def heads_of(model: Any) -> dict[str, nn.Linear]:
    """What training alone reads, thrown away afterwards: from a patch what it shows, from a token its place."""
    seen, width = model.config.vision_config.hidden_size, model.config.text_config.hidden_size
    return {
        "object": nn.Linear(seen, len(NAMES) + 2),
        "color": nn.Linear(seen, len(COLORS) + 1),
        "character": nn.Linear(seen, len(CHARACTERS) + 1),
        "place": nn.Linear(width, 2),
        "motion": nn.Linear(seen, len(MOTIONS) + 1),
    }


class Stack:
    """Parameters of several models of one shape in one tensor.

    Parameters
    ----------
    models : sequence of model
    heads : sequence of dict of Linear
        Of each model; named ``heads.object.weight`` and so on.
    """

    def __init__(self, models: Sequence[Any], heads: Sequence[Mapping[str, nn.Linear]]) -> None:
        named = [
            plain_state(model)
            | {f"heads.{head}.{name}": p for head, layer in own.items() for name, p in layer.named_parameters()}
            for model, own in zip(models, heads, strict=True)
        ]
        self.shapes = {name: tuple(p.shape) for name, p in named[0].items()}
        # every parameter of every model begins at a multiple of ALIGNED: products of matrices that do not are slow
        self.sizes = [-(-p.numel() // ALIGNED) * ALIGNED for p in named[0].values()]
        self.flat = torch.stack(
            [
                torch.cat(
                    [
                        F.pad(p.detach().flatten(), (0, n - p.numel()))
                        for p, n in zip(own.values(), self.sizes, strict=True)
                    ]
                )
                for own in named
            ]
        )

    def state(self, flat: Tensor) -> dict[str, Tensor]:
        """Parameters by name, (K, ...), as views of (K, all)."""
        found = {}
        for (name, shape), part in zip(self.shapes.items(), flat.split(self.sizes, 1), strict=True):
            found[name] = part[:, : math.prod(shape)].unflatten(1, shape)
        return found

    def spread(self, values: Mapping[str, float]) -> Tensor:
        """A number for each parameter, repeated for each of its entries: (all,)."""
        return torch.cat([torch.full((n,), values[name]) for name, n in zip(self.shapes, self.sizes, strict=True)])


@dataclass(frozen=True)
class Seen:
    """How what a batch shows lies in the encoder and in the prompt; everything follows from its shape.

    Attributes
    ----------
    shown : Shown
    """

    shown: Shown

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of a frame."""
        return self.shown.size[1] // PATCH, self.shown.size[0] // PATCH

    @property
    def steps(self) -> int:
        """How many blocks of tokens stand for a clip; a picture is one."""
        return max(1, self.shown.frames // TEMPORAL)

    @cached_property
    def order(self) -> Tensor:
        """Patches, numbered row by row, in the order of the encoder: the four of a token one behind the other."""
        rows, columns = self.grid
        patches = torch.arange(rows * columns).view(rows // MERGE, MERGE, columns // MERGE, MERGE)
        return patches.transpose(1, 2).flatten()

    @cached_property
    def places(self) -> Tensor:
        """Row and column of each patch, in the order of the encoder: (2, patches)."""
        return torch.stack([self.order // self.grid[1], self.order % self.grid[1]])

    @cached_property
    def interpolation(self) -> Tensor:
        """Weights that draw the table of learned positions out to the grid: (patches, TABLE**2)."""
        hat = []
        for place, size in zip(self.places, self.grid, strict=True):
            where = place.double() * (TABLE - 1) / max(1, size - 1)
            hat.append((1 - (where[:, None] - torch.arange(TABLE)).abs()).clamp_min(0))
        return (hat[0][:, :, None] * hat[1][:, None, :]).flatten(1).float()

    @cached_property
    def turns(self) -> Tensor:
        """Rotary angles of patches: (patches, 64)."""
        frequency = 1.0 / THETA ** (torch.arange(0, 32, 2).double() / 32)
        angles = (self.places[..., None] * frequency).transpose(0, 1).flatten(1)
        return torch.cat([angles, angles], -1).float()

    @cached_property
    def context(self) -> tuple[Tensor, Tensor, Tensor, int]:
        """Everything in front of the questions.

        Returns
        -------
        tuple
            Token ids (S,), positions in time, row and column (3, S), where visual tokens stand (V,), and the position
            of a question's first token.
        """
        rows, columns = (side // MERGE for side in self.grid)
        place = VIDEO if self.shown.frames > 1 else IMAGE
        ids, positions, visual, here = [], [], [], 0

        def say(tokens: Sequence[int]) -> None:
            nonlocal here
            ids.extend(tokens)
            positions.append(torch.arange(here, here + len(tokens)).expand(3, -1))
            here += len(tokens)

        say([BOS, *encode("USER:")])
        for step in range(self.steps):
            if self.shown.frames > 1:
                seconds = (step * TEMPORAL + (TEMPORAL - 1) / 2) / FRAMES_A_SECOND
                say(encode(f"<{seconds:.1f} seconds>"))
            say([VISION_START])
            visual += range(len(ids), len(ids) + rows * columns)
            ids += [place] * (rows * columns)
            down, across = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            positions.append(torch.stack([torch.zeros_like(down), down, across]).flatten(1) + here)
            here += max(rows, columns)
            say([VISION_END])
        return torch.tensor(ids), torch.cat(positions, 1), torch.tensor(visual), here

    @property
    def start(self) -> int:
        """Tokens in front of the questions."""
        return len(self.context[0])

    @cached_property
    def centres(self) -> Tensor:
        """Row and column of each token of a frame, both from -1 to 1: (tokens, 2)."""
        lines = (torch.linspace(-1, 1, side // MERGE) for side in self.grid)
        return torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).flatten(0, 1)

    def tensors(self, device: str) -> dict[str, Tensor]:
        """All of it, for :func:`encode_pictures` and :func:`answer`."""
        ids, positions, visual, first = self.context
        made = {
            "order": self.order,
            "interpolation": self.interpolation,
            "turns": self.turns,
            "ids": ids,
            "positions": positions,
            "visual": visual,
            "first": torch.tensor(first),
            "centres": self.centres,
        }
        return {name: tensor.to(device) for name, tensor in made.items()}


ENCODER_LAYER = tuple(
    f"{layer}.{part}"
    for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.linear_fc1", "mlp.linear_fc2")
    for part in ("weight", "bias")
)


def encoder_layer(x: Tensor, parts: tuple[Tensor, ...], cos: Tensor, sin: Tensor) -> Tensor:
    """One layer of the encoder: x (K, B, N, seen), parameters in the order of ``ENCODER_LAYER``."""
    norm1, norm1_, qkv, qkv_, proj, proj_, norm2, norm2_, fc1, fc1_, fc2, fc2_ = parts
    h = linear(layer_norm(x, norm1, norm1_), qkv, qkv_)
    q, k, v = h.unflatten(-1, (3, -1, 64)).unbind(3)
    q, k = (turn(w, cos[:, None], sin[:, None]) for w in (q, k))
    x = x + linear(attention(q, k, v), proj, proj_)
    h = linear(layer_norm(x, norm2, norm2_), fc1, fc1_)
    return x + linear(F.gelu(h, approximate="tanh"), fc2, fc2_)


MERGER = tuple(f"{layer}.{part}" for layer in ("norm", "linear_fc1", "linear_fc2") for part in ("weight", "bias"))


def merged(x: Tensor, parts: tuple[Tensor, ...], deep: bool) -> Tensor:
    """Tokens of patches: x (K, B, N, seen) to (K, B, N / 4, width); parameters in the order of ``MERGER``."""
    norm, norm_, fc1, fc1_, fc2, fc2_ = parts
    if deep:
        x = layer_norm(x.unflatten(2, (-1, MERGE**2)).flatten(3), norm, norm_)
    else:
        x = layer_norm(x, norm, norm_).unflatten(2, (-1, MERGE**2)).flatten(3)
    return linear(F.gelu(linear(x, fc1, fc1_)), fc2, fc2_)


DECODER_LAYER = (
    "input_layernorm.weight",
    *(f"self_attn.{part}.weight" for part in ("q_proj", "k_proj", "v_proj", "q_norm", "k_norm", "o_proj")),
    "post_attention_layernorm.weight",
    *(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
)


def decoder_layer(x: Tensor, parts: tuple[Tensor, ...], cos: Tensor, sin: Tensor, mask: Tensor, start: int) -> Tensor:
    """One layer of the language model: x (K, B, S, width), parameters in the order of ``DECODER_LAYER``.

    The first ``start`` places are the context and see what is before them; what the others see is in the mask.
    """
    norm, wq, wk, wv, q_norm, k_norm, wo, norm2, gate, up, down = parts
    h = rms_norm(x, norm)
    q, k, v = (linear(h, w).unflatten(-1, (-1, 64)) for w in (wq, wk, wv))
    q, k = rms_norm(q, q_norm), rms_norm(k, k_norm)
    q, k = (turn(w, cos[:, :, None], sin[:, :, None]) for w in (q, k))
    context = attention(q[:, :, :start], k[:, :, :start], v[:, :, :start], is_causal=True)
    questions = attention(q[:, :, start:], k, v, attn_mask=mask)
    x = x + linear(torch.cat([context, questions], 2), wo)
    h = rms_norm(x, norm2)
    return x + linear(F.silu(linear(h, gate)) * linear(h, up), down)


@dataclass(frozen=True)
class Blocks:
    """The functions that do the work: as they are, or compiled."""

    encoder: Callable[..., Tensor] = encoder_layer
    merger: Callable[..., Tensor] = merged
    decoder: Callable[..., Tensor] = decoder_layer

    @classmethod
    def compiled(cls) -> Blocks:
        """Compiled, once for each shape."""
        return cls(*(torch.compile(f, dynamic=False) for f in (encoder_layer, merged, decoder_layer)))


PLAIN_BLOCKS = Blocks()


def patches_of(images: Tensor, seen: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Normalised patches in the order of the encoder: (B, steps, patches, channels x frames x PATCH x PATCH).

    Parameters
    ----------
    images : Tensor of uint8, (B, height, width, 3) or (B, frames, height, width, 3)
    seen : mapping
        As :meth:`Seen.tensors` returns it.
    dtype : torch.dtype
    """
    clips = images.dim() == 5
    pixels = ((images if clips else images[:, None]).to(torch.float32) - MEAN) / STD
    patches = rearrange(
        pixels.to(dtype),
        "b (t f) (y p) (x q) c -> b t (y x) (c f p q)",
        f=TEMPORAL if clips else 1,
        p=PATCH,
        q=PATCH,
    )
    return patches[:, :, seen["order"]]


def encode_pictures(
    state: State, config: Any, patches: Tensor, seen: Mapping[str, Tensor], blocks: Blocks = PLAIN_BLOCKS
) -> tuple[Tensor, Tensor]:
    """Encode pictures or clips.

    Parameters
    ----------
    state : mapping
        Of K models, in the dtype of the computation.
    config : Qwen3VLConfig
    patches : Tensor of shape (B, steps, patches, ...)
        As :func:`patches_of` returns it.
    seen : mapping
        As :meth:`Seen.tensors` returns it.
    blocks : Blocks

    Returns
    -------
    tuple of Tensor
        What enters the language model, (1 + deepstack, K, B, V, width): tokens, then what is added behind its first
        layers. And the last layer's patches (K, B, steps * patches, seen), in the order of the encoder.
    """
    vision, name = config.vision_config, "model.visual"
    weight = state[f"{name}.patch_embed.proj.weight"]
    if patches.shape[-1] < weight[0, 0].numel():
        weight = weight.sum(3, keepdim=True)  # a picture stands for as many equal frames as a token has
    b = len(patches)
    patches = patches.flatten(0, 1)
    x = torch.baddbmm(
        state[f"{name}.patch_embed.proj.bias"][:, None],
        patches.flatten(0, 1).expand(len(weight), -1, -1),
        weight.flatten(2).mT,
    ).unflatten(1, patches.shape[:2])
    x = x + (seen["interpolation"].to(x.dtype) @ state[f"{name}.pos_embed.weight"])[:, None]
    cos, sin = seen["turns"].cos(), seen["turns"].sin()
    deep = []
    for i in range(vision.depth):
        x = blocks.encoder(x, parts_of(state, f"{name}.blocks.{i}", ENCODER_LAYER), cos, sin)
        if i in vision.deepstack_visual_indexes:
            deep.append(blocks.merger(x, parts_of(state, f"{name}.deepstack_merger_list.{len(deep)}", MERGER), True))
    tokens = torch.stack([blocks.merger(x, parts_of(state, f"{name}.merger", MERGER), False), *deep])
    return tokens.unflatten(2, (b, -1)).flatten(3, 4), x.unflatten(1, (b, -1)).flatten(2, 3)


def _angles(positions: Tensor) -> Tensor:
    """Rotary angles of positions in time, row and column: (3, ...) to (..., 64)."""
    frequency = 1.0 / THETA ** (torch.arange(0, 64, 2, device=positions.device).float() / 64)
    axis = torch.zeros(32, dtype=torch.long, device=positions.device)
    for number in (1, 2):
        axis[number : SECTIONS[number] * 3 : 3] = number
    angles = positions.float().movedim(0, -1)[..., axis] * frequency
    return torch.cat([angles, angles], -1)


def answer(
    state: State,
    config: Any,
    visual: Tensor,
    branches: Branches,
    seen: Mapping[str, Tensor],
    kept: Tensor | None = None,
    blocks: Blocks = PLAIN_BLOCKS,
) -> Tensor:
    """Logits of the token behind each token of the questions: (K, B, L, vocabulary).

    Parameters
    ----------
    state : mapping
        Of K models.
    config : Qwen3VLConfig
    visual : Tensor of shape (1 + deepstack, K, B, V, width)
    branches : Branches
        Without the axis of the models: all are asked the same.
    seen : mapping
        As :meth:`Seen.tensors` returns it.
    kept : Tensor of bool, (B, V), optional
        Visual tokens that the questions may look at; default all.
    blocks : Blocks
    """
    name, models = "model.language_model", visual.shape[1]
    table, places = state[f"{name}.embed_tokens.weight"], seen["visual"]
    start, length = len(seen["ids"]), branches.tokens.shape[1]
    rows = len(branches.tokens)
    ids = torch.cat([seen["ids"].expand(rows, -1), branches.tokens], 1)
    # a product, since the gradient of a lookup adds one row after the other where a word is as frequent as here
    spoken = F.one_hot(ids, table.shape[1]).to(table.dtype)
    x = linear(spoken.expand(models, -1, -1, -1), table.mT).index_copy(2, places, visual[0])
    asked = (seen["first"] + branches.offset).expand(3, -1, -1)
    positions = torch.cat([seen["positions"][:, None].expand(-1, rows, -1), asked], 2)
    angles = _angles(positions)
    cos, sin = angles.cos(), angles.sin()
    before = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
    own = (branches.branch[:, :, None] == branches.branch[:, None, :]) & before
    looks = torch.ones(rows, start, dtype=torch.bool, device=x.device)
    if kept is not None:
        looks = looks.index_copy(1, places, kept)
    allowed = torch.cat([looks[:, None].expand(-1, length, -1), own], 2)
    mask = torch.zeros(allowed.shape, dtype=x.dtype, device=x.device).masked_fill(~allowed, float("-inf"))
    mask = mask.expand(models, -1, -1, -1).flatten(0, 1)[:, None]
    for i in range(config.text_config.num_hidden_layers):
        x = blocks.decoder(x, parts_of(state, f"{name}.layers.{i}", DECODER_LAYER), cos, sin, mask, start)
        if i + 1 < len(visual):
            x = x.index_add(2, places, visual[i + 1])
    return linear(rms_norm(x[:, :, start:], state[f"{name}.norm.weight"]), state["lm_head.weight"])
