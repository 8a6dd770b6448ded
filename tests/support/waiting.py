"""Find on a CPU what would make the host wait for an accelerator: operations whose result the host has to read."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import tokenprune
import tokenprune_strategies
from tokenprune.kernels import constant

READ = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
    "aten::nonzero_numpy",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::repeat_interleave",
}
"""Operations that copy numbers to the host, or whose result's shape depends on numbers."""

INDEX = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""Operations that count a bool index."""

COPY = {"aten::lift_fresh"}
"""``torch.tensor`` of the host's numbers, which would have to travel."""


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        counted = name in INDEX and any(isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1] or ())
        given = name == "aten::repeat_interleave" and (kwargs or {}).get("output_size") is not None
        if (name in READ and not given) or counted or (name in COPY and not _remembered()):
            self.found.append(f"{name} in {_place()}")
        return func(*args, **(kwargs or {}))


def _noted(method: Any, name: str, found: list[str], known: Callable[[Tensor], bool]) -> Any:
    """A method that reads, on the list; torch does not tell of these."""

    def read(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not known(tensor):
            found.append(f"{name} in {_place()}")
        return method(tensor, *args, **kwargs)

    return read


def _frames() -> Iterator[tuple[CodeType, int]]:
    frame = sys._getframe(2)
    while frame is not None:
        yield frame.f_code, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]


def _remembered() -> bool:
    """Numbers that an accelerator is given once: ``constant`` copies them when a shape is met first; what is known of
    sizes is copied before a graph is made."""
    copied = constant.__code__
    return any(code is copied or code.co_filename.endswith("hf/compiled/known.py") for code, _ in _frames())


def _place() -> str:
    # by the packages' own folders: that of a checkout may be called tokenprune, too
    places = tuple(f"{Path(path).resolve()}/" for path in (*tokenprune.__path__, *tokenprune_strategies.__path__))
    names = [(code.co_filename, line) for code, line in _frames()]
    ours = [f"{name.rpartition('/')[2]}:{line}" for name, line in names if name.startswith(places)]
    return " < ".join(ours[:4])


@contextmanager
def watched(known: Callable[[Tensor], bool] = lambda _: False) -> Iterator[list[str]]:
    """While open, parts behave as on an accelerator; what would make the host wait is listed.

    Tensors of which ``known`` is true may be read: they lie on the host.
    """
    with pytest.MonkeyPatch.context() as patch, _Watch() as watch:
        for info in pkgutil.walk_packages(tokenprune.__path__, "tokenprune."):
            module = sys.modules.get(info.name)
            if module is not None and hasattr(module, "on_host"):
                patch.setattr(module, "on_host", lambda _x: False)
        for name in ("tolist", "cpu", "numpy", "item"):
            patch.setattr(Tensor, name, _noted(getattr(Tensor, name), name, watch.found, known))
        yield watch.found
