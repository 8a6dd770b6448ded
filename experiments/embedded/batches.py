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

from experiments.embedded.network import PATCH, SIDE
from experiments.embedded.vocabulary import EOS, ID, PAD, encode
from tokenprune.data.scenes.atlas import CHARACTERS
from tokenprune.data.scenes.draws import Draws, key_number
from tokenprune.data.scenes.painter import Painting, paint
from tokenprune.data.scenes.placement import Layout, draw_layout
from tokenprune.data.scenes.questions import Question, ask
from tokenprune.data.scenes.scene import scene, subfamilies
from tokenprune.data.scenes.world import COLORS, NAMES, SIZE

IGNORED = -100
TRAIN_LENGTH = 189
"""Tokens of all questions about a picture; with what precedes them a multiple of 16, which attention kernels like."""
TEST_LENGTH = 445
SUBFAMILIES = subfamilies()
SIGN = len(NAMES) + 1
"""Label of a patch that shows a sign; 0 is background, 1.. are the categories."""
_COLOR = {name: i + 1 for i, name in enumerate(COLORS)}
_LEAST_SEEN = PATCH * PATCH * 13 // 100
"""Pixels of an object that make a patch its own."""


@dataclass
class Batch:
    """Arrays of a batch.

    Attributes
    ----------
    images : uint8 (B, SIZE, SIZE, 3)
    objects, colors, characters : uint8 (B, SIDE**2)
        Labels of the patches; 0 is none.
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
    present: Any
    tokens: Any
    branch: Any
    offset: Any
    targets: Any
    kinds: Any

    @classmethod
    def shapes(cls, size: int, length: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape and type of every array."""
        patches, text = ((size, SIDE * SIDE), np.uint8), ((size, length), np.int16)
        return {
            "images": ((size, SIZE, SIZE, 3), np.uint8),
            "objects": patches,
            "colors": patches,
            "characters": patches,
            "present": ((size, len(NAMES)), np.uint8),
            **dict.fromkeys(("tokens", "branch", "offset", "targets", "kinds"), text),
        }

    @classmethod
    def views(cls, buffer: Any, size: int, length: int) -> Batch:
        """Arrays that lie in a buffer."""
        arrays, start = {}, 0
        for name, (shape, dtype) in cls.shapes(size, length).items():
            count = int(np.prod(shape))
            arrays[name] = np.frombuffer(buffer, dtype, count, start).reshape(shape)
            start += -(-arrays[name].nbytes // 64) * 64
        return cls(**arrays)

    @classmethod
    def nbytes(cls, size: int, length: int) -> int:
        """Bytes of a buffer for :meth:`views`."""
        parts = cls.shapes(size, length).values()
        return sum(-(-int(np.prod(shape)) * np.dtype(dtype).itemsize // 64) * 64 for shape, dtype in parts)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Names and arrays."""
        return ((field.name, getattr(self, field.name)) for field in fields(self))


def patch_labels(seen: NDArray[np.uint8], labels: Sequence[Sequence[int]]) -> list[NDArray[np.uint8]]:
    """Label of each patch, by what covers most of it, for each list of labels (the first is the background's)."""
    tiles = seen.reshape(SIDE, PATCH, SIDE, PATCH).swapaxes(1, 2).reshape(SIDE * SIDE, -1).astype(np.int64)
    number = len(labels[0])
    keys = tiles + np.arange(SIDE * SIDE)[:, None] * number
    counts = np.bincount(keys.ravel(), minlength=SIDE * SIDE * number).reshape(-1, number)
    counts[:, 0] = _LEAST_SEEN
    winner = counts.argmax(1)
    return [np.asarray(row, np.uint8)[winner] for row in labels]


def _write_picture(batch: Batch, row: int, layout: Layout, painting: Painting) -> None:
    things = [o.category + 1 for o in layout.objects] + [SIGN] * len(layout.signs)
    tints = [_COLOR[o.color] if o.color else 0 for o in layout.objects] + [_COLOR[s.color] for s in layout.signs]
    letters = [CHARACTERS.index(c) + 1 for sign in layout.signs for c in sign.text.upper()]
    batch.images[row] = painting.image
    batch.objects[row], batch.colors[row] = patch_labels(painting.owner, [[0, *things], [0, *tints]])
    (batch.characters[row],) = patch_labels(painting.letter, [[0, *letters]])
    batch.present[row] = 0
    batch.present[row, list(layout.counts)] = 1


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
        batch.kinds[row, start] = SUBFAMILIES.index((question.family, question.subfamily))
        start, number = stop, number + 1
    return number


def _stream_of_questions(layout: Layout, draws: Draws, weights: Sequence[int]) -> Iterator[Question]:
    """Draw questions about a layout by weight, none twice, until thirty draws in a row bring nothing new."""
    seen: set[str] = set()
    idle = 0
    while idle < 30:
        family, sub = draws.weighted(SUBFAMILIES, weights)
        question = ask(family, sub, layout, draws)
        if question is None or question.text in seen:
            idle += 1
            continue
        idle = 0
        seen.add(question.text)
        yield question


def write_training_scene(batch: Batch, row: int, split: str, seed: int, index: int, weights: Sequence[int]) -> None:
    """Paint a scene and pack questions about it, drawn by weight."""
    layout = draw_layout(Draws(key_number(split, seed, index, "layout")))
    _write_picture(batch, row, layout, paint(layout, Draws(key_number(split, seed, index, "paint"))))
    pack(batch, row, _stream_of_questions(layout, Draws(key_number(split, seed, index, "ask")), weights))


def write_benchmark_scene(batch: Batch, row: int, split: str, seed: int, index: int) -> None:
    """Paint a scene and pack exactly the questions that the benchmark asks about it."""
    shown = scene(seed, index, split)
    _write_picture(batch, row, shown.layout, shown.painting)
    if pack(batch, row, iter(shown.questions)) != len(shown.questions):
        raise AssertionError(f"scene {index} has more questions than fit into {batch.tokens.shape[1]} tokens")


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
    ) -> None:
        self.size, self.length = size, length
        self._split, self._seed, self._start = split, seed, start
        self._batches = batches
        context = multiprocessing.get_context("fork")
        # anonymous memory is inherited by forks and needs no /dev/shm, which containers keep small
        self._buffers = [mmap.mmap(-1, Batch.nbytes(size, length)) for _ in range(3 * workers)]
        self._free: Any = context.Queue()
        self._full: Any = context.Queue()
        self.weights: Any = context.Array("i", list(weights)) if weights is not None else None
        for slot in range(len(self._buffers)):
            self._free.put(slot)
        self._processes = [
            context.Process(target=self._work, args=(worker, workers), daemon=True) for worker in range(workers)
        ]
        for process in self._processes:
            process.start()

    def _work(self, worker: int, workers: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        parent = os.getppid()
        numbers = itertools.count(worker, workers) if self._batches is None else range(worker, self._batches, workers)
        for number in numbers:
            slot = None
            while slot is None:
                if os.getppid() != parent:
                    return
                with contextlib.suppress(queue.Empty):
                    slot = self._free.get(timeout=5)
            batch = Batch.views(self._buffers[slot], self.size, self.length)
            for row in range(self.size):
                index = self._start + number * self.size + row
                if self.weights is None:
                    write_benchmark_scene(batch, row, self._split, self._seed, index)
                else:
                    write_training_scene(batch, row, self._split, self._seed, index, self.weights[:])
            self._full.put(slot)

    def take(self) -> tuple[Batch, int]:
        """Return the next batch and its slot, which :meth:`release` gives back."""
        slot = self._full.get(timeout=120)
        return Batch.views(self._buffers[slot], self.size, self.length), slot

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
