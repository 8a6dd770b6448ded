"""Where numbers come from: all that decides an answer, in one record a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from tokenprune._version import __version__
from tokenprune.results.fingerprint import weights_fingerprint
from tokenprune.results.sources import source_of

__all__ = ["asked_of", "differences", "provenance", "short"]

_ROOMS = ("core", "components", "kernels", "hf", "data", "zoo", "evaluation")
"""Rooms of this package whose code an answer depends on."""

_PACKAGES = ("torch", "transformers", "tokenizers", "torchvision", "pillow", "numpy")

_NAMES = frozenset({"_name_or_path", "name_or_path", "transformers_version", "_commit_hash", "processor_class"})
"""What a configuration says about where it was found."""


class _Question(Protocol):
    @property
    def text(self) -> str: ...

    @property
    def answer(self) -> Any: ...


class _Item(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def image_id(self) -> str: ...

    @property
    def image(self) -> Any: ...

    @property
    def question(self) -> Any: ...


def short(record: Mapping[str, Any]) -> str:
    """A record's name: twelve hexadecimal digits of its hash, the same however it is ordered."""
    return _digest(json.dumps(record, sort_keys=True, default=str).encode())


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:12]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two records, a sentence each, by dotted names."""
    old, new = dict(_flat(before)), dict(_flat(now))
    return [f"{k}: {_cut(old.get(k))} there, {_cut(new.get(k))} now" for k in sorted(old | new) if _differ(k, old, new)]


def _differ(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return key not in old or key not in new or old[key] != new[key]


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:120] + "..."


def _flat(record: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def provenance(asked: Mapping[str, Any], model: nn.Module, processor: Any, items: Sequence[_Item]) -> dict[str, Any]:
    """All that decides an answer, apart from the strategies, whose hash every line carries itself.

    Parameters
    ----------
    asked : mapping
        Options of the command: model, dtype, seeds, limit ...
    model : nn.Module
        Every byte of its weights counts, its configuration and generation configuration, attention and precision.
    processor : ProcessorMixin
        Image transform, tokenizer, chat template.
    items : sequence of Item
        Questions with their right answers, and every pixel of their pictures.

    Returns
    -------
    dict
        Plain values, for JSON: ``asked``, ``model``, ``processor``, ``questions``, ``software``, ``device``.
    """
    config: Any = getattr(model, "config", None)
    generation: Any = getattr(model, "generation_config", None)
    parameter = next(model.parameters())
    return {
        "asked": dict(asked),
        "model": {
            "class": type(model).__name__,
            "weights": weights_fingerprint(model),
            "config": _settings(config),
            "generation_config": _settings(generation),
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "attention": _attention(config),
        },
        "processor": _processor(processor),
        "questions": asked_of(items),
        "software": {
            "tokenprune": f"{__version__} {_own_code()}",
            **{name: version for name in _PACKAGES if (version := _version(name)) is not None},
        },
        "device": torch.cuda.get_device_name(parameter.device) if parameter.is_cuda else parameter.device.type,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _attention(config: Any) -> dict[str, str]:
    """Which implementation runs, of each part that has a configuration of its own."""
    parts = {"model": config} | {
        name: part for name in ("text_config", "vision_config") if (part := getattr(config, name, None)) is not None
    }
    return {name: str(getattr(part, "_attn_implementation", None)) for name, part in parts.items()}


def _settings(thing: Any) -> str | None:
    """Hash of what a configuration sets."""
    if thing is None:
        return None
    given = thing.to_dict() if hasattr(thing, "to_dict") else dict(vars(thing))
    return _digest(json.dumps(_without_names(given), sort_keys=True, default=str).encode())


def _without_names(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _without_names(v) for k, v in value.items() if str(k) not in _NAMES}
    if isinstance(value, list | tuple):
        return [_without_names(v) for v in value]
    return value


def _processor(processor: Any) -> dict[str, Any]:
    """Hashes of each part of a processor: its settings and the code of its class."""
    found: dict[str, Any] = {"class": _with_code(processor)}
    for name in ("image_processor", "video_processor", "feature_extractor"):
        part = getattr(processor, name, None)
        if part is not None:
            found[name] = f"{_with_code(part)} {_settings(part)}"
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is not None:
        found["tokenizer"] = f"{_with_code(tokenizer)} {_tokens(tokenizer)}"
    template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    found["chat_template"] = None if template is None else _digest(json.dumps(template, sort_keys=True).encode())
    plain = {k: v for k, v in vars(processor).items() if isinstance(v, str | int | float | bool)}
    found["settings"] = _digest(json.dumps(_without_names(plain), sort_keys=True).encode())
    return found


def _with_code(thing: Any) -> str:
    return f"{type(thing).__name__} {source_of(type(thing))[:12]}"


def _tokens(tokenizer: Any) -> str:
    """Hash of how a tokenizer takes text apart."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    how = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    special = {name: str(value) for name, value in getattr(tokenizer, "special_tokens_map", {}).items()}
    sides = [getattr(tokenizer, name, None) for name in ("padding_side", "truncation_side", "model_max_length")]
    return _digest(how.encode(), json.dumps([special, sides], sort_keys=True, default=str).encode())


def asked_of(items: Sequence[_Item]) -> dict[str, Any]:
    """How many questions there are, and hashes of them and of their pictures."""
    text, pictures = hashlib.sha256(), hashlib.sha256()
    seen: set[str] = set()
    for item in sorted(items, key=lambda item: (item.image_id, item.id)):
        question = item.question
        facts = {
            name: getattr(question, name, None)
            for name in ("text", "answer", "family", "subfamily", "choices", "boxes", "binary")
        }
        told = json.dumps([item.id, item.image_id, facts], sort_keys=True, default=str)
        text.update(told.encode() + b"\n")
        if item.image_id not in seen:
            seen.add(item.image_id)
            for picture in _pictures(item.image()):
                pictures.update(f"{picture.mode} {picture.size};".encode() + picture.tobytes())
    return {
        "n": len(items),
        "located": sum(getattr(item.question, "boxes", None) is not None for item in items),
        "text": text.hexdigest()[:12],
        "pictures": pictures.hexdigest()[:12],
    }


def _pictures(shown: Any) -> Iterable[Any]:
    if isinstance(frames := getattr(shown, "frames", None), tuple):
        return frames
    return shown if isinstance(shown, list | tuple) else [shown]


@cache
def _own_code() -> str:
    """Hash of those of our files that an answer depends on."""
    root = Path(__file__).parents[1]
    files = sorted(file for room in _ROOMS for file in (root / room).rglob("*.py"))
    return _digest(*(part for file in files for part in (str(file.relative_to(root)).encode(), file.read_bytes())))
