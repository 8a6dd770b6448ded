"""What a strategy may look at: the tensors of one batch of pruning units, validated once.

A *unit* is the pool that one budget applies to: an image by default, a frame, or all images of a sample.
Everything downstream (scores, selections) has one row per unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from einops import rearrange
from torch import Tensor

from tokenprune.core.errors import (
    FeatureError,
    FeatureTypeError,
    MissingSignalError,
    NonFiniteError,
    UnknownNameError,
    closest,
)
from tokenprune.core.layer_names import split_layer

__all__ = [
    "LAYOUTS",
    "SIGNALS",
    "Features",
    "Grid",
    "Grids",
    "Signal",
    "is_signal",
    "on_host",
    "signal_of",
    "working_precision",
]

DTYPES: Final = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""What signals may be made of; narrower formats carry a scale that only their owner knows."""


@dataclass(frozen=True)
class Signal:
    """Name, shape (einops notation; ``b`` units, ``n`` visual tokens, ``t`` text tokens) and meaning of a signal.

    One that is ``layered`` exists at every layer of the vision encoder: ``keys@-1`` names the last (see
    :mod:`tokenprune.core.layer_names`), ``keys`` that whose output is projected.
    """

    name: str
    shape: str
    meaning: str
    layered: bool = False


SIGNALS: Final[Mapping[str, Signal]] = {
    s.name: s
    for s in (
        Signal("visual", "b n d", "visual tokens in the space where they are pruned (projection space by default)"),
        Signal("text", "b t d", "the prompt's own tokens, embedded by the language model"),
        Signal("encoder", "b n e", "patch features of the vision encoder, before the projector"),
        Signal("encoder_cls", "b e", "the encoder's [CLS] feature of the layer that `encoder` comes from"),
        Signal("keys", "b n k", "keys of that encoder layer, averaged over heads", layered=True),
        Signal("queries", "b n k", "queries of that encoder layer, averaged over heads", layered=True),
        Signal("head_keys", "b h n k", "keys of that encoder layer, per head", layered=True),
        Signal("head_queries", "b h n k", "queries of that encoder layer, per head", layered=True),
        Signal("wide_keys", "b n w", "keys of that encoder layer, heads side by side", layered=True),
        Signal("wide_queries", "b n w", "queries of that encoder layer, heads side by side", layered=True),
        Signal("hidden", "b n w", "output of that encoder layer, mean over the patches of a token", layered=True),
        Signal(
            "cls_attention",
            "b h n",
            "attention of [CLS] to each patch in that layer, after softmax, per head",
            layered=True,
        ),
        Signal("cls_wide_attention", "b n", "the same with all heads taken as one, scaled by its width", layered=True),
        Signal(
            "received_attention",
            "b n",
            "attention each patch receives from the other patches, head mean, summed",
            layered=True,
        ),
        Signal(
            "mean_attention",
            "b n",
            "attention each patch receives, mean over heads and all rows, its own and [CLS]'s among them",
            layered=True,
        ),
        Signal("pooling_attention", "b h n", "attention of the encoder's pooling head to each patch, after softmax"),
        Signal("survivors", "b n", "1 at patches that are left after a stage inside the encoder, 0 elsewhere"),
        Signal("noise", "b n", "a uniform number for each token, drawn from its picture's pixels and its place"),
        Signal("joint_visual", "b n c", "patches in the joint space of a contrastive model (CLIP)"),
        Signal("joint_text", "b s c", "text segments in that joint space"),
        Signal("attention", "b h r n", "attention rows of the language model over the visual tokens, after softmax"),
        Signal("llm_keys", "b n k", "keys of a language-model layer, heads concatenated"),
    )
}

LAYOUTS: Final[Mapping[str, Signal]] = {
    s.name: s
    for s in (
        Signal("frames", "b n", "number of the frame that each token belongs to, -1 at padding; from the grid"),
        Signal("places", "b n 3", "frame, row and column of each token, -1 at padding; from the grid"),
    )
}
"""What a part may require that is no tensor of its own: it follows from where the tokens lie."""


def is_signal(name: object) -> bool:
    """Whether a name is that of a built-in signal, of a layer (``keys@-1``) or not."""
    base, layer = split_layer(str(name))
    return base in SIGNALS and (layer is None or SIGNALS[base].layered)


def signal_of(name: str) -> Signal:
    """Look a built-in signal up, of a layer or not.

    Raises
    ------
    UnknownNameError
        No such signal, or one that has no layers.
    """
    if not is_signal(name):
        base, layer = split_layer(name)
        if base in SIGNALS:
            layered = ", ".join(signal.name for signal in SIGNALS.values() if signal.layered)
            raise UnknownNameError(f"signal {base!r} exists once, not at layer {layer!r}; layered ones: {layered}")
        raise UnknownNameError(f"unknown signal {name!r}; {closest(name, SIGNALS)}")
    return SIGNALS[split_layer(name)[0]]


def working_precision(x: Tensor) -> Tensor:
    """Cast half precision to float32; leave float32 and float64 as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def on_host(x: Tensor) -> bool:
    """Whether reading the tensor's numbers is free; elsewhere the host would wait until the device has made them."""
    return x.device.type == "cpu"


@dataclass(frozen=True)
class Grid:
    """Where visual tokens lie: raster order, rows by columns, frame after frame.

    Parameters
    ----------
    height, width : int
        Rows and columns of tokens in a frame.
    frames : int, default 1
        Frames; 1 for an image.
    """

    height: int
    width: int
    frames: int = 1

    def __post_init__(self) -> None:
        for name in ("height", "width", "frames"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise FeatureError(f"Grid.{name} must be an int of at least 1, got {value!r}")

    @property
    def size(self) -> int:
        """Tokens in all frames together."""
        return self.frames * self.height * self.width

    def coordinates(self, device: torch.device | str | None = None) -> Tensor:
        """Return (N, 3) int64 coordinates (frame, row, column) in raster order."""
        axes = (torch.arange(k, device=device) for k in (self.frames, self.height, self.width))
        return torch.cartesian_prod(*axes).reshape(-1, 3)


Grids = Grid | Sequence[Grid | Sequence[Grid]]
"""Where visual tokens lie: alike in all rows, or for each row, or for each picture of each row."""


class Features:
    """The tensors a strategy may look at; one row per pruning unit.

    Parameters
    ----------
    visual : Tensor, (B, N, d)
        Visual tokens; float16, bfloat16, float32 or float64.
    text : Tensor, (B, T, d), optional
        The prompt's tokens in the same space. Strategies that ignore the prompt need none.
    visual_mask, text_mask : bool Tensor, (B, N) and (B, T), optional
        True where a token is real. Padding is never scored, never selected and never normalised over.
    grid : Grid, or sequence of Grid or of sequences of Grid, optional
        Where the visual tokens lie; ``grid.size`` must equal N. A sequence has one for each row, whose real tokens are
        the first ``grid.size``; a row of several pictures, one behind the other (a thumbnail and its tiles), has a
        sequence of its own.
    extra : mapping of str to Tensor, optional
        Signals of your own, batch first.
    **signals : Tensor
        Any of :data:`SIGNALS` (``cls_attention``, ``encoder``, ``keys``, ...).
    check : bool, default True
        False leaves out the checks that read numbers (finite signals, a real token in every row), each of which makes
        the host wait for an accelerator. For tensors known to be sound; inside a captured graph it is the only way.
        Shapes are checked and padding is zeroed all the same.
    sizes : sequence of int, optional
        Real visual tokens of each row. Without them ``counts`` reads a ``visual_mask``.

    Raises
    ------
    FeatureTypeError
        An argument is not a floating-point tensor (a bool tensor for masks, a Grid, a mapping of tensors).
    FeatureError
        Wrong rank, mismatched batch, width, number of tokens or device, or no text token in a row.
    NonFiniteError
        NaN or infinity in a real token.
    UnknownNameError
        A keyword that is no signal's name.
    """

    __slots__ = ("_counts", "_signals", "_valid", "checked", "grid", "grids", "pictures", "text_mask", "visual_mask")

    def __init__(
        self,
        visual: Tensor,
        text: Tensor | None = None,
        *,
        visual_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
        grid: Grids | None = None,
        extra: Mapping[str, Tensor] | None = None,
        check: bool = True,
        sizes: Sequence[int] | None = None,
        **signals: Tensor | None,
    ) -> None:
        self.checked = check
        given: dict[str, Tensor] = {"visual": visual}
        if text is not None:
            given["text"] = text
        for name, value in signals.items():
            if not is_signal(name):
                hint = closest(name, SIGNALS)
                raise UnknownNameError(f"unknown signal {name!r}; {hint} Signals of your own go into extra={{...}}.")
            if value is not None:
                one_head = split_layer(name)[0] == "cls_attention" and isinstance(value, Tensor) and value.ndim == 2
                given[name] = value[:, None] if one_head else value
        _check_shapes(given)
        batch, n = visual.shape[:2]
        self.visual_mask = _checked_mask("visual_mask", visual_mask, (batch, n), visual.device, "visual token", check)
        self._counts = self._known_counts(batch, n, sizes)
        everything = torch.ones(batch, n, dtype=torch.bool, device=visual.device)
        self._valid = everything if self.visual_mask is None else self.visual_mask
        if text is None and text_mask is not None:
            raise FeatureError("text_mask was given without text")
        n_text = 0 if text is None else text.shape[1]
        self.text_mask = _checked_mask("text_mask", text_mask, (batch, n_text), visual.device, "text token", check)
        self.pictures = _checked_grids(grid, visual, self.visual_mask, check)
        """Where each row's tokens lie, picture after picture, or None."""
        alone = self.pictures is not None and all(len(row) == 1 for row in self.pictures)
        self.grids = tuple(row[0] for row in self.pictures) if alone and self.pictures is not None else None
        """Where each row's tokens lie, if each row is one picture or video, or None."""
        common = set(self.grids or ())
        self.grid = common.pop() if len(common) == 1 and next(iter(common)).size == n else None
        """Where all rows' tokens lie, where that is the same."""
        for name, value in given.items():
            given[name] = self._without_padding(name, value)
        if extra is not None and not isinstance(extra, Mapping):
            raise FeatureTypeError(f"extra must be a mapping of names to tensors, got {_describe(extra)}")
        for name, value in (extra or {}).items():
            if is_signal(name):
                raise FeatureError(f"extra[{name!r}] is a built-in signal: pass it by keyword")
            if name in LAYOUTS:
                raise FeatureError(f"extra[{name!r}] is a built-in name: it follows from grid=")
            if not isinstance(value, Tensor) or value.ndim < 1 or value.shape[0] != batch:
                raise FeatureError(f"extra[{name!r}] must be a tensor with {batch} rows, got {_describe(value)}")
            given[name] = value
        self._signals: Mapping[str, Tensor] = given

    def _without_padding(self, name: str, value: Tensor) -> Tensor:
        """Zero what the masks leave out, then insist that the rest is finite, if numbers are to be read."""
        shape = signal_of(name).shape.split()
        mask = {"n": self.visual_mask, "t": self.text_mask}
        for axis, letter in enumerate(shape):
            if letter in mask and (m := mask[letter]) is not None:
                view = [1] * value.ndim
                view[0], view[axis] = m.shape
                value = value.masked_fill(~m.view(view), 0)
        if self.checked and not bool(torch.isfinite(value).all()):
            raise NonFiniteError(f"{name} holds NaN or infinity in {int((~torch.isfinite(value)).sum())} places")
        return value

    @property
    def visual(self) -> Tensor:
        """Visual tokens, (B, N, d)."""
        return self._signals["visual"]

    @property
    def text(self) -> Tensor:
        """Text tokens, (B, T, d)."""
        return self["text"]

    @property
    def batch(self) -> int:
        """Number of units B."""
        return self.visual.shape[0]

    @property
    def n_visual(self) -> int:
        """Number of visual tokens N, padding included."""
        return self.visual.shape[1]

    @property
    def device(self) -> torch.device:
        """Device of the visual tokens."""
        return self.visual.device

    def counts(self) -> list[int]:
        """Real visual tokens of each unit."""
        return list(self._read_counts() if self._counts is None else self._counts)

    def _known_counts(self, batch: int, n: int, sizes: Sequence[int] | None) -> list[int] | None:
        """Counts that need no reading, or that are read because numbers are checked."""
        if sizes is not None and (len(sizes) != batch or not all(0 < size <= n for size in sizes)):
            raise FeatureError(f"sizes must be {batch} counts from 1 to {n}, got {list(sizes)}")
        if self.visual_mask is None:
            known: list[int] | None = [n] * batch
        else:
            known = self._read_counts() if self.checked else None if sizes is None else list(sizes)
        if sizes is not None and known != list(sizes):
            raise FeatureError(f"sizes {list(sizes)} are not the real visual tokens of each row, {known}")
        return known

    def _read_counts(self) -> list[int]:
        assert self.visual_mask is not None
        return [int(c) for c in self.visual_mask.sum(1).tolist()]

    def valid(self) -> Tensor:
        """Bool (B, N): True at real visual tokens."""
        return self._valid

    def log_size(self, dtype: torch.dtype) -> Tensor:
        """Log of the number of real visual tokens, (B, 1)."""
        if self.visual_mask is None:
            return torch.full((self.batch, 1), math.log(self.n_visual), dtype=dtype, device=self.device)
        return self.visual_mask.sum(1, keepdim=True).to(dtype).log()

    def __contains__(self, name: object) -> bool:
        laid_out = self.grids if name == "frames" else self.pictures
        return name in self._signals or (name in LAYOUTS and laid_out is not None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._signals)

    def __getitem__(self, name: str) -> Tensor:
        if name in LAYOUTS:
            return self._frame_numbers() if name == "frames" else self._coordinates(name)
        try:
            return self._signals[name]
        except KeyError:
            meaning = f" ({signal_of(name).meaning}; {signal_of(name).shape})" if is_signal(name) else ""
            have = ", ".join(self._signals)
            raise MissingSignalError(f"signal {name!r}{meaning} is needed but was not given; given: {have}") from None

    def _frame_numbers(self) -> Tensor:
        """Frame of each token, int64 (B, N), -1 at padding."""
        if self.grids is None and self.pictures is not None:
            raise MissingSignalError(
                "'frames' is needed (which frame each visual token belongs to), and a row holds several pictures that "
                "are no frames of one size"
            )
        if self.grids is None:
            raise MissingSignalError(
                "'frames' is needed (which frame each visual token belongs to), and it is not known where the tokens "
                "lie: give Features(grid=Grid(height, width, frames)), or one grid for each row"
            )
        place = torch.arange(self.n_visual, device=self.device)
        rows = [place // (grid.height * grid.width) for grid in self.grids]
        return torch.stack(rows).masked_fill(~self._valid, -1)

    def _coordinates(self, name: str) -> Tensor:
        """Frame, row and column of each token, int64 (B, N, 3), -1 at padding; frames of all pictures count on."""
        if self.pictures is None:
            raise MissingSignalError(
                f"{name!r} is needed (row and column of each visual token), and it is not known where the tokens lie: "
                "give Features(grid=Grid(height, width)), or one grid for each row"
            )
        found = torch.full((self.batch, self.n_visual, 3), -1, device=self.device)
        for row, grids in zip(found.unbind(0), self.pictures, strict=True):
            start = frame = 0
            for grid in grids:
                row[start : start + grid.size] = grid.coordinates(self.device)
                row[start : start + grid.size, 0] += frame
                start, frame = start + grid.size, frame + grid.frames
        return found

    def replace(self, **changes: object) -> Features:
        """Return a copy with some signals, masks or the grid exchanged, checked (``check``) as this one was."""
        known = {k: v for k, v in self._signals.items() if is_signal(k)}
        extra = {k: v for k, v in self._signals.items() if not is_signal(k)}
        own: dict[str, object] = {
            "visual_mask": self.visual_mask,
            "text_mask": self.text_mask,
            "grid": self.pictures if self.grid is None else self.grid,
            "extra": extra,
        }
        if not {"visual", "visual_mask"} & changes.keys():
            own["sizes"] = self._counts
        return Features(**{**known, **own, "check": self.checked, **changes})  # type: ignore[arg-type]

    def frames(self) -> Features:
        """Return the same tokens with one row per frame instead of one per unit (needs ``grid.frames``).

        Signals that do not run over visual tokens (the text) are repeated for each frame.
        """
        if self.grid is None:
            raise FeatureError("unit='frame' needs Features(grid=Grid(height, width, frames)), the same for all rows")
        f = self.grid.frames
        changes: dict[str, object] = {"grid": Grid(self.grid.height, self.grid.width)}
        for name, value in self._signals.items():
            if not is_signal(name):
                raise FeatureError(f"unit='frame' cannot split the signal {name!r}: its layout is not known")
            shape = signal_of(name).shape.split()
            changes[name] = _split_frames(value, shape.index("n") if "n" in shape else None, f)
        changes["visual_mask"] = None if self.visual_mask is None else _split_frames(self.visual_mask, 1, f)
        changes["text_mask"] = None if self.text_mask is None else _split_frames(self.text_mask, None, f)
        return self.replace(**changes)

    def __repr__(self) -> str:
        parts = [f"{k}={tuple(v.shape)}" for k, v in self._signals.items()]
        return f"Features({', '.join(parts)}, dtype={self.visual.dtype}, device={self.device})"


def _split_frames(value: Tensor, axis: int | None, frames: int) -> Tensor:
    """(B, ..., F n, ...) -> (B F, ..., n, ...); repeated where no axis runs over visual tokens."""
    if axis is None:
        return value.repeat_interleave(frames, dim=0)
    return rearrange(value.movedim(axis, 1), "b (f n) ... -> (b f) n ...", f=frames).movedim(1, axis)


def _describe(value: object) -> str:
    if isinstance(value, Tensor) and value.is_nested:
        return "a nested tensor"
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r}"[:80]


def _check_shapes(given: Mapping[str, Tensor]) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for name, value in given.items():
        shape = signal_of(name).shape
        if not isinstance(value, Tensor):
            raise FeatureTypeError(f"{name} must be a tensor ({shape}), got {_describe(value)}")
        if value.is_nested or value.layout != torch.strided:
            kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
            raise FeatureTypeError(f"{name} must be a dense tensor ({shape}), got a {kind} one; pad it, with a mask")
        if value.dtype not in DTYPES:
            accepted = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise FeatureTypeError(f"{name} must be a tensor ({shape}) of {accepted}, got {_describe(value)}")
        letters = shape.split()
        if value.ndim != len(letters):
            raise FeatureError(f"{name} must have {len(letters)} dimensions ({shape}), got shape {tuple(value.shape)}")
        for letter, size in zip(letters, value.shape, strict=True):
            if size == 0:
                empty = {"t": "no text token", "n": "no visual token", "b": "an empty batch"}
                what = empty.get(letter, "an empty axis")
                raise FeatureError(f"{name} has {what}: shape {tuple(value.shape)} ({shape})")
            if letter in "bndtec" and sizes.setdefault(letter, (size, name))[0] != size:
                other, by = sizes[letter]
                mine = f"{name} is {tuple(value.shape)} ({shape})"
                raise FeatureError(f"{mine}: {letter!r} is {size} there but {other} in {by}")
        if value.device != given["visual"].device:
            raise FeatureError(f"{name} is on {value.device} but visual is on {given['visual'].device}")
        if value.is_meta:
            raise FeatureError(f"{name} is on the meta device, where tensors hold no numbers")


def _checked_grids(
    grid: Grids | None, visual: Tensor, mask: Tensor | None, check: bool
) -> tuple[tuple[Grid, ...], ...] | None:
    """The grids of each row; ``check`` reads the mask to see whether the real tokens lie on them."""
    if grid is None:
        return None
    batch, n = visual.shape[:2]
    rows = [grid] * batch if isinstance(grid, Grid) else list(grid) if isinstance(grid, Sequence) else [grid]
    grids = [(row,) if isinstance(row, Grid) else tuple(row) if isinstance(row, Sequence) else () for row in rows]
    if not all(row and all(isinstance(one, Grid) for one in row) for row in grids):
        raise FeatureTypeError(
            "grid must be a tokenprune.Grid, or one for each row (several for a row of several pictures), got "
            f"{_describe(grid)}"
        )
    if len(grids) != batch:
        raise FeatureError(f"grid has {len(grids)} grids for {batch} rows of visual (shape {tuple(visual.shape)})")
    for row, several in enumerate(grids):
        size = sum(one.size for one in several)
        fits = size == n or (size < n and not isinstance(grid, Grid))
        if fits and check and size < n:
            fits = mask is not None and not bool(mask[row, size:].any())
        if not fits:
            where = "" if isinstance(grid, Grid) else f" in row {row}"
            raise FeatureError(f"grid has {size} cells{where} but visual has {n} tokens (shape {tuple(visual.shape)})")
    return tuple(grids)


def _checked_mask(
    name: str, mask: Tensor | None, shape: tuple[int, int], device: torch.device, what: str, check: bool
) -> Tensor | None:
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise FeatureTypeError(f"{name} must be a bool tensor of shape {shape}, got {_describe(mask)}")
    if tuple(mask.shape) != shape:
        raise FeatureError(f"{name} must have shape {shape}, got {tuple(mask.shape)}")
    if mask.device != device:
        raise FeatureError(f"{name} is on {mask.device} but visual is on {device}")
    if not check:
        return mask
    if bool(mask.all()):
        return None
    if not bool(mask.any(1).all()):
        row = int((~mask.any(1)).nonzero()[0, 0])
        raise FeatureError(f"{name} leaves no {what} in row {row}")
    return mask
