"""The processor that belongs to a model, where its caller gave none."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["MAKES_PROCESSOR", "belongs", "saved_processor"]

_FOUND: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""What lies beside models, looked for once."""

MAKES_PROCESSOR = "_tokenprune_make_processor"
"""Attribute under which a model that was built in code keeps a function that makes its processor."""


def saved_processor(model: Any) -> Any:
    """The processor that was saved with a model, or at least its tokenizer; None where there is none on this machine.

    Looks where the model was loaded from (``model.name_or_path``), in a folder or the hub's cache. Nothing is
    downloaded, and no code that comes with a checkpoint runs.
    """
    if model not in _FOUND:
        made = vars(model).get(MAKES_PROCESSOR)
        _FOUND[model] = _beside(str(getattr(model, "name_or_path", "") or ""), model) if made is None else made()
    return _FOUND[model]


def belongs(reader: Any, model: Any) -> bool:
    """Whether a processor or tokenizer can be a model's: it knows most of the ids that the model has embeddings for.

    Models have some more, to be of a round size. For a folder without a tokenizer transformers makes an empty one.
    """
    words = len(getattr(reader, "tokenizer", reader))
    return words * 2 >= int(model.config.get_text_config().vocab_size)


def _beside(name: str, model: Any) -> Any:
    from transformers import AutoProcessor, AutoTokenizer

    for kind in (AutoProcessor, AutoTokenizer) if name else ():
        try:
            found = kind.from_pretrained(name, local_files_only=True, trust_remote_code=False)
            if belongs(found, model):
                return found
        except Exception:  # a package that is not installed, a folder of weights alone, a name that means nothing
            continue
    return None
