"""Training clips: painted once and scaled once, but for what moves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from experiments.embedded.labels import color_label, labels_of, least_seen
from experiments.embedded.network import PATCH
from tokenprune.data.scenes.clip_questions import CLIP_SUBFAMILIES, ask_clip, stays
from tokenprune.data.scenes.draws import Draws, key_number
from tokenprune.data.scenes.painter import Painting, Part, paint_parts
from tokenprune.data.scenes.questions import Question
from tokenprune.data.scenes.video import EVENTS, Clip

TOGETHER = 2
"""Frames that one patch of the encoder sees."""
MOTIONS = (*(event for event in EVENTS if event.startswith("moves")), "appears", "disappears")
"""What two frames that are seen together show of a thing that does not stay; its label is one more than its place."""
_BACK = {"left": "right", "right": "left", "up": "down", "down": "up", "appears": "disappears", "disappears": "appears"}
_MARGIN = 3
"""Pixels of the scaled picture around what changes that change as well: how far the filter reaches."""

Frames = tuple[Painting, Sequence[Part | None]]


def painted(shown: Clip) -> Frames:
    """What stays, and in each frame what does not; together the clip's ``paintings``."""
    return paint_parts(shown.arrangements, Draws(key_number(shown.split, shown.seed, shown.index, "video/paint")))


def scaled_frames(frames: Frames, size: tuple[int, int]) -> NDArray[np.uint8]:
    """All frames at another size, (frames, height, width, 3): what scaling each whole frame gives."""
    still, parts = frames
    whole = np.asarray(Image.fromarray(still.image).resize(size, Image.Resampling.BICUBIC))
    found = np.repeat(whole[None], len(parts), 0)
    scales = [before / after for before, after in zip(still.image.shape[:2], reversed(size), strict=True)]
    for frame, part in zip(found, parts, strict=True):
        if part is None:
            continue
        rows, columns = (
            slice(max(0, int(place.start / scale) - _MARGIN), min(side, int(place.stop / scale) + _MARGIN + 1))
            for place, scale, side in zip((part.rows, part.columns), scales, reversed(size), strict=True)
        )
        # what is scaled, and as much around it as the filter reads
        reach = [int(_MARGIN * scale) + 2 for scale in scales]
        read = tuple(
            slice(max(0, int(place.start * scale) - more), min(side, int(place.stop * scale) + more))
            for place, scale, more, side in zip((rows, columns), scales, reach, still.image.shape[:2], strict=True)
        )
        piece = still.image[read].copy()
        piece[
            part.rows.start - read[0].start : part.rows.stop - read[0].start,
            part.columns.start - read[1].start : part.columns.stop - read[1].start,
        ] = part.painting.image
        box = (
            columns.start * scales[1] - read[1].start,
            rows.start * scales[0] - read[0].start,
            columns.stop * scales[1] - read[1].start,
            rows.stop * scales[0] - read[0].start,
        )
        into = (columns.stop - columns.start, rows.stop - rows.start)
        frame[rows, columns] = np.asarray(Image.fromarray(piece).resize(into, Image.Resampling.BICUBIC, box=box))
    return found


def clip_labels(shown: Clip, frames: Frames, size: tuple[int, int]) -> dict[str, NDArray[np.uint8]]:
    """Labels of all patches of all pairs of frames, pair by pair: those of a picture, and ``motions``.

    A patch that shows the actor in either frame of a pair is its; ``motions`` says what it does between the two, 0
    where that is nothing.
    """
    still, parts = frames
    side = PATCH * still.image.shape[1] // size[0]
    rest = stays(shown)
    pairs = len(parts) // TOGETHER
    found = {name: np.tile(values, (pairs, 1)) for name, values in labels_of(rest, still, side).items()}
    found["motions"] = np.zeros_like(found["objects"])
    across = still.image.shape[1] // side
    own = len(rest.objects) + 1
    for pair in range(pairs):
        both = parts[pair * TOGETHER : (pair + 1) * TOGETHER]
        here = np.zeros(found["objects"].shape[1], bool)
        for part in both:
            if part is not None:
                rows, columns = np.nonzero(part.painting.owner == own)
                patch = (rows + part.rows.start) // side * across + (columns + part.columns.start) // side
                here |= np.bincount(patch, minlength=len(here)) > least_seen(side)
        motion = shown.event
        if not motion.startswith("moves"):
            there = [part is not None for part in both]
            motion = {(False, True): "appears", (True, False): "disappears"}.get((there[0], there[-1]), "")
        thing = next(a.objects[-1] for a, box in zip(shown.arrangements, shown.boxes, strict=True) if box is not None)
        found["objects"][pair, here] = thing.category + 1
        found["colors"][pair, here] = color_label(thing.color)
        found["characters"][pair, here] = 0
        found["motions"][pair, here] = MOTIONS.index(motion) + 1 if motion else 0
    return {name: values.reshape(-1) for name, values in found.items()}


def backwards(shown: Clip) -> Clip:
    """The same frames from the last to the first."""
    event = _opposite(shown.event)
    return replace(shown, event=event, arrangements=shown.arrangements[::-1], boxes=shown.boxes[::-1], questions=())


def _opposite(event: str) -> str:
    verb, _, way = event.partition(" ")
    return f"{verb} {_BACK[way]}" if way else _BACK[verb]


_TURNED = np.array([0, *(MOTIONS.index(_opposite(motion)) + 1 for motion in MOTIONS)], np.uint8)


def backwards_arrays(images: NDArray[np.uint8], labels: dict[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
    """Frames and labels of the clip that :func:`backwards` gives."""
    pairs = len(images) // TOGETHER
    turned = {name: values.reshape(pairs, -1)[::-1].reshape(-1) for name, values in labels.items()}
    return {"images": images[::-1], **turned, "motions": _TURNED[turned["motions"]]}


def clip_stream(shown: Clip, draws: Draws, more: Iterator[Question]) -> Iterator[Question]:
    """What training asks about a clip: what happens, some of it again in other words, then what stays."""
    order = list(CLIP_SUBFAMILIES)
    draws.shuffle(order)
    asked: set[str] = set()
    for family, sub in (*order, ("tgif", "event"), ("msrvtt", "where"), ("msrvtt", "count")):
        question = ask_clip(family, sub, shown, draws)
        if question is not None and question.text not in asked:
            asked.add(question.text)
            yield question
    yield from itertools.islice(more, 64)
