"""Tiny models with random weights, built in code: what tests and first tries run on without a model hub.

They see nothing and know nothing; they have every part that a real model has, so laws about hooks, masks, positions
and caches hold on them or do not hold at all.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

__all__ = ["picture", "tiny_llava", "tiny_processor"]

WORDS = """USER ASSISTANT : ? . , a an the is are was what which who where how many there in on of to and or not no yes
this that picture image photo red green blue yellow black white dog cat car tree man woman child sky sea house bird
boat ball left right above below near color colour number word sign read count big small sits stands runs holds answer
question using single word phrase describe scene animal object kind zero one two three four five six seven eight nine
ten it Zebra quickly Why 7""".split()

TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def _vocabulary() -> dict[str, int]:
    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    return {word: i for i, word in enumerate(dict.fromkeys(special + WORDS))}


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
    vocabulary = _vocabulary()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=encoder_layers,
            num_attention_heads=2,
            image_size=8 * side,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            pad_token_id=vocabulary["<pad>"],
            bos_token_id=vocabulary["<s>"],
            eos_token_id=None,
        ),
        image_token_id=vocabulary["<image>"],
        image_seq_length=side * side,
        vision_feature_layer=-2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlavaForConditionalGeneration._from_config(config, attn_implementation=attention)
        # default weights are so small that all tokens look alike; spread them until predictions differ
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    model.generation_config.pad_token_id = vocabulary["<pad>"]
    return model.eval()


def tiny_processor(*, side: int = 6) -> LlavaProcessor:
    """Build a processor for :func:`tiny_llava`: a word-level tokenizer with a chat template, and an image processor."""
    backend = Tokenizer(models.WordLevel(_vocabulary(), unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )
    size = {"height": 8 * side, "width": 8 * side}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 8 * side}, crop_size=size),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=TEMPLATE,
    )


def picture(seed: int = 0, size: int = 64) -> Image.Image:
    """A few coloured rectangles on a plain ground."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.full((size, size, 3), 200, dtype=torch.uint8)
    for _ in range(4):
        top, left = (int(v) for v in torch.randint(0, size * 3 // 4, (2,), generator=generator))
        edge = int(torch.randint(size // 8, size // 3, (1,), generator=generator))
        color = torch.randint(0, 256, (3,), generator=generator, dtype=torch.uint8)
        image[top : top + edge, left : left + edge] = color
    return Image.fromarray(image.numpy())
