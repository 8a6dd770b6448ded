"""Small instances that parts are tried on, and features that note what is read from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.core.features import LAYOUTS, Features, Grid, is_signal, signal_of

__all__ = ["Instance", "Recorder", "instances", "row_of"]

WIDTHS = {"t": 3, "d": 4, "e": 4, "c": 4, "k": 4, "h": 2, "r": 2, "s": 3, "w": 4}
"""Sizes of the axes of signals other than units and visual tokens."""


class Recorder(Features):
    """Features that note the name of every signal that is read, also through copies made of them."""

    __slots__ = ("seen",)
    seen: set[str]

    @classmethod
    def of(cls, features: Features, seen: set[str]) -> Recorder:
        """Return the same features, noting into ``seen``."""
        made = cls.__new__(cls)
        for name in Features.__slots__:
            setattr(made, name, getattr(features, name))
        made.seen = seen
        return made

    @property
    def visual(self) -> Tensor:
        """Visual tokens."""
        if hasattr(self, "seen"):
            self.seen.add("visual")
        return self._signals["visual"]

    def __getitem__(self, name: str) -> Tensor:
        self.seen.add(name)
        return super().__getitem__(name)

    def replace(self, **changes: object) -> Features:
        """As for features; the copy notes too."""
        return Recorder.of(super().replace(**changes), self.seen)

    def frames(self) -> Features:
        """As for features; the copy notes too."""
        return Recorder.of(super().frames(), self.seen)


@dataclass(frozen=True)
class Instance:
    """Features of up to three units and their scores, 0 at padding; ``scale`` is that of the scores."""

    features: Features
    scores: Tensor
    scale: float

    def __str__(self) -> str:
        mask = self.features.valid().int().tolist()
        visual = [
            [[round(x, 3) for x in token] for token in row]
            for row in self.features._signals["visual"].double().tolist()
        ]
        return f"visual {visual}, real tokens {mask}, scores {self.scores.tolist()}"


def _signal(name: str, shape: str, sizes: Mapping[str, int], generator: torch.Generator, grid: bool) -> Tensor:
    size = [sizes[letter] if letter in sizes else int(letter) for letter in shape.split()]
    if "attention" in name:
        # a share always goes elsewhere: to [CLS], or to text
        return torch.randn(size, dtype=torch.float64, generator=generator).softmax(-1) * 0.9
    if name == "survivors":
        return torch.ones(size, dtype=torch.float64)
    if grid:
        return torch.randint(-3, 4, size, generator=generator).double()
    return torch.randn(size, dtype=torch.float64, generator=generator)


def instances(signals: frozenset[str], extra: Mapping[str, str], *, largest: int = 8) -> Iterator[Instance]:
    """Yield instances, the smallest first: one to three units, ragged, with ties, and scores as small as probabilities.

    Parameters
    ----------
    signals : frozenset of str
        Signals that the part reads; where a layout is among them, padding stands behind the tokens of a grid.
    extra : mapping of str to str
        Shapes of signals of one's own, in einops letters (``"b n"``).
    largest : int, default 8
        Most visual tokens.
    """
    layout = bool(signals & LAYOUTS.keys())
    generator = torch.Generator().manual_seed(0)
    for n in range(2, largest + 1, 2 if layout else 1):
        for turn, scale in enumerate((1.0, 1e-6, 1.0)):
            batch = 1 + (turn + n) % 3
            yield _instance(signals, extra, batch, n, scale, turn == 2, layout, generator)


def _instance(
    signals: frozenset[str],
    extra: Mapping[str, str],
    batch: int,
    n: int,
    scale: float,
    grid: bool,
    layout: bool,
    generator: torch.Generator,
) -> Instance:
    sizes = {"b": batch, "n": n, **WIDTHS}
    given = {}
    for name in sorted({"visual", "text", *signals} - LAYOUTS.keys() - extra.keys()):
        if is_signal(name):
            given[name] = _signal(name, signal_of(name).shape, sizes, generator, grid and name == "visual")
    empty = ~given["visual"].any(-1)
    given["visual"][..., 0] = given["visual"][..., 0].masked_fill(empty, 1)
    own = {name: _signal(name, shape, sizes, generator, False) for name, shape in sorted(extra.items())}
    counts = [max(2, n - 2 * row if layout else n - row) for row in range(batch)]
    real = torch.stack([torch.arange(n) < count for count in counts])
    if not layout:
        real = real.gather(1, torch.rand(batch, n, generator=generator).argsort(1))
    scores = torch.randn(batch, n, dtype=torch.float64, generator=generator) * scale
    if grid:
        scores = (scores * 2).round() / 2
    text_real = torch.ones(batch, WIDTHS["t"], dtype=torch.bool)
    text_real[1:, -1] = False
    features = Features(
        given.pop("visual"),
        given.pop("text"),
        visual_mask=real,
        text_mask=text_real,
        grid=[Grid(1, count // 2, 2) for count in counts] if layout else None,
        extra=own or None,
        check=True,
        sizes=None,
        **given,
    )
    return Instance(features, scores.masked_fill(~real, 0), scale)


def row_of(instance: Instance, row: int, *, padded: bool = False) -> Instance:
    """One unit alone: without its padding, or with all of it."""
    features = instance.features
    keep = slice(None) if padded else features.valid()[row]
    words = slice(None) if padded or features.text_mask is None else features.text_mask[row]
    changes: dict[str, Tensor] = {}
    own: dict[str, Tensor] = {}
    for name in features:
        value = features._signals[name][row : row + 1]  # what is copied is not read by the part
        if not is_signal(name):
            at = next((i for i in range(1, value.ndim) if value.shape[i] == features.n_visual), None)
            own[name] = value if at is None else _cut(value, at, keep)
            continue
        for axis, letter in enumerate(signal_of(name).shape.split()):
            value = _cut(value, axis, keep if letter == "n" else words) if letter in "nt" else value
        changes[name] = value
    visual = changes.pop("visual")
    alone = Features(
        visual,
        changes.pop("text", None),
        visual_mask=features.valid()[row : row + 1] if padded else None,
        text_mask=None if features.text_mask is None or not padded else features.text_mask[row : row + 1],
        grid=None if features.pictures is None else [features.pictures[row]],
        extra=own or None,
        check=True,
        sizes=None,
        **changes,
    )
    return Instance(alone, instance.scores[row : row + 1, keep], instance.scale)


def _cut(value: Tensor, axis: int, keep: slice | Tensor) -> Tensor:
    index: list[slice | Tensor] = [slice(None)] * value.ndim
    index[axis] = keep
    return value[tuple(index)]
