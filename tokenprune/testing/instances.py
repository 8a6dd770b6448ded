"""Small instances that parts are tried on, and features that note what is read from them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn

import torch
from torch import Tensor

from tokenprune.core.errors import CheckError
from tokenprune.core.features import LAYOUTS, Features, Grid, is_signal, signal_of

__all__ = ["LARGEST", "Instance", "Recorder", "halves", "instances", "noisy", "refuse", "row_of", "same_numbers"]

LARGEST = 8
"""Most visual tokens of an instance unless asked for otherwise; one more has three times as many."""

WIDTHS = {"t": 3, "d": 4, "e": 5, "c": 4, "k": 3, "h": 2, "r": 2, "s": 3, "w": 6, "f": 2}
"""Sizes of the axes of signals other than units and visual tokens."""

COUNTED = {"visual_positions": 1000, "text_positions": 1000, "part": 3}
"""Signals that are whole numbers: consecutive ones, up to these."""


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
    """Features of up to three units and their scores, 0 at padding.

    ``scale`` is that of the scores; ``shapes`` are those of signals that are not built in, in einops letters.
    """

    features: Features
    scores: Tensor
    scale: float
    shapes: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        mask = self.features.valid().int().tolist()
        visual = [
            [[round(x, 3) for x in token] for token in row]
            for row in self.features._signals["visual"].double().tolist()
        ]
        return f"visual {visual}, real tokens {mask}, scores {self.scores.tolist()}"


def refuse(what: str, instance: Instance, error: Exception | None = None) -> NoReturn:
    """Raise, saying what is wrong and on which instance."""
    raise CheckError(f"{what}\nsmallest instance found: {instance}") from error


def same_numbers(a: Tensor, b: Tensor, close: float = 1e-6) -> bool:
    """Whether two tensors of float64 work agree up to rounding."""
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=close, atol=1e-9)


def noisy(instance: Instance, seed: int) -> Instance:
    """The same with noise of 1e-11 in every number: where this changes an answer, rounding decides it."""
    draw = torch.Generator().manual_seed(seed)

    def shaken(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        return value * (1 + 1e-11 * torch.randn(value.shape, generator=draw, dtype=torch.float64).to(value.dtype))

    features = instance.features
    made = Features.replace(
        features,
        **{n: shaken(features._signals[n]) for n in features if is_signal(n)},
        extra={n: shaken(features._signals[n]) for n in features if not is_signal(n)} or None,
    )
    return replace(instance, features=made, scores=shaken(instance.scores))


def halves(instance: Instance, names: Collection[str]) -> Iterator[tuple[Instance, Instance]]:
    """Some signals in half precision, and the same numbers in float32.

    First in bfloat16, then in float16 and so large that their squares overflow there.
    """
    for dtype, scale in ((torch.bfloat16, 1.0), (torch.float16, 300.0)):
        low = {}
        for name in names:
            value = instance.features._signals[name]
            grows = scale if "attention" not in name and value.is_floating_point() else 1.0
            low[name] = (value * grows).to(dtype) if value.is_floating_point() else value
        exact = {name: value.float() if value.is_floating_point() else value for name, value in low.items()}
        # the recorder, if there is one, goes on noting
        yield tuple(replace(instance, features=_with(instance.features, given)) for given in (low, exact))  # type: ignore[misc]


def _with(features: Features, given: Mapping[str, Tensor]) -> Features:
    own = {n: features._signals[n] for n in features if not is_signal(n)}
    own |= {n: v for n, v in given.items() if not is_signal(n)}
    return features.replace(**{n: v for n, v in given.items() if is_signal(n)}, **({"extra": own} if own else {}))


def _signal(name: str, shape: str, sizes: Mapping[str, int], generator: torch.Generator, grid: bool) -> Tensor:
    size = [sizes[letter] if letter in sizes else int(letter) for letter in shape.split()]
    if "attention" in name.partition("#")[0]:
        # a share always goes elsewhere: to [CLS], or to text
        return torch.randn(size, dtype=torch.float64, generator=generator).softmax(-1) * 0.9
    if name == "survivors":
        return torch.ones(size, dtype=torch.float64)
    if name in COUNTED:
        return torch.arange(size[1]).expand(size) % COUNTED[name]
    if grid:
        return torch.randint(-3, 4, size, generator=generator).double()
    return torch.randn(size, dtype=torch.float64, generator=generator)


def instances(signals: frozenset[str], extra: Mapping[str, str], *, largest: int = LARGEST) -> Iterator[Instance]:
    """Yield instances, the smallest first: one to three units, ragged, with ties, and scores as small as probabilities.

    Parameters
    ----------
    signals : frozenset of str
        Signals that the part reads; where a layout is among them, padding stands behind the tokens of a grid.
    extra : mapping of str to str
        Shapes of signals of one's own, in einops letters (``"b n"``).
    largest : int, default 8
        Most visual tokens; one instance more has three times as many.
    """
    layout = bool(signals & LAYOUTS.keys())
    generator = torch.Generator().manual_seed(0)
    for n in range(2, largest + 1, 2) if layout else range(1, largest + 1):
        for turn, scale in enumerate((1.0, 1e-6, 1.0)):
            batch = 1 + (turn + n) % 3
            yield _instance(signals, extra, batch, n, scale, turn == 2, layout, generator)
    # frames come in pairs
    most = 3 * largest + (layout and largest % 2)
    yield _instance(signals, extra, 2, most, 1.0, False, layout, generator)


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
    if grid:  # two tokens that are alike in everything
        for name, value in given.items():
            if "n" in (letters := signal_of(name).shape.split()):
                axis = letters.index("n")
                value.select(axis, n // 2).copy_(value.select(axis, 0).clone())
    own = {name: _signal(name, shape, sizes, generator, False) for name, shape in sorted(extra.items())}
    counts = [max(min(2, n), n - 2 * row if layout else n - row) for row in range(batch)]
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
    return Instance(features, scores.masked_fill(~real, 0), scale, extra)


def row_of(instance: Instance, row: int, *, padded: bool = False) -> Instance:
    """One unit alone: without its padding, or with all of it."""
    features = instance.features
    keep = slice(None) if padded else features.valid()[row]
    words = slice(None) if padded or features.text_mask is None else features.text_mask[row]
    changes: dict[str, Tensor] = {}
    own: dict[str, Tensor] = {}
    for name in features:
        value = features._signals[name][row : row + 1]  # what is copied is not read by the part
        shape = signal_of(name).shape if is_signal(name) else instance.shapes[name]
        for axis, letter in enumerate(shape.split()):
            value = _cut(value, axis, keep if letter == "n" else words) if letter in "nt" else value
        (changes if is_signal(name) else own)[name] = value
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
    return replace(instance, features=alone, scores=instance.scores[row : row + 1, keep])


def _cut(value: Tensor, axis: int, keep: slice | Tensor) -> Tensor:
    index: list[slice | Tensor] = [slice(None)] * value.ndim
    index[axis] = keep
    return value[tuple(index)]
