"""What answers depend on, in short hashes: a strategy with the source of its parts, and a model's weights."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune._version import __version__

__all__ = ["identity", "weights_fingerprint"]

_FOREIGN = frozenset({"builtins", "abc", "typing", "dataclasses", "collections", "torch", "numpy"})
"""Packages whose source is not part of what a strategy is."""


def identity(strategy: object) -> str:
    """Hash of a strategy: options of all its parts, the source of the modules that define them, our version.

    Equal in every process and on every machine. What a module imports is not looked at, other than our own package by
    its version.

    Parameters
    ----------
    strategy : object
        A strategy, or anything made of dataclasses, tensors, functions and plain values.
    """
    digest = hashlib.sha256(__version__.encode())
    _feed(digest, strategy, frozenset())
    return digest.hexdigest()[:12]


def weights_fingerprint(model: nn.Module) -> str:
    """Hash of a model's weights: name, shape and up to 16 values, evenly spaced, of each tensor.

    Enough to tell checkpoints apart, and quick for models of any size. Depends on the precision they are held in.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        if tensor.numel() and not tensor.is_meta:
            digest.update(_bytes(tensor.detach().reshape(-1)[:: max(1, tensor.numel() // 16)][:16]))
    return digest.hexdigest()[:12]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _feed(digest: Any, value: object, above: frozenset[int]) -> None:
    """Add a value; ``above`` holds the objects it is part of, so that none is followed in a circle."""
    if id(value) in above:
        digest.update(b"circle;")
        return
    above = above | {id(value)}
    if isinstance(value, Tensor):
        digest.update(f"tensor {tuple(value.shape)} {value.dtype};".encode() + _bytes(value))
    elif isinstance(value, type | FunctionType):
        digest.update(f"{value.__module__}.{value.__qualname__};{_source(value)};".encode())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            digest.update(f"{key!r}:".encode())
            _feed(digest, value[key], above)
    elif isinstance(value, Set):
        digest.update(repr(sorted(value, key=repr)).encode())
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        digest.update(f"{len(value)} of;".encode())
        for one in value:
            _feed(digest, one, above)
    elif value is None or isinstance(value, str | bytes | int | float | complex | torch.dtype | torch.device):
        digest.update(f"{value!r};".encode())
    else:
        for base in type(value).__mro__:
            if base.__module__.partition(".")[0] not in _FOREIGN:
                digest.update(f"{base.__module__}.{base.__qualname__};{_source(base)};".encode())
        names = (
            [field.name for field in fields(value)] if is_dataclass(value) else sorted(getattr(value, "__dict__", ()))
        )
        for name in names:
            digest.update(f"{name}=".encode())
            _feed(digest, getattr(value, name, None), above)


def _source(thing: Any) -> str:
    """Hash of the file that defines a class or function; of its own text where there is no file (a notebook)."""
    file = getattr(sys.modules.get(thing.__module__), "__file__", None)
    try:
        text = Path(file).read_bytes() if file else inspect.getsource(thing).encode()
    except (OSError, TypeError):
        return "unknown"
    return hashlib.sha256(text).hexdigest()
