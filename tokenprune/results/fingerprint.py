"""What answers depend on, in short hashes: a strategy with the code of its parts, and all of a model's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune._version import __version__
from tokenprune.results.sources import distribution_of, source_of

__all__ = ["identity", "providers", "weights_fingerprint"]

_FOREIGN = frozenset({"builtins", "abc", "typing", "dataclasses", "collections", "torch", "numpy"})
"""Packages whose source is not part of what a strategy is."""

_PIECE = 2**24
"""Numbers of a tensor that are copied to the host at a time."""


def identity(strategy: object) -> str:
    """Hash of a strategy: options of all its parts, the code that they use, our version.

    Equal in every process and on every machine. What counts as a part's code is said in
    :func:`tokenprune.results.sources.source_of`: all that its module imports of our own packages, all of the
    distribution that a plugin came with.

    Parameters
    ----------
    strategy : object
        A strategy, or anything made of dataclasses, tensors, functions and plain values.
    """
    digest = hashlib.sha256(__version__.encode())
    _feed(digest, strategy, frozenset())
    return digest.hexdigest()[:12]


def providers(strategy: object) -> list[str]:
    """Distributions (or files) that the parts of a strategy came with, each once, as "name version"."""
    found: dict[str, None] = {}
    for value in _parts(strategy, frozenset()):
        thing = value if isinstance(value, type | FunctionType) else type(value)
        if thing.__module__.partition(".")[0] not in _FOREIGN:
            found.setdefault(distribution_of(thing))
    return list(found)


def _parts(value: object, above: frozenset[int]) -> Iterator[object]:
    """Objects that a value is made of, itself first; tensors and plain values left out."""
    if id(value) in above or value is None or isinstance(value, Tensor | str | bytes | int | float | complex):
        return
    above = above | {id(value)}
    if isinstance(value, Mapping):
        inside: Sequence[object] = list(value.values())
    elif isinstance(value, Sequence | Set):
        inside = list(value)
    else:
        yield value
        names = [f.name for f in fields(value)] if is_dataclass(value) else sorted(getattr(value, "__dict__", ()))
        inside = [] if isinstance(value, type | FunctionType) else [getattr(value, name, None) for name in names]
    for one in inside:
        yield from _parts(one, above)


def weights_fingerprint(model: nn.Module) -> str:
    """Hash of a model's weights: name, shape, precision and every byte of each tensor.

    A gigabyte takes about a second. Depends on the precision they are held in.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        if tensor.numel() and not tensor.is_meta:
            for piece in tensor.detach().reshape(-1).split(_PIECE):
                digest.update(_bytes(piece))
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
        digest.update(f"{value.__module__}.{value.__qualname__};{source_of(value)};".encode())
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
                digest.update(f"{base.__module__}.{base.__qualname__};{source_of(base)};".encode())
        names = (
            [field.name for field in fields(value)] if is_dataclass(value) else sorted(getattr(value, "__dict__", ()))
        )
        for name in names:
            digest.update(f"{name}=".encode())
            _feed(digest, getattr(value, name, None), above)
