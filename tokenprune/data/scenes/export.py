"""Scenes as an ordinary folder of pictures with metadata, for other tools."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenprune.core.errors import ConfigError
from tokenprune.data.scenes.scene import Sample, samples, scene

__all__ = ["export"]


def export(
    directory: str | Path,
    n: int = 238,
    seed: int = 0,
    families: Iterable[str] | None = None,
    split: str = "test",
    style: str = "plain",
) -> int:
    """Write pictures and ``metadata.jsonl``: what ``datasets.load_dataset("imagefolder", data_dir=...)`` reads.

    A line a question: ``file_name`` and ``image_id`` (several lines share one picture), ``id``, ``question``,
    ``answer``, ``task`` ("scenes-pope", "natural-pope"), ``family`` ("adversarial"), ``choices``, ``boxes``.
    ``compare --data`` reads it back as the same questions.

    Parameters
    ----------
    directory : path
        Made if need be.
    n, seed, families, split, style
        As in :func:`~tokenprune.data.scenes.samples`.

    Returns
    -------
    int
        How many pictures were written.

    Raises
    ------
    ConfigError
        The folder cannot be written to, or holds something already; nothing is overwritten.
    """
    folder = Path(directory)
    found = samples(families, n, seed, split, style=style)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"folder {str(folder)!r} is not empty: scenes are written to a new or empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        return _write(found, folder, seed, split, style)
    except OSError as error:
        raise ConfigError(f"folder {str(folder)!r} cannot be written to: {error}; give another one") from error


def _write(found: Sequence[Sample], folder: Path, seed: int, split: str, style: str) -> int:
    """Pictures and questions; how many pictures."""
    indices = sorted({sample.scene for sample in found})
    for index in indices:
        scene(seed, index, split, style).image.save(folder / _file_name(index))
    data = "scenes" if style == "plain" else style
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for sample in found:
            question = sample.question
            row = {
                "file_name": _file_name(sample.scene),
                "image_id": f"{seed}-{sample.scene}" if style == "plain" else f"{style}-{seed}-{sample.scene}",
                "id": sample.id,
                "question": question.text,
                "answer": question.answer,
                "task": f"{data}-{question.family}",
                "family": question.subfamily,
                "choices": list(question.choices),
                "boxes": [list(box) for box in question.boxes or ()],
            }
            file.write(json.dumps(row) + "\n")
    return len(indices)


def _file_name(index: int) -> str:
    return f"{index:06d}.png"
