"""The model's shape, and a lean forward pass over the parameters of the stock model.

The stock classes answer one question a sequence. Training asks many questions about one picture: the picture and what
precedes it are computed once, and every question is a branch that sees them and itself alone. ``tests/zoo``
holds the two to the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from experiments.embedded.vocabulary import BOS, EOS, ID, IMAGE, PAD, WORDS_BY_ID
from tokenprune.data.scenes.atlas import CHARACTERS
from tokenprune.data.scenes.world import COLORS, NAMES, SIZE

PATCH = 14
SIDE = SIZE // PATCH
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PREFIX = (BOS, ID["USER"], ID[":"])
"""Tokens before the picture."""
START = len(PREFIX) + SIDE * SIDE
"""Position of a question's first token."""


def build(width: int = 256, encoder_layers: int = 6, decoder_layers: int = 6) -> Any:
    """Build the model with fresh weights; 64 dimensions a head."""
    heads = max(1, width // 64)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=encoder_layers,
            num_attention_heads=heads,
            image_size=SIZE,
            patch_size=PATCH,
            projection_dim=width,
            hidden_act="quick_gelu",
        ),
        text_config=LlamaConfig(
            vocab_size=len(WORDS_BY_ID),
            hidden_size=width,
            intermediate_size=width * 8 // 3 // 16 * 16,
            num_hidden_layers=decoder_layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=1024,
            rms_norm_eps=1e-5,
            initializer_range=0.04,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
            tie_word_embeddings=False,
        ),
        image_token_id=IMAGE,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
        image_seq_length=SIDE * SIDE,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config).float()
    for layer in (model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def encoder_of(model: Any) -> Any:
    """The vision transformer; some versions of transformers wrap it once more."""
    tower = model.model.vision_tower
    return getattr(tower, "vision_model", tower)


def plain_state(model: Any) -> dict[str, Tensor]:
    """Parameters under names that do not depend on the version of transformers."""
    return {name.replace(".vision_model.", "."): value for name, value in model.named_parameters()}


class Heads(nn.Module):
    """What training alone reads from the encoder and the projector, thrown away afterwards.

    Per patch: the object, its tint, the character. From [CLS]: which categories the picture shows (a stand-in for
    what CLIP learns from captions). From a projected token: its row and column.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.object = nn.Linear(width, len(NAMES) + 2)
        self.color = nn.Linear(width, len(COLORS) + 1)
        self.character = nn.Linear(width, len(CHARACTERS) + 1)
        self.present = nn.Linear(width, len(NAMES))
        self.place = nn.Linear(width, 2)
        nn.init.constant_(self.present.bias, -3.0)


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return F.linear(x, layer.weight.to(x.dtype), bias)


def _layer_norm(x: Tensor, norm: Any) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _encoder_layer(x: Tensor, layer: Any, heads: int) -> Tensor:
    h, attention = _layer_norm(x, layer.layer_norm1), layer.self_attn
    q, k, v = (_heads(_linear(h, p), heads) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    x = x + _linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), attention.out_proj)
    h = _linear(_layer_norm(x, layer.layer_norm2), layer.mlp.fc1)
    return x + _linear(h * torch.sigmoid(1.702 * h), layer.mlp.fc2)


def encode(model: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Encode pictures.

    Parameters
    ----------
    model : LlavaForConditionalGeneration
    pixels : Tensor of shape (B, 3, SIZE, SIZE)
        Normalised; its dtype is the dtype of the computation.

    Returns
    -------
    tuple of Tensor
        Patch features (B, SIDE**2, width) that the projector reads, and the last layer's [CLS] (B, width).
    """
    encoder, dtype = encoder_of(model), pixels.dtype
    embeddings = encoder.embeddings
    heads = model.config.vision_config.num_attention_heads
    x = (
        pixels.unflatten(2, (SIDE, PATCH))
        .unflatten(4, (SIDE, PATCH))
        .permute(0, 2, 4, 1, 3, 5)
        .flatten(3)
        .flatten(1, 2)
    )
    x = F.linear(x, embeddings.patch_embedding.weight.flatten(1).to(dtype))
    cls = embeddings.class_embedding.to(dtype).expand(len(x), 1, -1)
    x = torch.cat([cls, x], 1) + embeddings.position_embedding.weight.to(dtype)
    x = _layer_norm(x, encoder.pre_layrnorm)
    *inner, last = encoder.encoder.layers
    for layer in inner:
        x = _encoder_layer(x, layer, heads)
    final = _encoder_layer(x, last, heads)
    return x[:, 1:], _layer_norm(final[:, 0], encoder.post_layernorm)


def project(model: Any, features: Tensor) -> Tensor:
    """Patch features to the language model's space."""
    projector = model.model.multi_modal_projector
    return _linear(F.gelu(_linear(features, projector.linear_1)), projector.linear_2)


@dataclass(frozen=True)
class Branches:
    """Questions about pictures, packed one behind the other.

    Attributes
    ----------
    tokens : Tensor of long, (B, L)
        Question, "ASSISTANT :", answer, end; padding behind the last question.
    branch : Tensor of long, (B, L)
        Which question a token belongs to; -1 for padding.
    offset : Tensor of long, (B, L)
        Place within its question.
    """

    tokens: Tensor
    branch: Tensor
    offset: Tensor

    def mask(self) -> Tensor:
        """What each question's token may look at: (B, 1, L, START + L)."""
        length = self.tokens.shape[1]
        before = torch.ones(length, length, dtype=torch.bool, device=self.tokens.device).tril()
        own = (self.branch[:, :, None] == self.branch[:, None, :]) & before
        return F.pad(own, (START, 0), value=True)[:, None]


def _turn(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def _decoder_layer(x: Tensor, layer: Any, heads: int, cos: Tensor, sin: Tensor, mask: Tensor, eps: float) -> Tensor:
    h = F.rms_norm(x, x.shape[-1:], layer.input_layernorm.weight.to(x.dtype), eps)
    attention, mlp = layer.self_attn, layer.mlp
    q, k, v = (_heads(_linear(h, p), heads) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    q, k = (w * cos + _turn(w) * sin for w in (q, k))
    context = F.scaled_dot_product_attention(q[:, :, :START], k[:, :, :START], v[:, :, :START], is_causal=True)
    questions = F.scaled_dot_product_attention(q[:, :, START:], k, v, attn_mask=mask)
    x = x + _linear(torch.cat([context, questions], 2).transpose(1, 2).flatten(2), attention.o_proj)
    h = F.rms_norm(x, x.shape[-1:], layer.post_attention_layernorm.weight.to(x.dtype), eps)
    return x + _linear(F.silu(_linear(h, mlp.gate_proj)) * _linear(h, mlp.up_proj), mlp.down_proj)


def answer(model: Any, visual: Tensor, branches: Branches) -> Tensor:
    """Logits of the token behind each token of the questions: (B, L, vocabulary).

    Parameters
    ----------
    model : LlavaForConditionalGeneration
    visual : Tensor of shape (B, SIDE**2, width)
        Projected tokens.
    branches : Branches
    """
    language, dtype, device = model.model.language_model, visual.dtype, visual.device
    config = model.config.text_config
    table = language.embed_tokens.weight
    prefix = F.embedding(torch.tensor(PREFIX, device=device), table).to(dtype).expand(len(visual), -1, -1)
    x = torch.cat([prefix, visual, F.embedding(branches.tokens, table).to(dtype)], 1)
    context = torch.arange(START, device=device).expand(len(visual), -1)
    cos, sin = language.rotary_emb(x, torch.cat([context, START + branches.offset], 1))
    cos, sin, mask = cos[:, None].to(dtype), sin[:, None].to(dtype), branches.mask()
    for layer in language.layers:
        x = _decoder_layer(x, layer, config.num_attention_heads, cos, sin, mask, config.rms_norm_eps)
    x = F.rms_norm(x[:, START:], x.shape[-1:], language.norm.weight.to(dtype), config.rms_norm_eps)
    return _linear(x, model.lm_head)


def normalize(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Pictures as bytes (B, SIZE, SIZE, 3) to what the image processor makes of them (B, 3, SIZE, SIZE)."""
    mean = torch.tensor(MEAN, device=images.device) * 255
    std = torch.tensor(STD, device=images.device) * 255
    return ((images.float() - mean) / std).permute(0, 3, 1, 2).to(dtype)
