"""What tiny models read: a vocabulary of words, a word-level tokenizer, and pictures."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

__all__ = ["vocabulary", "word_tokenizer"]


WORDS = """USER ASSISTANT : ? . , a an the is are was what which who where how many there in on of to and or not no yes
this that picture image photo red green blue yellow black white dog cat car tree man woman child sky sea house bird
boat ball left right above below near color colour number word sign read count big small sits stands runs holds answer
question using single word phrase describe scene animal object kind zero one two three four five six seven eight nine
ten it Zebra quickly Why 7""".split()


BASE = ("<pad>", "<s>", "</s>", "<unk>")


def vocabulary(special: Sequence[str] = (), words: Sequence[str] = ()) -> dict[str, int]:
    """Token -> id: padding first, then a family's special tokens, the common words, and words of its own."""
    return {word: i for i, word in enumerate(dict.fromkeys([*BASE, *special, *WORDS, *words]))}


def word_tokenizer(special: Sequence[str] = (), words: Sequence[str] = (), **named: str) -> PreTrainedTokenizerFast:
    """Build a tokenizer that splits at spaces and punctuation and pads on the left.

    Parameters
    ----------
    special, words : sequence of str
        As in :func:`vocabulary`.
    **named : str
        Special tokens that a processor asks its tokenizer for: ``image_token="<image>"``.
    """
    backend = Tokenizer(models.WordLevel(vocabulary(special, words), unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([*BASE, *special])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(special),
        padding_side="left",
        **({"extra_special_tokens": named} if named else {}),
    )
