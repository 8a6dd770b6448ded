"""From rows of a table to questions that can be asked, every row checked before a model is loaded."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from PIL import Image

from tokenprune.core.errors import ConfigError, TokenPruneError
from tokenprune.data.images import open_image
from tokenprune.data.items import Item
from tokenprune.data.own.columns import SHOWN, columns_of
from tokenprune.data.own.question import OwnQuestion, Prompts
from tokenprune.data.own.rows import Hub, Row, read_rows, with_pictures
from tokenprune.data.video import FRAMES, VIDEO_ENDINGS, Video, open_video

__all__ = ["OwnData", "load_data"]

_YES_NO = ("yes", "no")
_LETTERS = string.ascii_uppercase
_LETTERED = re.compile(r"\(?([A-Z])[.):]\s*(.+)", re.DOTALL)
_VIDEOS = ("videos", "video", "gifs", "mp4")
"""Folders beside a table in which videos are looked for."""
_SHOWN = 10
"""Unreadable pictures that an error lists."""


@dataclass(frozen=True)
class OwnData:
    """Questions of one's own.

    Attributes
    ----------
    name : str
        Of the data set, as in tables.
    items : list of Item
    unreadable : list of str
        A line for each picture that was left out because it cannot be read, with file and line.
    asked : dict
        What decides an answer beside questions and pictures: for the configuration of a run.
    """

    name: str
    items: list[Item]
    unreadable: list[str]
    asked: dict[str, Any]


def load_data(
    path: Path | Hub,
    *,
    name: str | None = None,
    columns: Mapping[str, str] | None = None,
    images: Path | None = None,
    split: str | None = None,
    prompts: Prompts | None = None,
    metric: str | None = None,
    drop: str = "",
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    skip_unreadable: bool = False,
    frames: int = FRAMES,
    subset: str = "",
    pictures: tuple[str, str] | None = None,
    check: Callable[[OwnQuestion], object] = lambda question: None,
) -> OwnData:
    """Read questions.

    Parameters
    ----------
    path : Path or Hub
        A file, a folder, or a data set of the hub; see :func:`~tokenprune.data.own.rows.read_rows`.
    name : str, optional
        Of the data set, and of the task of rows that name none; by default that of the file or folder.
    columns : mapping of str to str, optional
        Field to column; the others are looked for by usual names.
    images : Path, optional
        Folder of pictures; by default that of the table.
    split : str, optional
    prompts : Prompts, optional
        By default questions stand alone.
    metric : str, optional
        For all questions; by default by type: ``choice`` where options are listed, ``vqa`` for ten answers, ``words``.
    drop : str, default ""
        Words that are taken out of questions: what they say themselves about the form of the answer.
    tasks : sequence of str, optional
        Only these.
    limit : int, optional
        Only the first so many.
    frames : int, default 8
        Read of each video, evenly spread.
    subset : str, default ""
        Of a data set that has several configurations.
    pictures : (str, str), optional
        Another subset that holds the pictures by id, and the column of the questions that names them (GQA).
    skip_unreadable : bool, default False
        Leave out questions whose picture cannot be read, and say so, instead of refusing.
    check : callable
        Called with each question; what it raises is told with the row's place. A metric may grade no such answer.

    Raises
    ------
    ConfigError
        Anything that is not as it has to be; names file and line.
    """
    rows = read_rows(path, split, subset)
    apart = pictures is not None and images is None and "image" not in rows[0].values and pictures[1] in rows[0].values
    if pictures is not None and apart and (isinstance(path, Hub) or (path / pictures[0]).is_dir()):
        rows = with_pictures(rows, read_rows(path, split, pictures[0]), pictures[1])
    found = columns_of(rows, columns or {})
    if name is None:
        whole = Path(path.name) if isinstance(path, Hub) else path
        name = whole.stem if whole.is_file() else whole.resolve().name
    prompts = prompts or Prompts()
    read = _Reader(name, found, images, prompts, metric, drop, frames, check)
    items = [read.item(row) for row in rows]
    if tasks is not None:
        there = sorted({item.question.family for item in items})
        if missing := [task for task in tasks if task not in there]:
            raise ConfigError(f"--families: no {missing[0]!r} in {str(path)!r}; there are {', '.join(there)}")
        items = [item for item in items if item.question.family in tasks]
    items = items[:limit]
    items, bad = _readable(items, read.where, skip_unreadable)
    asked: dict[str, Any] = {"data": name, "templates": dict(prompts.templates), "metric": metric}
    if "video" in found:
        asked["frames"] = frames
    return OwnData(name, items, bad, {**asked, "unreadable": len(bad)})


class _Reader:
    """Rows of one table, read with one mapping of columns."""

    def __init__(
        self,
        name: str,
        columns: Mapping[str, str],
        images: Path | None,
        prompts: Prompts,
        metric: str | None,
        drop: str = "",
        frames: int = FRAMES,
        check: Callable[[OwnQuestion], object] = lambda question: None,
    ) -> None:
        self.check = check
        self.drop, self.frames = drop, frames
        self.name, self.columns, self.images, self.prompts, self.metric = name, columns, images, prompts, metric
        self.where: dict[str, str] = {}
        """Id of a question to file and line."""
        self.pictures: dict[str, list[Path | bytes]] = {}
        """Name of what a question shows to the files."""

    def item(self, row: Row) -> Item:
        """One question."""
        given = self._get(row, "id")
        key = row.name if given in (None, "") else str(given)
        question = self._question(row)
        try:
            self.check(question)
        except TokenPruneError as error:
            raise ConfigError(f"{row.where}: {error}") from error
        sources = self._sources(row)
        if question.boxes is not None and len(sources) > 1:
            raise ConfigError(f"{row.where}: boxes are about one picture, and this question shows {len(sources)}")
        if question.boxes is not None and "video" in self.columns:
            raise ConfigError(f"{row.where}: boxes are about one picture, and this question shows a video")
        image_id = self._get(row, "image_id")
        named = (
            str(image_id)
            if image_id not in (None, "")
            else "+".join(_named(s, self.images or row.folder) for s in sources)
        )
        if key in self.where:
            raise ConfigError(
                f"{row.where}: the id {key!r} is that of {self.where[key]} too; name a column of ids with "
                "--map id=COLUMN, or let rows be numbered with --map id=none"
            )
        self.where[key] = row.where
        first = self.pictures.setdefault(named, sources)
        if first != sources:
            raise ConfigError(f"{row.where}: another picture is called {named!r} too; see --map image_id=COLUMN")
        sources = first  # bytes that stand in many rows are held once
        return Item(key, named, self._opener(sources, row.where), question)

    def _opener(self, sources: Sequence[Path | bytes], where: str) -> Callable[[], Any]:
        if "video" in self.columns:
            files = tuple(source for source in sources if isinstance(source, Path))
            return partial(_shown_video, files[0] if len(files) == 1 else files, self.frames, where)
        return partial(_shown, tuple(sources), where)

    def _get(self, row: Row, field: str) -> Any:
        return row.values.get(self.columns[field]) if field in self.columns else None

    def _sources(self, row: Row) -> list[Path | bytes]:
        field = next(name for name in SHOWN if name in self.columns)
        value = self._get(row, field)
        values = list(value) if isinstance(value, list | tuple) else [value]
        if not values or any(v is None or v == "" for v in values):
            what = "video" if field == "video" else "picture"
            raise ConfigError(f"{row.where}: {self.columns[field]!r} holds no {what}")
        return [self._source(v, row, field) for v in values]

    def _source(self, value: Any, row: Row, field: str) -> Path | bytes:
        if isinstance(value, Mapping) and value.get("bytes"):
            value = value["bytes"]
        elif isinstance(value, Mapping) and isinstance(value.get("path"), str):
            value = value["path"]
        if isinstance(value, bytes) and field != "video":
            return value
        if not isinstance(value, str):
            raise ConfigError(
                f"{row.where}: {self.columns[field]!r} is a file name or a picture's bytes, got {type(value).__name__}"
            )
        if value.startswith("data:"):
            return _from_uri(value, row.where)
        if re.match(r"[a-z][a-z0-9+]+://", value):
            raise ConfigError(f"{row.where}: {value[:80]!r} is no file: addresses are not fetched; download it first")
        folder = self.images or row.folder
        path = folder / value
        if "\\" in value and not path.exists():
            path = folder / value.replace("\\", "/")  # written on Windows
        if field == "video" and not path.exists():
            # the video sets name videos without ending, and have them in a folder of their own
            places = (folder, *(folder / name for name in _VIDEOS))
            tried = (place / f"{value}{ending}" for place in places for ending in ("", *VIDEO_ENDINGS))
            path = next((p for p in tried if p.exists()), path)
        elif field != "video" and not path.suffix:
            # GQA names pictures by number
            path = next((p for ending in (".jpg", ".png") if (p := path.with_suffix(ending)).exists()), path)
        return path

    def _question(self, row: Row) -> OwnQuestion:
        text = self._get(row, "question")
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"{row.where}: {self.columns['question']!r} holds no question, got {text!r}")
        text = text.replace(self.drop, "").strip() if self.drop else text.strip()
        given = self._listed(row, "choices")
        answers = self._answers(row, given)
        choices, options = _lettered(given)
        if options:
            text += "\n" + "\n".join(f"{letter}. {option}" for letter, option in zip(choices, options, strict=True))
        if isinstance(context := self._get(row, "context"), str) and context.strip():
            text = f"Context: {context.strip()}\n{text}"
        if not choices and {answer.lower().rstrip(".") for answer in answers} <= {*_YES_NO}:
            choices = ("Yes", "No")
        task, family = self._get(row, "task"), self._get(row, "family")
        question = OwnQuestion(
            text,
            answers[0],
            str(task or self.name),
            str(family if family not in (None, "") else "all"),
            choices,
            self._boxes(row),
            answers,
            options,
        )
        metric = self.metric or ("choice" if options else "vqa" if len(answers) == 10 else "words")
        return replace(question, prompt=self.prompts.of(text, question.kind), metric=metric)

    def _listed(self, row: Row, field: str) -> list[str]:
        value = self._get(row, field)
        if value is None or value == "":
            return []
        if isinstance(value, Mapping):
            # by letter
            value = [value[key] for key in sorted(value)] if set(value) == set(_LETTERS[: len(value)]) else value
        if not isinstance(value, list | tuple):
            raise ConfigError(
                f"{row.where}: {self.columns[field]!r} must be a list (in cells of CSV as JSON: "
                f'["a", "b"]), got {value!r}'
            )
        return _bare([str(v).strip() for v in value])

    def _answers(self, row: Row, options: Sequence[str]) -> tuple[str, ...]:
        value = self._get(row, "answer")
        column = self.columns["answer"]
        if isinstance(value, bool) and not options:
            value = "Yes" if value else "No"
        if not isinstance(value, list | tuple):
            if not _said(value):
                raise ConfigError(f"{row.where}: {column!r} holds no answer, got {value!r}")
            return (self._answer(value, row, options),)
        texts = [v["answer"] if isinstance(v, Mapping) and "answer" in v else v for v in value]
        if not texts or not all(map(_said, texts)):
            raise ConfigError(f"{row.where}: {column!r} is a list of answers, got {value!r}")
        return tuple(self._answer(text, row, options) for text in texts)

    def _answer(self, value: Any, row: Row, options: Sequence[str]) -> str:
        """An answer as text; of listed options its letter."""
        _, listed = _lettered(options)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # a column of numbers with gaps comes as fractions
        if not listed:
            if options and str(value).strip().lower() not in [option.lower() for option in options]:
                raise ConfigError(f"{row.where}: the answer {value!r} is none of {list(options)}")
            return str(value).strip()
        letters = string.ascii_uppercase[: len(listed)]
        if isinstance(value, int):
            if 0 <= value < len(listed):
                return letters[value]
        elif str(value).strip() in listed:
            return letters[listed.index(str(value).strip())]
        elif (both := _LETTERED.fullmatch(str(value).strip())) and (both[1], both[2]) in zip(
            letters, listed, strict=True
        ):
            return both[1]
        elif [o.lower() for o in listed].count(str(value).strip().lower()) == 1:
            return letters[[o.lower() for o in listed].index(str(value).strip().lower())]
        elif (letter := str(value).strip().strip("().").upper()) in [*letters]:
            return letter
        raise ConfigError(
            f"{row.where}: the answer {value!r} is no option: neither the number (from 0), the letter nor the text of "
            f"one of {list(listed)}"
        )

    def _boxes(self, row: Row) -> tuple[tuple[int, int, int, int], ...] | None:
        value = self._get(row, "boxes")
        if value is None or value == "":
            return None
        right = isinstance(value, list | tuple) and all(
            isinstance(box, list | tuple)
            and len(box) == 4
            and all(isinstance(n, int | float) and not isinstance(n, bool) for n in box)
            and box[0] < box[2]
            and box[1] < box[3]
            for box in value
        )
        if not right:
            raise ConfigError(
                f"{row.where}: {self.columns['boxes']!r} is a list of [left, top, right, bottom] in pixels, "
                f"got {value!r}"
            )
        return tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in value)


def _said(value: Any) -> bool:
    """Whether a cell holds an answer."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return False
    return value == value and bool(str(value).strip())  # a NaN stands for an empty cell


def _bare(options: list[str]) -> list[str]:
    """Options without the letters that are written in front of each."""
    found = [_LETTERED.fullmatch(option) for option in options]
    bare = [one[2] for one, letter in zip(found, _LETTERS, strict=False) if one and one[1] == letter]
    return bare if len(bare) == len(options) else options


def _from_uri(text: str, where: str) -> bytes:
    """Bytes of ``data:image/png;base64,...``."""
    head, _, data = text.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError("not in base64")
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise ConfigError(f"{where}: {text[:40]!r} ...: no picture: {error}") from None


def _lettered(given: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What can be answered, and the options to be listed: none where they are yes and no, or letters already."""
    if not given:
        return (), ()
    letters = tuple(string.ascii_uppercase[: len(given)])
    if tuple(v.lower() for v in given) == _YES_NO:
        return ("Yes", "No"), ()
    if tuple(given) == letters:
        return letters, ()
    return letters, tuple(option.strip() for option in given)


def _named(source: Path | bytes, folder: Path) -> str:
    """A picture's name, the same on every machine: its file within the folder, or a hash of its bytes."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()[:16]
    if source.is_relative_to(folder):
        return source.relative_to(folder).as_posix()
    return f"{source.stem}-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"


@lru_cache(maxsize=64)
def _open(source: Path | bytes, where: str) -> Image.Image:
    if isinstance(source, Path):
        try:
            return open_image(source)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    try:
        return open_image(io.BytesIO(source))
    except ConfigError as error:
        raise ConfigError(f"{where}: the picture's bytes cannot be read: {error.__cause__ or 'no picture'}") from None


def _shown(sources: Sequence[Path | bytes], where: str) -> Any:
    opened = tuple(_open(source, where) for source in sources)
    return opened[0] if len(opened) == 1 else opened


@lru_cache(maxsize=8)
def _shown_video(source: Path | tuple[Path, ...], frames: int, where: str) -> Video:
    try:
        return open_video(source, frames)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _readable(items: Sequence[Item], where: Mapping[str, str], skip: bool) -> tuple[list[Item], list[str]]:
    """Questions whose pictures can be read, and a line for each that cannot."""
    state: dict[str, str | None] = {}
    bad: list[str] = []
    good: list[Item] = []
    for item in items:
        if item.image_id not in state:
            try:
                item.image()
                state[item.image_id] = None
            except ConfigError as error:
                state[item.image_id] = str(error)
        if (why := state[item.image_id]) is None:
            good.append(item)
        else:
            bad.append(why if why.startswith(where[item.id]) else f"{where[item.id]}: {why.partition(': ')[2]}")
    if bad and (not skip or not good):
        more = f"\n... and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise ConfigError(
            f"{len(bad)} of {len(items)} questions have a picture that cannot be read; mend them, or leave them out "
            "with --skip-unreadable:\n" + "\n".join(bad[:_SHOWN]) + more
        )
    return good, bad
