"""The LLaVA of ``experiments.embedded``, several at once: its stock parameters with the axis of the models in front.

As in ``experiments.trainings.network``, a picture and what precedes it are computed once, and every question about it
is a branch that sees them and itself alone. ``tests/zoo`` holds all of it to the stock model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.embedded.batches import IGNORED, Shown
from experiments.embedded.losses import branches_of
from experiments.embedded.network import MEAN, PATCH, PREFIX, SIDE, STD, Branches, Heads
from experiments.trainings.layers import State, attention, layer_norm, linear, parts_of, rms_norm, turn
from experiments.trainings.losses import dense_loss, entropy, place_loss, reading

LOSSES = ("answers", "dense", "present", "place")
"""Those of the model that ships: see ``experiments.embedded.losses``."""
EPS = 1e-5
THETA = 10000.0
HEAD = 64


def heads_of(model: Any) -> dict[str, nn.Linear]:
    """What training alone reads, thrown away afterwards: the same as of the model that ships."""
    made = Heads(model.config.text_config.hidden_size)
    return {name: layer for name, layer in made.named_children() if isinstance(layer, nn.Linear)}


def tensors(shown: Shown, device: str) -> dict[str, Tensor]:
    """Where a picture lies in the prompt, for :func:`answer` and the losses.

    Raises
    ------
    ValueError
        Clips, or pictures of another size than the encoder's.
    """
    if shown.size != (SIDE * PATCH, SIDE * PATCH) or shown.frames > 1:
        raise ValueError(f"shown is {shown}; a LLaVA sees pictures of {SIDE * PATCH} x {SIDE * PATCH}, frames=1")
    line = torch.linspace(-1, 1, SIDE)
    made = {
        "ids": torch.tensor(PREFIX),
        "visual": torch.arange(SIDE**2) + len(PREFIX),
        "order": torch.arange(SIDE**2),
        "centres": torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).flatten(0, 1),
    }
    return {name: tensor.to(device) for name, tensor in made.items()}


def patches_of(images: Tensor, seen: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Normalised patches: bytes (B, height, width, 3) to (B, patches, channels x PATCH x PATCH)."""
    mean, std = (255 * torch.tensor(values, device=images.device) for values in (MEAN, STD))
    pixels = ((images.float() - mean) / std).to(dtype)
    return rearrange(pixels, "b (y p) (x q) c -> b (y x) (c p q)", p=PATCH, q=PATCH)


ENCODER_LAYER = tuple(
    f"{layer}.{part}"
    for layer in (
        "layer_norm1",
        *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
        "layer_norm2",
        "mlp.fc1",
        "mlp.fc2",
    )
    for part in ("weight", "bias")
)


def encoder_layer(x: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
    """One layer of the encoder: x (K, B, 1 + N, width), parameters in the order of ``ENCODER_LAYER``."""
    norm1, norm1_, wq, bq, wk, bk, wv, bv, out, out_, norm2, norm2_, fc1, fc1_, fc2, fc2_ = parts
    h = linear(layer_norm(x, norm1, norm1_, EPS), torch.cat([wq, wk, wv], 1), torch.cat([bq, bk, bv], 1))
    q, k, v = h.unflatten(-1, (3, -1, HEAD)).unbind(3)
    x = x + linear(attention(q, k, v), out, out_)
    h = linear(layer_norm(x, norm2, norm2_, EPS), fc1, fc1_)
    return x + linear(h * torch.sigmoid(1.702 * h), fc2, fc2_)


DECODER_LAYER = (
    "input_layernorm.weight",
    *(f"self_attn.{name}_proj.weight" for name in ("q", "k", "v", "o")),
    "post_attention_layernorm.weight",
    *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
)


def decoder_layer(x: Tensor, parts: tuple[Tensor, ...], cos: Tensor, sin: Tensor, mask: Tensor, start: int) -> Tensor:
    """One layer of the language model: x (K, B, S, width), parameters in the order of ``DECODER_LAYER``.

    The first ``start`` places are the context and see what is before them; what the others see is in the mask.
    """
    norm, wq, wk, wv, wo, norm2, gate, up, down = parts
    h = linear(rms_norm(x, norm, EPS), torch.cat([wq, wk, wv], 1))
    q, k, v = h.unflatten(-1, (3, -1, HEAD)).unbind(3)
    q, k = (turn(w, cos[:, :, None], sin[:, :, None]) for w in (q, k))
    context = attention(q[:, :, :start], k[:, :, :start], v[:, :, :start], is_causal=True)
    questions = attention(q[:, :, start:], k, v, attn_mask=mask)
    x = x + linear(torch.cat([context, questions], 2), wo)
    first, second = linear(rms_norm(x, norm2, EPS), torch.cat([gate, up], 1)).chunk(2, -1)
    return x + linear(F.silu(first) * second, down)


def present_loss(state: State, cls: Tensor, present: Tensor) -> Tensor:
    """Binary cross-entropy over categories, from [CLS] (K, B, width)."""
    read = reading(cls.float(), state, "present")
    target = present.float().expand_as(read)
    return F.binary_cross_entropy_with_logits(read, target, reduction="none").sum(2).mean(1) / 8


def answers_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the answers' tokens: logits (K, B, L, words), targets (B, L)."""
    said = (targets != IGNORED).float().flatten()
    return entropy(logits.float().flatten(1, 2), targets.clamp_min(0).flatten(), said)


@dataclass(frozen=True)
class Compiled:
    """The functions that do the work: as they are, or compiled."""

    encoder: Callable[..., Tensor] = encoder_layer
    decoder: Callable[..., Tensor] = decoder_layer
    dense: Callable[..., Tensor] = dense_loss
    answers: Callable[..., Tensor] = answers_loss

    @classmethod
    def made(cls) -> Compiled:
        """Compiled, once for each shape."""
        return cls(*(torch.compile(f, dynamic=False) for f in (encoder_layer, decoder_layer, dense_loss, answers_loss)))


EAGER = Compiled()


def encode(state: State, config: Any, patches: Tensor, compiled: Compiled = EAGER) -> tuple[Tensor, Tensor, Tensor]:
    """Encode pictures.

    Parameters
    ----------
    state : mapping
        Of K models, in the dtype of the computation.
    config : LlavaConfig
    patches : Tensor of shape (B, patches, ...)
        As :func:`patches_of` returns it.
    compiled : Compiled

    Returns
    -------
    tuple of Tensor
        Projected tokens (K, B, V, width), the patch features that they are made of (K, B, V, width), and the last
        layer's [CLS] (K, B, width).
    """
    name = "model.vision_tower"
    weight = state[f"{name}.embeddings.patch_embedding.weight"].flatten(2)
    models, rows = len(weight), len(patches)
    x = linear(patches.expand(models, -1, -1, -1), weight)
    cls = state[f"{name}.embeddings.class_embedding"][:, None, None].expand(-1, rows, -1, -1)
    x = torch.cat([cls, x], 2) + state[f"{name}.embeddings.position_embedding.weight"][:, None]
    x = layer_norm(x, *parts_of(state, f"{name}.pre_layrnorm", ("weight", "bias")), EPS)
    features = x
    for i in range(config.vision_config.num_hidden_layers):
        features = x
        x = compiled.encoder(x, parts_of(state, f"{name}.encoder.layers.{i}", ENCODER_LAYER))
    cls = layer_norm(x[:, :, 0], *parts_of(state, f"{name}.post_layernorm", ("weight", "bias")), EPS)
    features, name = features[:, :, 1:], "model.multi_modal_projector"
    first, second = (parts_of(state, f"{name}.linear_{i}", ("weight", "bias")) for i in (1, 2))
    return linear(F.gelu(linear(features, *first)), *second), features, cls


def visual_tokens(state: State, config: Any, patches: Tensor, seen: Mapping[str, Tensor]) -> Tensor:
    """What enters the language model, for :func:`answer`: (1, K, B, V, width)."""
    return encode(state, config, patches)[0][None]


def answer(
    state: State,
    config: Any,
    visual: Tensor,
    branches: Branches,
    seen: Mapping[str, Tensor],
    compiled: Compiled = EAGER,
) -> Tensor:
    """Logits of the token behind each token of the questions: (K, B, L, vocabulary).

    Parameters
    ----------
    state : mapping
        Of K models.
    config : LlavaConfig
    visual : Tensor of shape (1, K, B, V, width)
    branches : Branches
        Without the axis of the models: all are asked the same.
    seen : mapping
        As :func:`tensors` returns it.
    compiled : Compiled
    """
    name, (models, rows), device = "model.language_model", visual.shape[1:3], visual.device
    table, prefix = state[f"{name}.embed_tokens.weight"], seen["ids"]
    start, length = len(prefix) + visual.shape[3], branches.tokens.shape[1]
    # a product, since the gradient of a lookup adds one row after the other where a word is as frequent as here
    ids = torch.cat([prefix.expand(rows, -1), branches.tokens], 1)
    spoken = linear(F.one_hot(ids, table.shape[1]).to(table.dtype).expand(models, -1, -1, -1), table.mT)
    x = torch.cat([spoken[:, :, : len(prefix)], visual[0], spoken[:, :, len(prefix) :]], 2)
    places = torch.cat([torch.arange(start, device=device).expand(rows, -1), start + branches.offset], 1)
    angles = places[..., None] / THETA ** (torch.arange(0, HEAD, 2, device=device).float() / HEAD)
    angles = torch.cat([angles, angles], -1)
    cos, sin = angles.cos(), angles.sin()
    before = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    own = (branches.branch[:, :, None] == branches.branch[:, None, :]) & before
    allowed = F.pad(own, (start, 0), value=True)
    mask = torch.zeros(allowed.shape, dtype=x.dtype, device=device).masked_fill(~allowed, float("-inf"))
    mask = mask.expand(models, -1, -1, -1).flatten(0, 1)[:, None]
    for i in range(config.text_config.num_hidden_layers):
        x = compiled.decoder(x, parts_of(state, f"{name}.layers.{i}", DECODER_LAYER), cos, sin, mask, start)
    return linear(rms_norm(x[:, :, start:], state[f"{name}.norm.weight"], EPS), state["lm_head.weight"])


def losses(
    state: State,
    config: Any,
    patches: Tensor,
    batch: Mapping[str, Tensor],
    seen: Mapping[str, Tensor],
    sight: tuple[Tensor, Tensor],
    answers: bool = True,
    compiled: Compiled = EAGER,
) -> Tensor:
    """All losses in the order of ``LOSSES``: (losses, K).

    Parameters are those of :func:`experiments.trainings.losses.losses`; questions always see the whole picture, as
    those of the model that ships did, so that ``sight`` is not read.
    """
    visual, features, cls = encode(state, config, patches, compiled)
    full = torch.zeros(len(features), device=features.device)
    if answers:
        logits = answer(state, config, visual[None], branches_of(dict(batch)), seen, compiled)
        full = compiled.answers(logits, batch["targets"].long())
    labels = {name: batch[name] for name in ("objects", "colors", "characters")}
    heads = {name: state[name] for name in state if name.startswith("heads.")}
    dense = compiled.dense(heads, features, labels, seen["order"])
    present = present_loss(heads, cls, batch["present"])
    return torch.stack([full, dense, present, place_loss(heads, visual, seen["centres"])])
