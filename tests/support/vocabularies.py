"""Tokenizers that cut text as published ones do: they keep newlines, add a begin, and know nothing about role words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

Kind = Literal["bytes", "pieces"]

CORPUS = (
    "What color is the cup on the table? The cup is red and the table is brown.",
    "Which animal is shown in the picture?\nA. a cat\nB. a dog\nAnswer with the letter from the choices directly.",
    "You are a careful and helpful assistant. The user asks, the assistant answers the question in a polite way.",
    "A chat between a curious user and an artificial intelligence assistant.\n\nThe assistant gives detailed answers.",
    "Here is the original image and here are some crops to help you see better",
    "You are provided the following series of three frames from a video. Frame from 00:01: Frame 2: 0.5 seconds",
    "杯子是什么颜色的？这张图片里有一个红色的杯子。",
    "ما لون الكوب؟ الكوب أحمر على الطاولة.",
)
"""What merges are learned from; other words are cut into pieces."""

BASE = ("<pad>", "<s>", "</s>", "<unk>")


@lru_cache(maxsize=2)
def _trained(kind: Kind) -> dict[str, Any]:
    """A tokenizer's description, without special tokens."""
    made = Tokenizer(models.BPE(unk_token="<unk>" if kind == "pieces" else None, fuse_unk=True))
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        min_frequency=1,
        show_progress=False,
        special_tokens=list(BASE),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if kind == "bytes" else [],
    )
    if kind == "bytes":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    made.train_from_iterator(CORPUS, trainer)
    if kind == "bytes":
        made.add_special_tokens(list(BASE))
        return dict(json.loads(made.to_str()))
    # as sentencepiece writes a text: spaces are a letter, unknown characters and newlines are bytes
    model = json.loads(made.to_str())["model"]
    known = {token for token in model["vocab"] if not {"\n"} & set(token)}
    tokens = [*BASE, *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(known - set(BASE), key=model["vocab"].get)]
    merges = [tuple(pair) for pair in model["merges"] if "".join(pair) in known]
    made = Tokenizer(
        models.BPE({t: i for i, t in enumerate(tokens)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    made.normalizer = normalizers.Sequence([normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.add_special_tokens(list(BASE))
    return dict(json.loads(made.to_str()))


def real_tokenizer(kind: Kind, special: Sequence[str], *, begin: bool = False, **named: str) -> Any:
    """Build a tokenizer.

    Parameters
    ----------
    kind : str
        "bytes": byte-level, as in GPT-2, Llama 3 and Qwen. "pieces": like sentencepiece, as in Llama 2 and Gemma.
    special : sequence of str
        Special tokens beside those that all have.
    begin : bool, default False
        Whether each text gets a "<s>" in front.
    **named : str
        What a processor asks its tokenizer for.
    """
    made = Tokenizer.from_str(json.dumps(_trained(kind)))
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if begin:
        ids = [("<s>", made.token_to_id("<s>"))]
        made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(special),
        padding_side="left",
        **({"extra_special_tokens": named} if named else {}),
    )
