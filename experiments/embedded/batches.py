"""Batches of scenes: painted and packed by worker processes, handed over in shared memory."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import multiprocessing
import os
import queue
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.embedded.clips import (
    TOGETHER,
    backwards,
    backwards_arrays,
    clip_labels,
    clip_stream,
    painted,
    scaled_frames,
)
from experiments.embedded.labels import labels_of
from experiments.embedded.network import PATCH
from experiments.embedded.vocabulary import EOS, ID, PAD, encode
from tokenprune.data.scenes.clip_questions import CLIP_SUBFAMILIES, clip_questions, stays
from tokenprune.data.scenes.draws import Draws, key_number
from tokenprune.data.scenes.painter import Painting, paint
from tokenprune.data.scenes.placement import Arrangement, draw_arrangement
from tokenprune.data.scenes.questions import Question, ask
from tokenprune.data.scenes.scene import scene, subfamilies
from tokenprune.data.scenes.styles import PLAIN, Style
from tokenprune.data.scenes.video import Clip, clip
from tokenprune.data.scenes.world import NAMES

IGNORED = -100
TRAIN_LENGTH = 189
"""Tokens of all questions about a picture; with what precedes them a multiple of 16, which attention kernels like."""
TEST_LENGTH = 445
SUBFAMILIES = subfamilies()
KINDS_OF_QUESTIONS = (*SUBFAMILIES, *CLIP_SUBFAMILIES)
"""Those about pictures, then those about clips: what ``kinds`` of a batch counts."""
ABOUT_STILLS = ("gqa/color", "gqa/count", "gqa/relation", "gqa/where", "textvqa/word", "textvqa/number")
"""What is asked in training about things of a clip that stay as they are."""


@dataclass(frozen=True)
class Shown:
    """What a batch shows: pictures of one set and one size, or clips.

    Attributes
    ----------
    style : Style, default PLAIN
    size : tuple of int, optional
        Width and height in pixels that the model gets; by default the style's first.
    frames : int, default 1
        More than one: clips.
    rows : int, optional
        How many a batch holds; by default the feeder's.
    """

    style: Style = PLAIN
    size: tuple[int, int] = PLAIN.sizes[0]
    frames: int = 1
    rows: int | None = None

    @property
    def images(self) -> tuple[int, ...]:
        """Shape of one."""
        width, height = self.size
        return (height, width, 3) if self.frames == 1 else (self.frames, height, width, 3)

    @property
    def patches(self) -> int:
        """How many one has; of a clip, two frames at a time."""
        return max(1, self.frames // TOGETHER) * (self.size[0] // PATCH) * (self.size[1] // PATCH)

    def index(self, number: int) -> int:
        """Index of a scene of this size: the same number never means two scenes of a style."""
        return number * len(self.style.sizes) + self.style.sizes.index(self.size) if self.frames == 1 else number


PLAIN_SCENES = (Shown(),)


@dataclass
class Batch:
    """Arrays of a batch.

    Attributes
    ----------
    images : uint8 (B, height, width, 3)
        Of clips (B, frames, height, width, 3).
    objects, colors, characters, motions : uint8 (B, patches)
        Labels of the patches, row by row, and in clips pair of frames by pair of frames; 0 is none.
    present : uint8 (B, categories)
    tokens, branch, offset : int16 (B, L)
        As in :class:`~experiments.embedded.network.Branches`.
    targets : int16 (B, L)
        The token to be predicted from here; -100 where none is.
    kinds : int16 (B, L)
        Sub-family of the question that starts here; -1 elsewhere.
    """

    images: Any
    objects: Any
    colors: Any
    characters: Any
    motions: Any
    present: Any
    tokens: Any
    branch: Any
    offset: Any
    targets: Any
    kinds: Any

    @classmethod
    def shapes(cls, size: int, length: int, shown: Shown = PLAIN_SCENES[0]) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape and type of every array."""
        size = shown.rows or size
        patches, text = ((size, shown.patches), np.uint8), ((size, length), np.int16)
        return {
            "images": ((size, *shown.images), np.uint8),
            "objects": patches,
            "colors": patches,
            "characters": patches,
            "motions": patches,
            "present": ((size, len(NAMES)), np.uint8),
            **dict.fromkeys(("tokens", "branch", "offset", "targets", "kinds"), text),
        }

    @classmethod
    def views(cls, buffer: Any, size: int, length: int, shown: Shown = PLAIN_SCENES[0]) -> Batch:
        """Arrays that lie in a buffer."""
        arrays, start = {}, 0
        for name, (shape, dtype) in cls.shapes(size, length, shown).items():
            count = int(np.prod(shape))
            arrays[name] = np.frombuffer(buffer, dtype, count, start).reshape(shape)
            start += -(-arrays[name].nbytes // 64) * 64
        return cls(**arrays)

    @classmethod
    def nbytes(cls, size: int, length: int, shown: Shown = PLAIN_SCENES[0]) -> int:
        """Bytes of a buffer for :meth:`views`."""
        parts = cls.shapes(size, length, shown).values()
        return sum(-(-int(np.prod(shape)) * np.dtype(dtype).itemsize // 64) * 64 for shape, dtype in parts)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Names and arrays."""
        return ((field.name, getattr(self, field.name)) for field in fields(self))


def _write_picture(batch: Batch, row: int, arrangement: Arrangement, painting: Painting) -> None:
    batch.images[row] = painting.image
    for name, values in labels_of(arrangement, painting).items():
        getattr(batch, name)[row] = values
    batch.motions[row] = 0
    batch.present[row] = 0
    batch.present[row, list(arrangement.counts)] = 1


def _write_clip(batch: Batch, row: int, found: Clip, shown: Shown) -> None:
    frames = painted(found)
    batch.images[row] = scaled_frames(frames, shown.size)
    for name, values in clip_labels(found, frames, shown.size).items():
        getattr(batch, name)[row] = values
    batch.present[row] = 0


def pack(batch: Batch, row: int, questions: Iterator[Question]) -> int:
    """Write questions one behind the other until one does not fit; returns how many were written."""
    length = batch.tokens.shape[1]
    for array, empty in ((batch.tokens, PAD), (batch.branch, -1), (batch.offset, 0), (batch.targets, IGNORED)):
        array[row] = empty
    batch.kinds[row] = -1
    start = number = 0
    for question in questions:
        asked = [*encode(question.text), ID["ASSISTANT"], ID[":"]]
        said = [*encode(question.answer), EOS]
        stop = start + len(asked) + len(said)
        if stop > length:
            break
        batch.tokens[row, start:stop] = asked + said
        batch.branch[row, start:stop] = number
        batch.offset[row, start:stop] = np.arange(stop - start)
        first = start + len(asked) - 1
        batch.targets[row, first : first + len(said)] = said
        batch.kinds[row, start] = KINDS_OF_QUESTIONS.index((question.family, question.subfamily))
        start, number = stop, number + 1
    return number


def _stream_of_questions(arrangement: Arrangement, draws: Draws, weights: Sequence[int]) -> Iterator[Question]:
    """Draw questions about an arrangement by weight, none twice, until thirty draws in a row bring nothing new."""
    seen: set[str] = set()
    idle = 0
    while idle < 30:
        family, sub = draws.weighted(SUBFAMILIES, weights)
        question = ask(family, sub, arrangement, draws)
        if question is None or question.text in seen:
            idle += 1
            continue
        idle = 0
        seen.add(question.text)
        yield question


def write_training_scene(
    batch: Batch, row: int, split: str, seed: int, index: int, weights: Sequence[int], shown: Shown = PLAIN_SCENES[0]
) -> None:
    """Paint a scene and pack questions about it, drawn by weight."""
    Album().write(batch, row, split, seed, index, weights, shown)


@dataclass
class _Page:
    """A picture that is kept: what is in it, what a batch says of it, and how often it was asked about."""

    index: int
    about: Arrangement | Clip
    arrays: dict[str, NDArray[Any]]
    uses: int = 0


class Album:
    """Training scenes, some of which are shown again: asking costs a tenth of painting.

    Every time a picture is shown, other questions are drawn.

    Parameters
    ----------
    uses : int, default 1
        How often a picture is shown, on average.
    kept : int, default 1
        Pictures of each kind that are kept; a new one takes the place of any.
    """

    _OF_PICTURE = ("images", "objects", "colors", "characters", "motions", "present")
    _FEW = 64
    """Before so many are kept, all pictures are new."""

    def __init__(self, uses: int = 1, kept: int = 1) -> None:
        self.uses, self.kept = uses, kept
        self._pages: dict[Shown, list[_Page]] = {}

    def write(
        self,
        batch: Batch,
        row: int,
        split: str,
        seed: int,
        index: int,
        weights: Sequence[int],
        shown: Shown = PLAIN_SCENES[0],
    ) -> None:
        """Paint scene ``index``, or take one that is kept, and pack questions about it, drawn by weight."""
        style = shown.style

        def draws(index: int, purpose: str) -> Draws:
            kind = "video/" if shown.frames > 1 else style.prefix
            return Draws(key_number(split, seed, index, f"{kind}{purpose}"))

        pages, chance = self._pages.setdefault(shown, []), draws(index, "album")
        if len(pages) >= min(self._FEW, self.kept) and chance.below(self.uses):
            page = chance.pick(pages)
            for name, array in page.arrays.items():
                getattr(batch, name)[row] = array
        else:
            about: Arrangement | Clip
            if shown.frames > 1:
                about = clip(seed, index, split)
                _write_clip(batch, row, about, shown)
            else:
                about = draw_arrangement(draws(index, "layout"), style, shown.size)
                _write_picture(batch, row, about, paint(about, draws(index, "paint"), style.natural))
            arrays = {}
            if self.uses > 1:
                arrays = {name: getattr(batch, name)[row].copy() for name in self._OF_PICTURE}
            page = _Page(index, about, arrays)
            if len(pages) < self.kept:
                pages.append(page)
            else:
                pages[chance.below(self.kept)] = page
        purpose = f"ask/{page.uses}" if page.uses else "ask"
        asking = draws(page.index, purpose)
        if isinstance(page.about, Clip):
            found = page.about
            if page.uses and asking.chance(50):
                found = backwards(found)
                labels = {name: page.arrays[name] for name in self._OF_PICTURE[1:5]}
                for name, array in backwards_arrays(page.arrays["images"], labels).items():
                    getattr(batch, name)[row] = array
            questions = _about_clip(found, asking)
        else:
            questions = _stream_of_questions(page.about, asking, weights)
        page.uses += 1
        pack(batch, row, questions)


def write_benchmark_scene(
    batch: Batch, row: int, split: str, seed: int, index: int, shown: Shown = PLAIN_SCENES[0]
) -> None:
    """Paint a scene and pack exactly the questions that the benchmark asks about it."""
    found = scene(seed, index, split, shown.style.name)
    _write_picture(batch, row, found.arrangement, found.painting)
    if pack(batch, row, iter(found.questions)) != len(found.questions):
        raise AssertionError(f"scene {index} has more questions than fit into {batch.tokens.shape[1]} tokens")


def _about_clip(found: Clip, draws: Draws) -> Iterator[Question]:
    """What happens, then more about what stays as it is."""
    weights = [int("/".join(pair) in ABOUT_STILLS) for pair in SUBFAMILIES]
    return clip_stream(found, draws, _stream_of_questions(stays(found), draws, weights))


def write_benchmark_clip(batch: Batch, row: int, split: str, seed: int, index: int, shown: Shown) -> None:
    """Paint a clip and pack exactly the questions that the benchmark asks about it."""
    found = clip(seed, index, split)
    _write_clip(batch, row, found, shown)
    questions = clip_questions(found)
    if pack(batch, row, iter(questions)) != len(questions):
        raise AssertionError(f"clip {index} has more questions than fit into {batch.tokens.shape[1]} tokens")


class Feeder:
    """Worker processes that write batches into shared memory.

    Start it before the accelerator is touched: workers are forks.

    Parameters
    ----------
    workers, size, length : int
        Processes, pictures a batch, tokens of questions a picture.
    split : str
    seed, start : int
        Scenes ``start``, ``start + 1``, ... of this seed.
    weights : sequence of int, optional
        Starting weights of the sub-families. Without, the benchmark's own questions are asked.
    batches : int, optional
        How many there are in all; default without end.
    cycle : sequence of Shown, optional
        What batches show, one after the other and over again; default plain scenes.
    shown : sequence of bool, optional
        Which of the cycle is shown at first; default all. ``feeder.shown`` changes it later.
    uses, kept : int, default 1
        Of each worker's :class:`Album`.
    """

    def __init__(
        self,
        workers: int,
        size: int,
        length: int,
        split: str,
        seed: int,
        start: int = 0,
        weights: Sequence[int] | None = None,
        batches: int | None = None,
        cycle: Sequence[Shown] = PLAIN_SCENES,
        shown: Sequence[bool] | None = None,
        uses: int = 1,
        kept: int = 1,
    ) -> None:
        self.size, self.length, self.cycle = size, length, tuple(cycle)
        self._split, self._seed, self._start = split, seed, start
        self._batches, self._uses, self._kept = batches, uses, kept
        context = multiprocessing.get_context("fork")
        # anonymous memory is inherited by forks and needs no /dev/shm, which containers keep small
        largest = max(Batch.nbytes(size, length, shown) for shown in self.cycle)
        self._buffers = [mmap.mmap(-1, largest) for _ in range(3 * workers)]
        self._free: Any = context.Queue()
        self._full: Any = context.Queue()
        self.weights: Any = context.Array("i", list(weights)) if weights is not None else None
        # 0: left out for now
        self.shown: Any = context.Array("i", [1] * len(self.cycle) if shown is None else [int(one) for one in shown])
        self._kinds: Any = context.Array("i", len(self._buffers), lock=False)
        for slot in range(len(self._buffers)):
            self._free.put(slot)
        self._processes = [
            context.Process(target=self._work, args=(worker, workers), daemon=True) for worker in range(workers)
        ]
        for process in self._processes:
            process.start()

    def _work(self, worker: int, workers: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        parent, album = os.getppid(), Album(self._uses, self._kept)
        numbers = itertools.count(worker, workers) if self._batches is None else range(worker, self._batches, workers)
        for number in numbers:
            slot = None
            while slot is None:
                if os.getppid() != parent:
                    return
                with contextlib.suppress(queue.Empty):
                    slot = self._free.get(timeout=5)
            if not self.shown[number % len(self.cycle)]:
                self._free.put(slot)
                continue
            shown = self.cycle[number % len(self.cycle)]
            batch = Batch.views(self._buffers[slot], self.size, self.length, shown)
            for row in range(len(batch.images)):
                index = shown.index(self._start + number * self.size + row)
                if self.weights is None:
                    write = write_benchmark_clip if shown.frames > 1 else write_benchmark_scene
                    write(batch, row, self._split, self._seed, index, shown)
                else:
                    album.write(batch, row, self._split, self._seed, index, self.weights[:], shown)
            self._kinds[slot] = number % len(self.cycle)
            self._full.put(slot)

    def take(self) -> tuple[Batch, int]:
        """Return the next batch and its slot, which :meth:`release` gives back."""
        slot = self._full.get(timeout=120)
        return Batch.views(self._buffers[slot], self.size, self.length, self.shown_in(slot)), slot

    def shown_in(self, slot: int) -> Shown:
        """What the batch in a slot shows."""
        return self.cycle[self._kinds[slot]]

    def ready(self) -> int:
        """About how many batches wait to be taken."""
        return int(self._full.qsize())

    def release(self, slot: int) -> None:
        """Let a worker write here again."""
        self._free.put(slot)

    def close(self) -> None:
        """End the workers."""
        for process in self._processes:
            process.terminate()
