"""Qwen3-VL in small, and a forward pass of several such models at once.

The models of one run differ in their weights alone: parameters carry a leading axis K, so that K trainings share their
pictures, their questions and every launch on the accelerator. As in ``experiments.embedded.network``, a picture and
what precedes it are computed once, and every question about it is a branch that sees them and itself alone.
``tests/zoo`` holds all of it to the stock model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from experiments.embedded.batches import Shown
from experiments.embedded.network import PATCH, Branches
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
from tokenprune.data.scenes.atlas import CHARACTERS
from tokenprune.data.scenes.world import COLORS, NAMES

MERGE, TEMPORAL, TABLE = 2, 2, 24
"""Patches a token, down and across; frames a token; side of the table of learned positions."""
FRAMES_A_SECOND = 2
MEAN, STD = 127.5, 127.5
SECTIONS = (12, 10, 10)
"""Rotary frequencies of time, row and column."""
THETA = 10000.0

State = Mapping[str, Tensor]
"""Parameters by name, each with the axis of the models in front."""


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
            dict(model.named_parameters())
            | {f"heads.{head}.{name}": p for head, layer in own.items() for name, p in layer.named_parameters()}
            for model, own in zip(models, heads, strict=True)
        ]
        self.shapes = {name: tuple(p.shape) for name, p in named[0].items()}
        self.sizes = [p.numel() for p in named[0].values()]
        self.flat = torch.stack([torch.cat([p.detach().flatten() for p in own.values()]) for own in named])

    def state(self, flat: Tensor) -> dict[str, Tensor]:
        """Parameters by name, (K, ...), as views of (K, all)."""
        parts = flat.split(self.sizes, 1)
        return {name: p.unflatten(1, shape) for (name, shape), p in zip(self.shapes.items(), parts, strict=True)}

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


def _linear(x: Tensor, state: State, name: str) -> Tensor:
    weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
    flat = x.flatten(1, -2)
    made = flat @ weight.mT if bias is None else torch.baddbmm(bias[:, None], flat, weight.mT)
    return made.unflatten(1, x.shape[1:-1])


def _over_models(weight: Tensor, x: Tensor) -> Tensor:
    return weight.view(len(weight), *[1] * (x.dim() - 2), -1)


def _layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    scale, shift = (_over_models(state[f"{name}.{part}"], x) for part in ("weight", "bias"))
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * scale + shift


def _rms_norm(x: Tensor, state: State, name: str) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=1e-6) * _over_models(state[f"{name}.weight"], x)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return (x * cos + torch.cat((-second, first), -1) * sin).to(x.dtype)


def _attention(q: Tensor, k: Tensor, v: Tensor, **how: Any) -> Tensor:
    """Attention of (K, B, N, heads, d), for the models as so many more rows."""
    parts = (w.flatten(0, 1).transpose(1, 2) for w in (q, k, v))
    return F.scaled_dot_product_attention(*parts, **how).transpose(1, 2).flatten(2).unflatten(0, q.shape[:2])


def _encoder_layer(x: Tensor, state: State, name: str, cos: Tensor, sin: Tensor) -> Tensor:
    h = _linear(_layer_norm(x, state, f"{name}.norm1"), state, f"{name}.attn.qkv")
    q, k, v = rearrange(h, "m b n (three h d) -> three m b n h d", three=3, d=64).unbind(0)
    q, k = (_turn(w, cos[:, None], sin[:, None]) for w in (q, k))
    x = x + _linear(_attention(q, k, v), state, f"{name}.attn.proj")
    h = _linear(_layer_norm(x, state, f"{name}.norm2"), state, f"{name}.mlp.linear_fc1")
    return x + _linear(F.gelu(h, approximate="tanh"), state, f"{name}.mlp.linear_fc2")


def _merged(x: Tensor, state: State, name: str, deep: bool) -> Tensor:
    if deep:
        x = _layer_norm(x.unflatten(2, (-1, MERGE**2)).flatten(3), state, f"{name}.norm")
    else:
        x = _layer_norm(x, state, f"{name}.norm").unflatten(2, (-1, MERGE**2)).flatten(3)
    return _linear(F.gelu(_linear(x, state, f"{name}.linear_fc1")), state, f"{name}.linear_fc2")


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


def encode_pictures(state: State, config: Any, patches: Tensor, seen: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
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
        x = _encoder_layer(x, state, f"{name}.blocks.{i}", cos, sin)
        if i in vision.deepstack_visual_indexes:
            deep.append(_merged(x, state, f"{name}.deepstack_merger_list.{len(deep)}", deep=True))
    tokens = torch.stack([_merged(x, state, f"{name}.merger", deep=False), *deep])
    return tokens.unflatten(2, (b, -1)).flatten(3, 4), x.unflatten(1, (b, -1)).flatten(2, 3)


def _angles(positions: Tensor) -> Tensor:
    """Rotary angles of positions in time, row and column: (3, ...) to (..., 64)."""
    frequency = 1.0 / THETA ** (torch.arange(0, 64, 2, device=positions.device).float() / 64)
    axis = torch.zeros(32, dtype=torch.long, device=positions.device)
    for number in (1, 2):
        axis[number : SECTIONS[number] * 3 : 3] = number
    angles = positions.float().movedim(0, -1)[..., axis] * frequency
    return torch.cat([angles, angles], -1)


def _decoder_layer(x: Tensor, state: State, name: str, cos: Tensor, sin: Tensor, mask: Tensor, start: int) -> Tensor:
    h = _rms_norm(x, state, f"{name}.input_layernorm")
    q, k, v = (_linear(h, state, f"{name}.self_attn.{p}_proj").unflatten(-1, (-1, 64)) for p in "qkv")
    q, k = (_rms_norm(w, state, f"{name}.self_attn.{p}_norm") for w, p in ((q, "q"), (k, "k")))
    q, k = (_turn(w, cos[:, :, None], sin[:, :, None]) for w in (q, k))
    context = _attention(q[:, :, :start], k[:, :, :start], v[:, :, :start], is_causal=True)
    questions = _attention(q[:, :, start:], k, v, attn_mask=mask)
    x = x + _linear(torch.cat([context, questions], 2), state, f"{name}.self_attn.o_proj")
    h = _rms_norm(x, state, f"{name}.post_attention_layernorm")
    gate = F.silu(_linear(h, state, f"{name}.mlp.gate_proj")) * _linear(h, state, f"{name}.mlp.up_proj")
    return x + _linear(gate, state, f"{name}.mlp.down_proj")


def answer(
    state: State, config: Any, visual: Tensor, branches: Branches, seen: Mapping[str, Tensor], kept: Tensor | None = None
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
    """
    name, models = "model.language_model", visual.shape[1]
    table, places = state[f"{name}.embed_tokens.weight"], seen["visual"]
    start, length = len(seen["ids"]), branches.tokens.shape[1]
    rows = len(branches.tokens)
    ids = torch.cat([seen["ids"].expand(rows, -1), branches.tokens], 1)
    x = table[:, ids].index_copy(2, places, visual[0])
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
        x = _decoder_layer(x, state, f"{name}.layers.{i}", cos, sin, mask, start)
        if i + 1 < len(visual):
            x = x.index_add(2, places, visual[i + 1])
    return _linear(_rms_norm(x[:, :, start:], state, f"{name}.norm"), state, "lm_head")
