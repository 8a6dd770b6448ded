"""Rows of tables in files: JSON lines, JSON, CSV, parquet, and folders that hold one of them; each knows its place."""

from __future__ import annotations

import csv
import importlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenprune.core.errors import ConfigError

__all__ = ["ENDINGS", "Hub", "Row", "read_rows", "with_pictures"]

ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Files that are read."""

_METADATA = tuple(f"metadata{ending}" for ending in (".jsonl", ".csv", ".parquet"))

_PAIR = ("test_q.json", "test_a.json")
"""Questions and answers of the video sets, joined by ``question_id``."""

_SAVED = ("dataset_info.json", "state.json", "dataset_dict.json")
"""What a folder holds that ``datasets.Dataset.save_to_disk`` wrote."""


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes
    ----------
    where : str
        File and line, for errors.
    name : str
        File without ending, and number: a name that the row has if it gives none itself.
    folder : Path
        Where pictures are looked for.
    values : mapping of str to Any
        By column.
    """

    where: str
    name: str
    folder: Path
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Hub:
    """A data set of the hub.

    Attributes
    ----------
    name : str
        "owner/name".
    """

    name: str

    def __str__(self) -> str:
        return f"hub:{self.name}"


def read_rows(path: Path | Hub, split: str | None = None, subset: str = "") -> list[Row]:
    """All rows of a file, a folder (``metadata.jsonl``, parquet files, a saved data set), or a data set of the hub.

    Parameters
    ----------
    path : Path or Hub
    split : str, optional
        Which part of a folder that has several: a subfolder, parquet files ``SPLIT-*``, a split of a saved data set.
    subset : str, default ""
        Which of a data set's configurations: parquet files in the folder of that name, where there is one.

    Raises
    ------
    ConfigError
        Nothing to be read; several splits and none chosen; a line that cannot be read, with its number.
    """
    if isinstance(path, Hub):
        rows = [*_from_hub(path, split, subset)]
    elif not path.exists():
        raise ConfigError(f"--data {str(path)!r}: no such file or folder")
    elif path.is_dir():
        own = path / subset
        rows = _folder(own if subset and own.is_dir() and any(own.glob("*.parquet")) else path, split)
    elif path.suffix.lower() in ENDINGS:
        _no_splits(path, split)
        rows = [*_file(path)]
    else:
        raise ConfigError(f"--data {str(path)!r}: files that are read end in {', '.join(ENDINGS)}")
    if not rows:
        raise ConfigError(f"--data {str(path)!r} holds no rows")
    return rows


def _folder(folder: Path, split: str | None) -> list[Row]:
    if any((folder / name).exists() for name in _SAVED):
        return [*_saved(folder, split)]
    if all((folder / name).exists() for name in _PAIR):
        return _joined(*(folder / name for name in _PAIR))
    found = [folder / name for name in _METADATA if (folder / name).exists()]
    if found and split is None:
        return [*_file(found[0])]
    if parquet := sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]):
        names = sorted({file.name.partition("-")[0].removesuffix(".parquet") for file in parquet})
        chosen = _chosen(folder, names, split)
        return [row for file in parquet if file.name.startswith(chosen) for row in _file(file)]
    parts = [p.name for p in sorted(folder.iterdir()) if p.is_dir() and any((p / name).exists() for name in _METADATA)]
    if parts:
        return _folder(folder / _chosen(folder, parts, split), None)
    tables = sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS)
    if split is not None:
        tables = [p for p in tables if p.stem == split]
        if not tables:
            _no_splits(folder, split)
    if len(tables) != 1:
        several = f"several tables ({', '.join(p.name for p in tables[:5])}); give one of them" if tables else "none"
        raise ConfigError(
            f"--data {str(folder)!r} holds no metadata.jsonl (csv, parquet), no parquet files, nothing that datasets "
            f"saved; other tables: {several}"
        )
    return [*_file(tables[0])]


def _joined(questions: Path, answers: Path) -> list[Row]:
    """Rows of one file with those of another that have the same ``question_id``."""
    by_id: dict[Any, Row] = {}
    for row in _file(answers):
        if (key := row.values.get("question_id")) is None or key in by_id:
            what = "no question_id" if key is None else f"the question_id {key!r} is that of {by_id[key].where} too"
            raise ConfigError(f"{row.where}: {what}")
        by_id[key] = row
    rows = []
    for row in _file(questions):
        if (key := row.values.get("question_id")) not in by_id:
            raise ConfigError(f"{row.where}: {str(answers)!r} has no answer to question_id {key!r}")
        rows.append(replace(row, values={**by_id[key].values, **row.values}))
    return rows


def with_pictures(rows: Sequence[Row], pictures: Sequence[Row], key: str) -> list[Row]:
    """Rows with the picture of another table that has their ``key`` as its id.

    Raises
    ------
    ConfigError
        There is none; names the row.
    """
    by_id = {row.values.get("id"): row.values.get("image") for row in pictures}
    joined = []
    for row in rows:
        if (name := row.values.get(key)) not in by_id:
            raise ConfigError(f"{row.where}: there is no picture of id {name!r}")
        joined.append(replace(row, values={**row.values, "image": by_id[name], "image_id": name}))
    return joined


def _no_splits(path: Path, split: str | None) -> None:
    """Raise where a split is asked for of what has none: the whole would be taken for a part."""
    if split is not None:
        raise ConfigError(f"--split {split!r}: --data {str(path)!r} has no splits; leave the option out")


def _chosen(folder: Path | Hub, names: Sequence[str], split: str | None) -> str:
    if split is None and len(names) == 1:
        return names[0]
    if split is None or split not in names:
        what = "has several splits" if split is None else f"has no split {split!r}"
        raise ConfigError(f"--data {str(folder)!r} {what}; give --split, one of: {', '.join(names)}")
    return split


def _file(path: Path) -> Iterator[Row]:
    reader = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}[path.suffix.lower()]
    try:
        for number, values in reader(path):
            yield Row(f"{path}:{number}", f"{path.stem}-{number}", path.parent, values)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not written in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _mapped(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: a row is an object of columns, got {type(value).__name__}")
    return value


def _jsonl(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise ConfigError(f"{path}:{number}: no JSON: {error}") from None
                yield number, _mapped(value, f"{path}:{number}")


def _json(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        # some benchmarks name files of JSON lines .json
        yield from _jsonl(path)
        return
    if isinstance(found, Mapping) and len(lists := [v for v in found.values() if isinstance(v, list)]) == 1:
        found = lists[0]  # the rows, beside facts about them
    if isinstance(found, Mapping):
        found = [{**_mapped(value, f"{path}: {key}"), "id": key} for key, value in found.items()]  # rows by id
    for number, value in enumerate(found if isinstance(found, list) else [found], 1):
        yield number, _mapped(value, f"{path}:{number}")


def _csv(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        head = file.readline()
        file.seek(0)
        # spreadsheets of half of Europe write semicolons
        mark = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in head and "," not in head else ","
        reader = csv.DictReader(file, delimiter=mark, strict=True)
        try:
            names = reader.fieldnames or ()
            if twice := [name for name in names if list(names).count(name) > 1]:
                raise ConfigError(f"{path}:1: two columns are called {twice[0]!r}")
            for values in reader:
                where = f"{path}:{reader.line_num}"
                if None in values or None in values.values():
                    raise ConfigError(f"{where}: not as many cells as the first line has columns")
                yield reader.line_num, {name: _cell(text, where) for name, text in values.items()}
        except csv.Error as error:
            raise ConfigError(f"{path}:{reader.line_num}: {error}") from None


def _cell(text: str, where: str) -> Any:
    """A cell; lists are written as JSON."""
    if text.startswith("[") and text.rstrip().endswith("]"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{where}: {text[:40]!r} looks like a list and is no JSON: {error}") from None
    return text


def _parquet(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    table = _needed("pyarrow.parquet", path)
    try:
        file = table.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=64):
            for values in batch.to_pylist():
                number += 1
                yield number, {name: _plain(value) for name, value in values.items()}
    except ImportError:
        raise
    except Exception as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: cannot be read as parquet: {' '.join(str(error).split())}") from error


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _saved(folder: Path, split: str | None) -> Iterator[Row]:
    datasets = _needed("datasets", folder)
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise ConfigError(f"{folder}: cannot be read by datasets: {' '.join(str(error).split())}") from error
    if isinstance(found, Mapping):
        found = found[_chosen(folder, sorted(found), split)]
    else:
        _no_splits(folder, split)
    yield from _of_datasets(datasets, found, str(folder), folder)


def _of_datasets(datasets: Any, found: Any, name: str, folder: Path) -> Iterator[Row]:
    """Rows of a data set that is loaded; pictures are opened by us, when they are needed."""
    for column, kind in found.features.items():
        if type(kind).__name__ == "Image":
            found = found.cast_column(column, datasets.Image(decode=False))
    for number, values in enumerate(found, 1):
        yield Row(f"{name}, row {number}", f"{Path(name).name}-{number}", folder, values)


def _from_hub(hub: Hub, split: str | None, subset: str) -> Iterator[Row]:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise ConfigError(f"--data {hub}: HF_HUB_OFFLINE forbids to ask the hub")
    datasets = _needed("datasets", hub)
    try:
        found = datasets.load_dataset(hub.name, subset or None)
    except Exception as error:
        raise ConfigError(f"--data {hub}: cannot be read through datasets: {' '.join(str(error).split())}") from error
    yield from _of_datasets(datasets, found[_chosen(hub, sorted(found), split)], str(hub), Path())


def _needed(module: str, path: Path | Hub) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{path}: needs {module.partition('.')[0]}: pip install 'tokenprune-vlm[data]'") from error
