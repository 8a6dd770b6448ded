"""Which tokens of a prompt are the user's own text.

The paper scores visual tokens against the prompt "system instructions omitted". What the model receives also holds a
system text, role words and special tokens of the chat template; they say nothing about the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tokenprune.core.errors import ConfigError, FeatureError, OptionTypeError, closest

__all__ = ["Scaffold", "Text", "prompt_text"]

Text = Literal["prompt", "all"] | Tensor | Callable[[Tensor], Tensor]
"""Which tokens count as text: the prompt's own, all, a bool mask (B, S), or a function from ids to such a mask."""


@dataclass(frozen=True)
class Scaffold:
    """Token ids that a chat template puts around a question about one image.

    Attributes
    ----------
    head : tuple of int
        Before the image: system text and role word.
    joint : tuple of int
        Between the image and the question.
    tail : tuple of int
        After the question: the role word of the answer.
    special : frozenset of int
        Tokens that the tokenizer calls special: nobody's words, wherever they stand (around tiles, before rows).
    """

    head: tuple[int, ...] = ()
    joint: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()
    special: frozenset[int] = frozenset()

    @classmethod
    def of(cls, processor: Any, image_token_ids: Sequence[int]) -> Scaffold | None:
        """Read the scaffold off a processor's chat template; None where it has none.

        The template is filled with two different questions; what the token sequences share is the scaffold.
        """
        if getattr(processor, "chat_template", None) is None:
            return None
        tokenizer = getattr(processor, "tokenizer", processor)
        rows = []
        for question in ("Zebra quickly", "Why not 7"):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            text = processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            rows.append(tokenizer(text, add_special_tokens=True)["input_ids"])
        a, b = rows
        prefix = _shared(a, b)
        suffix = _shared(a[prefix:][::-1], b[prefix:][::-1])
        images = [i for i, t in enumerate(a[:prefix]) if t in image_token_ids]
        first, last = (images[0], images[-1] + 1) if images else (prefix, prefix)
        added = getattr(tokenizer, "added_tokens_decoder", {})
        special = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        special -= {tokenizer.unk_token_id}  # a word that the tokenizer does not know is the user's all the same
        return cls(tuple(a[:first]), tuple(a[last:prefix]), tuple(a[len(a) - suffix :]), frozenset(special))


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def prompt_text(
    input_ids: Tensor,
    mask: Tensor,
    images: Tensor,
    special_ids: frozenset[int],
    *,
    text: Text = "prompt",
    scaffold: Scaffold | None = None,
) -> Tensor:
    """Mark the tokens that count as text.

    Parameters
    ----------
    input_ids : int64 Tensor, (B, S)
    mask, images : bool Tensor, (B, S)
        Real tokens; image placeholders.
    special_ids : frozenset of int
    text : Text, default "prompt"
        "all": everything but placeholders and padding. "prompt": with a ``scaffold``, what the chat template did not
        put there; without one, what follows the first image less special tokens (what precedes the image, system
        text and role words, is left out unless nothing follows).
    scaffold : Scaffold, optional

    Returns
    -------
    bool Tensor, (B, S)
    """
    if isinstance(text, Tensor) or callable(text):
        given = text if isinstance(text, Tensor) else text(input_ids)
        if not isinstance(given, Tensor) or given.dtype != torch.bool or given.shape != input_ids.shape:
            got = f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
            raise FeatureError(f"text must be a bool mask of shape {tuple(input_ids.shape)}, got {got}")
        return given.to(mask.device) & mask & ~images
    if text not in ("prompt", "all"):
        if not isinstance(text, str):
            raise OptionTypeError(f"text must be 'prompt', 'all', a bool mask or a function, got {type(text).__name__}")
        raise ConfigError(f"text: no {text!r}; {closest(text, ('prompt', 'all'))}")
    plain = mask & ~images
    if text == "all":
        return plain
    nobodys = sorted(special_ids if scaffold is None else special_ids | scaffold.special)
    plain = plain & ~torch.isin(input_ids, torch.tensor(nobodys, device=input_ids.device))
    if scaffold is not None:
        return torch.stack([_without(scaffold, *row) for row in zip(input_ids, mask, images, plain, strict=True)])
    after = plain & (images.cumsum(1) > 0)
    return torch.where(after.any(1, keepdim=True), after, plain)


def _without(scaffold: Scaffold, ids: Tensor, mask: Tensor, images: Tensor, plain: Tensor) -> Tensor:
    """One row: drop the head, the joint behind each image, and every tail."""
    row = [int(i) for i in ids.tolist()]
    text = plain.clone()
    real = mask.nonzero().flatten().tolist()
    start = int(real[0]) if real else 0
    if tuple(row[start : start + len(scaffold.head)]) == scaffold.head:
        text[start : start + len(scaffold.head)] = False
    placed = images.tolist()
    ends = [i + 1 for i, here in enumerate(placed) if here and (i + 1 == len(placed) or not placed[i + 1])]
    for end in ends:
        if tuple(row[end : end + len(scaffold.joint)]) == scaffold.joint:
            text[end : end + len(scaffold.joint)] = False
    width = len(scaffold.tail)
    for i in range(len(row) - width + 1) if width else ():
        if tuple(row[i : i + width]) == scaffold.tail:
            text[i : i + width] = False
    return text
