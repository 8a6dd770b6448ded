"""Options of commands that ask questions: painted scenes, or data of one's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tokenprune.data.items import Item
    from tokenprune.data.own import Benchmark, Hub, OwnData

__all__ = ["Asked", "DataOptions"]

SHORTEST = 6
"""Tokens of the longest answer to a painted scene."""

LONGEST = 16
"""The same for data of one's own, as harnesses have it for short answers."""

QUESTIONS = 238
"""Painted questions where nobody says how many."""


@dataclass(frozen=True)
class Asked:
    """Questions, and what a run has to say about them.

    Attributes
    ----------
    items : list of Item
    config : dict
        What decides an answer.
    notes : list of str
        What a reader must know.
    max_new_tokens : int
    fewer : callable
        From a smaller limit to the questions that it would choose.
    """

    items: list[Item]
    config: dict[str, Any]
    notes: list[str]
    max_new_tokens: int
    fewer: Callable[[int], Sequence[Item]]


@dataclass(frozen=True)
class DataOptions:
    """What the options about data of one's own say; its fields are what commands offer.

    Attributes
    ----------
    data : str or None
        A file, a folder, a benchmark, scenes by name; None for plain painted scenes.
    column_map : str
        Columns that have other names.
    images : Path or None
        Folder of pictures; None for that of the data.
    split : str or None
    prompt : list of str or None
        Templates of prompts.
    metric : str or None
    skip_unreadable : bool
        Whether questions whose picture cannot be read are left out, and said.
    max_new_tokens : int or None
        Of the longest answer; None for what the data usually needs.
    frames : int or None
        Read of each video.
    """

    data: Annotated[
        str | None,
        typer.Option(
            help="Questions of your own: a folder with metadata.jsonl, a .jsonl, .json, .csv, .tsv or .parquet file, "
            "what datasets saved; a benchmark: pope, gqa, mme, textvqa, scienceqa, mmvet, tgif-qa, msvd-qa, "
            "msrvtt-qa; 'natural', scenes like photographs, or 'clips'. Plain painted scenes without it."
        ),
    ] = None
    column_map: Annotated[
        str, typer.Option("--map", help="Columns that have other names: image=photo,answer=gold.")
    ] = ""
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures; by default that of --data.")] = None
    split: Annotated[str | None, typer.Option(help="Of --data, where it has several.")] = None
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="How questions are put, e.g. '{question}\\nBe brief.'; for one type: open=, yes-no=, choice=."
        ),
    ] = None
    metric: Annotated[str | None, typer.Option(help="How answers are graded: tokenprune list metrics.")] = None
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out questions whose picture cannot be read, and say so.")
    ] = False
    max_new_tokens: Annotated[int | None, typer.Option(min=1, max=4096, help="Longest answer; 6, for --data 16.")] = (
        None
    )
    frames: Annotated[int | None, typer.Option(min=1, max=1024, help="Read of each video, evenly spread; 8.")] = None

    def questions(self, *, families: Sequence[str] | None, limit: int | None, seed: int) -> Asked:
        """Read what the options name; mistakes show before a model is loaded.

        Parameters
        ----------
        families : sequence of str or None
            Question types of scenes, or tasks of the data; None for all.
        limit : int or None
            Questions in all; None for what is usual.
        seed : int
            Of painted scenes.

        Raises
        ------
        ConfigError
            Options of ``--data`` without it; anything wrong in a file, with its line.
        """
        from tokenprune.core.errors import ConfigError
        from tokenprune.data.items import CLIPS, NATURAL, SCENES

        data = self.data
        if data is not None and re.fullmatch(rf"{SCENES}(-\w+)?", data) and not Path(data).exists():
            # painted ones by name, as results call them
            if families is not None and data != SCENES:
                raise ConfigError(f"--families: --data {data} names one already")
            families = families if data == SCENES else [data]
            data = None
        if data is not None and re.fullmatch(rf"{CLIPS}(-\w+)?", data) and not Path(data).exists():
            if families is not None and data != CLIPS:
                raise ConfigError(f"--families: --data {data} names one already")
            return self._painted(CLIPS, families if data == CLIPS else [data], limit, seed)
        if data in (None, NATURAL):
            return self._painted("plain" if data is None else data, families, limit, seed)
        from tokenprune.data.own import Hub, Prompts, find_data, parse_map
        from tokenprune.evaluation.metrics import build_metric, graded

        path, known = find_data(data)
        if self.metric is not None:
            build_metric(self.metric)
        if isinstance(path, Hub) and known:
            typer.echo(f"{known.name}: no local copy; through datasets from {path}", err=True)
        found = _loaded(
            known,
            path,
            name=known.name if known else None,
            columns={**(known.columns if known else {}), **parse_map(self.column_map)},
            images=self.images,
            split=self.split or (known.split if known and _has_split(path, known.split) else None),
            subset=known.subset if known else "",
            pictures=known.pictures if known else None,
            prompts=Prompts.parse(self.prompt) or (known.prompts if known else None),
            metric=self.metric or (known.metric if known else None),
            drop=known.drop if known else "",
            tasks=families,
            limit=known.limit if limit is None and known else limit,
            skip_unreadable=self.skip_unreadable,
            check=lambda question: graded("", question),  # a metric refuses right answers that are none of its kind
            **({} if self.frames is None else {"frames": self.frames}),
        )
        painted = all(item.task.startswith("scenes-") for item in found.items)
        usual = known.max_new_tokens if known else SHORTEST if painted else LONGEST
        longest_answer = self.max_new_tokens or usual
        config = {**found.asked, "limit": limit, "max_new_tokens": longest_answer}
        notes = []
        if found.unreadable:
            notes.append(f"{len(found.unreadable)} questions are left out, since their picture cannot be read:")
            notes += found.unreadable
        return Asked(found.items, config, notes, longest_answer, lambda n: found.items[:n])

    def of(self, model: str) -> DataOptions:
        """The same, with what a model is asked about where ``--data`` does not say."""
        from tokenprune.data.items import painted_set

        return self if self.data is not None else replace(self, data=painted_set(model))

    def _painted(self, style: str, families: Sequence[str] | None, limit: int | None, seed: int) -> Asked:
        """Questions about scenes, of which few options say anything."""
        from tokenprune.core.errors import ConfigError
        from tokenprune.data.items import CLIPS, clip_items, scene_items

        about_data = {
            "--map": self.column_map,
            "--images": self.images,
            "--split": self.split,
            "--prompt": self.prompt,
            "--metric": self.metric,
            "--frames": self.frames,
        }
        if wrong := [name for name, value in about_data.items() if value]:
            raise ConfigError(f"{wrong[0]} is about --data, which is not given")
        count = QUESTIONS if limit is None else limit
        config = {"seed": seed, "families": "all" if families is None else ",".join(families), "limit": count}
        if style == CLIPS:
            config["data"] = CLIPS
        elif style != "plain":
            config["scenes"] = style
        if self.max_new_tokens is not None:
            config["max_new_tokens"] = self.max_new_tokens

        def items(n: int) -> list[Item]:
            return clip_items(families, n, seed) if style == CLIPS else scene_items(families, n, seed, style)

        return Asked(items(count), config, [], self.max_new_tokens or SHORTEST, items)


def _loaded(known: Benchmark | None, path: Path | Hub, **options: Any) -> OwnData:
    """Read; where the hub cannot be asked, say how to get a local copy."""
    from tokenprune.core.errors import ConfigError
    from tokenprune.data.own import Hub, load_data, way_to

    try:
        return load_data(path, **options)
    except ConfigError as error:
        if known is None or not isinstance(path, Hub):
            raise
        raise ConfigError(
            f"{error}. {way_to(known)}; or name the folder that holds a copy: {known.name}=PATH"
        ) from None


def _has_split(path: Path | Hub, split: str) -> bool:
    """Whether a copy is laid out by splits."""
    if not isinstance(path, Path):
        return True
    files = any(path.rglob(f"{split}*.parquet")) or (path / "dataset_dict.json").exists()
    return path.is_dir() and ((path / split).is_dir() or files)
