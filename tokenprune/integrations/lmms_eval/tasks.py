"""A folder of tasks for ``lmms-eval --include_path``: own questions, video sets, local copies of benchmarks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tokenprune.core.errors import ConfigError
from tokenprune.data.items import Item
from tokenprune.data.own import load_data
from tokenprune.data.own.rows import read_rows
from tokenprune.evaluation.metrics import build_metric, graded
from tokenprune.results.files import write_atomically

__all__ = ["FIRST", "PREFIX", "STOCK", "VIDEO", "Written", "write_tasks"]

PREFIX: Final = "tokenprune_"
"""In front of the names of tasks of ours."""

_PLAIN: Final = {"lmms_eval_specific_kwargs": {"default": {"pre_prompt": "", "post_prompt": ""}}}

STOCK: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "pope": ("pope", {}),
    "gqa": ("gqa", {"dataset_name": None, "process_docs": None}),  # the stock function fetches pictures from the hub
    "mme": ("mme", {}),
    "textvqa": ("textvqa_val", {"dataset_name": None}),
    "scienceqa": ("scienceqa_img", {"dataset_name": None}),
    "mmvet": ("mmvet", {}),
}
"""Benchmarks whose stock task is given a local copy: its name there, and what has to be set besides."""

VIDEO: Final = ("msrvtt-qa", "msvd-qa", "tgif-qa")
"""Sets of questions about videos, which the harness has no tasks for."""

FIRST: Final = 1000
"""Questions about videos that are asked, as papers do it."""

_VIDEO_ENDINGS: Final = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
_VIDEO_FOLDERS: Final = ("videos", "videos/all", "mp4", "gifs", ".")


@dataclass(frozen=True)
class Written:
    """A task that was written.

    Attributes
    ----------
    name : str
        For ``--tasks``.
    questions : int or None
        How many; None where the harness reads the copy itself.
    """

    name: str
    questions: int | None = None


def write_tasks(
    out: Path, sources: Mapping[str, Path], *, limit: int | None = None, metric: str | None = None, bare: bool = False
) -> list[Written]:
    """Write a folder of tasks.

    Parameters
    ----------
    out : Path
        New or empty, or written by this function before.
    sources : mapping of str to Path
        One of :data:`STOCK`: a local copy, in the layout of the hub, for the harness's own task. One of :data:`VIDEO`:
        a folder with ``test_q.json``, ``test_a.json`` and videos. Any other name: questions, as ``compare --data``
        reads them; its task is graded by our metrics.
    limit : int, optional
        Only the first so many questions of tasks of ours; of video sets the first 1,000 by default.
    metric : str, optional
        For all questions of tasks of ours; by default by type, as ``compare --data`` has it.
    bare : bool, default False
        Whether stock tasks leave out what they write around questions.

    Raises
    ------
    ConfigError
        A source that cannot be read; names file and line.
    """
    if not sources:
        raise ConfigError("name at least one task: NAME=PATH")
    marker = out / ".tokenprune-tasks"
    if out.exists() and not marker.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"folder {str(out)!r} is not empty: tasks are written to a new or empty folder")
    found: list[Written] = []
    rows = {name: _rows(name, path, limit, metric) for name, path in sources.items() if name not in STOCK}
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()
    for name, docs in rows.items():
        found.append(_write_own(out / name, name, docs))
    stock = {name: path for name, path in sources.items() if name in STOCK}
    if stock:
        found += _write_stock(out, stock, bare)
    return found


def _rows(name: str, path: Path, limit: int | None, metric: str | None) -> list[dict[str, Any]]:
    if metric is not None:
        build_metric(metric)
    if name in VIDEO:
        return _video_rows(name, path, limit or FIRST, metric or "words")
    items = load_data(path, name=name, limit=limit, metric=metric, check=lambda question: graded("", question)).items
    shared = {item.question.metric for item in items}
    totals = _totals(items) if len(shared) == 1 else []
    return [_row(item, totals) for item in items]


def _row(item: Item, totals: Sequence[str]) -> dict[str, Any]:
    question = item.question
    return {
        "id": item.id,
        "image_id": item.image_id,
        "pictures": item.image,
        "question": question.prompt,
        "answer": question.answer,
        "answers": list(question.answers),
        "choices": list(question.choices),
        "options": list(getattr(question, "options", ())),
        "task": item.task,
        "family": item.family,
        "metric": question.metric,
        "totals": list(totals),
    }


def _totals(items: Sequence[Item]) -> list[str]:
    """Names of what the metric makes of all answers, told by right ones."""
    lines = [
        {
            "sample": item.id,
            "image": item.image_id,
            "prediction": item.question.answer,
            "answer": item.question.answer,
            "correct": True,
            "binary": item.question.binary,
            "task": item.task,
            "family": item.family,
        }
        for item in items
    ]
    return sorted(build_metric(items[0].question.metric).totals(lines))


def _video_rows(name: str, path: Path, limit: int, metric: str) -> list[dict[str, Any]]:
    """Questions of a video set, in the layout in which these sets are handed on."""
    asked, answered = (read_rows(path / f"test_{part}.json") for part in "qa")
    answers = {str(row.values.get("question_id")): row for row in answered}
    found = []
    for row in asked[:limit]:
        key, video = str(row.values.get("question_id")), row.values.get("video_name") or row.values.get("video")
        if key not in answers or not isinstance(video, str):
            raise ConfigError(f"{row.where}: needs question_id (with a row in test_a.json), video_name and question")
        answer = str(answers[key].values.get("answer"))
        found.append(
            {
                "id": key,
                "image_id": video,
                "video": str(_video(path, video, row.where)),
                "question": str(row.values["question"]).strip(),
                "answer": answer,
                "answers": [answer],
                "task": name,
                "family": str(answers[key].values.get("type", "all")),
                "metric": metric,
                "totals": [],
            }
        )
    return found


def _video(folder: Path, name: str, where: str) -> Path:
    for inside in _VIDEO_FOLDERS:
        for ending in ("", *_VIDEO_ENDINGS):
            file = folder / inside / f"{name}{ending}"
            if file.is_file():
                return file.resolve()
    raise ConfigError(
        f"{where}: no video {name!r} in {str(folder)!r} (looked in {', '.join(_VIDEO_FOLDERS)}, for files that end in "
        f"{', '.join(_VIDEO_ENDINGS)})"
    )


def _write_own(folder: Path, name: str, docs: Sequence[Mapping[str, Any]]) -> Written:
    """Questions, pictures and the task's description; everything lies in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    task = PREFIX + name.replace("-", "_")
    saved: dict[str, list[str]] = {}
    lines = []
    for doc in docs:
        doc = dict(doc)
        if (opener := doc.pop("pictures", None)) is not None:
            if doc["image_id"] not in saved:
                saved[doc["image_id"]] = _saved(folder / "pictures", len(saved), opener())
            doc["images"] = saved[doc["image_id"]]
        lines.append(json.dumps(doc, ensure_ascii=False) + "\n")
    write_atomically(folder / "questions.jsonl", "".join(lines))
    metric, totals = docs[0]["metric"], docs[0]["totals"]
    utils = [
        '"""What the task beside calls."""',
        "",
        "from tokenprune.integrations.lmms_eval.scoring import doc_to_text, doc_to_visual, process_results, total",
        "",
        '__all__ = ["doc_to_text", "doc_to_visual", "process_results"]',
        *(f"{one} = total({metric!r}, {one!r})" for one in totals),
    ]
    write_atomically(folder / "utils.py", "\n".join(utils) + "\n")
    longest = 6 if all(doc["task"].startswith("scenes-") for doc in docs) else 16
    described = {
        "task": task,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str((folder / "questions.jsonl").resolve())}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_visual": _Function("doc_to_visual"),
        "doc_to_text": _Function("doc_to_text"),
        "doc_to_target": "answer",
        "process_results": _Function("process_results"),
        "generation_kwargs": {"max_new_tokens": longest, "temperature": 0, "do_sample": False},
        "metric_list": [
            {"metric": "accuracy", "aggregation": "mean", "higher_is_better": True},
            *({"metric": one, "aggregation": _Function(one), "higher_is_better": one != "yes_rate"} for one in totals),
        ],
        **_PLAIN,
        "metadata": [{"version": 0.0}],
    }
    write_atomically(folder / f"{task}.yaml", _yaml(described))
    return Written(task, len(docs))


def _saved(folder: Path, number: int, shown: Any) -> list[str]:
    """Write what a question shows, pixels as they are; names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for i, picture in enumerate(shown if isinstance(shown, list | tuple) else [shown]):
        file = folder / f"{number:06d}-{i}.png"
        picture.save(file)
        files.append(str(file.resolve()))
    return files


def _write_stock(out: Path, sources: Mapping[str, Path], bare: bool) -> list[Written]:
    """A group whose members are stock tasks that read local copies."""
    members = []
    for name, path in sources.items():
        if not path.is_dir():
            raise ConfigError(
                f"{name}={str(path)!r}: no such folder; a local copy has the layout of the hub's data set"
            )
        task, options = STOCK[name]
        members.append({"task": task, "dataset_path": str(path.resolve()), **options, **(_PLAIN if bare else {})})
    group = f"{PREFIX}local"
    write_atomically(out / f"{group}.yaml", _yaml({"group": group, "task": members}))
    return [Written(group)]


class _Function(str):
    """A function in ``utils.py``, which the harness writes with a tag of its own."""


class _Dumper(yaml.SafeDumper):
    """Safe YAML, and that tag."""


_Dumper.add_representer(_Function, lambda dumper, name: dumper.represent_scalar("!function", f"utils.{name}"))


def _yaml(described: Mapping[str, Any]) -> str:
    return yaml.dump(dict(described), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
