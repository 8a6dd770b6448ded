"""A benchmark: strategies x budgets x batches x ways, a row at a time, resumable."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from tokenprune.benchmark.asked import Subject, Synthetic
from tokenprune.benchmark.clock import machine, peaks
from tokenprune.benchmark.geometry import build_model, geometry
from tokenprune.benchmark.measure import Bench, Way
from tokenprune.core.errors import ConfigError, TokenPruneError, closest
from tokenprune.core.reference import list_references
from tokenprune.core.registry import build
from tokenprune.core.schedule import LayerSchedule
from tokenprune.core.strategy import AnyStrategy
from tokenprune.hf.adapters import adapter_for
from tokenprune.hf.compiled.measured import unknown
from tokenprune.hf.compiled.programs import Backend
from tokenprune.hf.sources import refusal
from tokenprune.results.fingerprint import identity
from tokenprune.results.lines import FULL
from tokenprune.results.store import ResultFolder, write_atomically
from tokenprune.zoo.loading import usable_device

__all__ = ["BenchRow", "Setup", "bench", "bench_rows"]


@dataclass(frozen=True)
class Setup:
    """What decides the numbers, besides the machine.

    Attributes
    ----------
    geometry, kind : str
        See :data:`tokenprune.benchmark.geometry.GEOMETRIES`; ``kind`` "" for its first.
    small : bool
        Few and narrow layers.
    device, dtype : str
    words : int
        Text tokens of a prompt.
    backend : str
        Of the compiled way.
    bucket : int
        Of the compiled way.
    repeats, warm : int
        Calls timed, and calls before.
    """

    geometry: str = "llava-1.5-7b"
    kind: str = ""
    small: bool = False
    device: str = "cuda"
    dtype: str = "float16"
    words: int = 60
    backend: Backend = "graphs"
    bucket: int = 32
    repeats: int = 30
    warm: int = 10


@dataclass(frozen=True)
class BenchRow:
    """One row: of the unpruned model ``strategy`` is "full" and ``keep`` 0, as in results of comparisons."""

    batch: int
    strategy: str
    keep: int
    way: Way

    def built(self) -> AnyStrategy | None:
        """The strategy, None where nothing is pruned."""
        return None if self.strategy == FULL else build(self.strategy)


def bench_rows(
    strategies: Sequence[str], keeps: Sequence[int], batches: Sequence[int], ways: Sequence[str]
) -> Iterator[BenchRow]:
    """All rows, the unpruned model first in each batch size.

    Raises
    ------
    ConfigError
        No way, or an unknown one; strategies and options are checked here too, before anything runs.
    """
    if not ways:
        raise ConfigError(f"--ways: none given; known: {', '.join(get_args(Way))}")
    for way in ways:
        if way not in get_args(Way):
            raise ConfigError(f"--ways: no {way!r}; {closest(way, get_args(Way))}")
    made = {spec: build(spec) for spec in strategies}
    known = set(list_references())
    for batch in batches:
        for way in ways:
            if way != "loop":
                yield BenchRow(batch, FULL, 0, way)  # type: ignore[arg-type]
        for keep in keeps:
            for spec, strategy in made.items():
                for way in ways:
                    varies = isinstance(strategy, LayerSchedule) and unknown(strategy) is not None
                    # a reference stands for a strategy that acts in front of the language model alone
                    whole = spec in known and not isinstance(strategy, LayerSchedule)
                    if (way == "compiled" and varies) or (way == "loop" and not whole):
                        continue
                    yield BenchRow(batch, spec, keep, way)  # type: ignore[arg-type]


def bench(
    setup: Setup,
    wanted: Sequence[BenchRow],
    out: Path,
    *,
    seconds: float | None = None,
    progress: Callable[[int, int, str], None] = lambda *_: None,
    subject: Subject | None = None,
    about: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Measure, and write ``results.jsonl`` row by row and ``summary.json`` at the end.

    Parameters
    ----------
    setup : Setup
    wanted : sequence of BenchRow
        Rows that the folder holds already are not measured again, unless the strategy was changed since.
    out : Path
    seconds : float, optional
        Begin no row after this long.
    progress : callable, optional
        Told how many rows are done, of how many, and which is next.
    subject : Subject, optional
        A model and questions of one's own; by default a model of the setup's geometry.
    about : mapping, optional
        What else decides the numbers: which model, which questions.

    Returns
    -------
    list of dict
        All rows that the folder now holds, without those of earlier versions of the strategies asked for.

    Raises
    ------
    UnknownNameError, ConfigError
        No such geometry, kind or device, or the folder is of another setup; nothing was measured.
    """
    # a folder is begun only for what can be measured
    device = usable_device(setup.device)
    kind = "" if subject is not None else geometry(setup.geometry).kind(setup.kind or None)
    end = None if seconds is None else time.monotonic() + seconds
    made = {row.strategy: identity(row.built()) for row in wanted}
    settings = {**asdict(setup), **(about or {})}
    with ResultFolder(out, {**settings, **machine(device)}) as folder:
        have = {_key(row) for row in _latest(folder.read(), made)}
        todo = [row for row in wanted if _key(asdict(row)) not in have]
        if todo:
            dtype = getattr(torch, setup.dtype)
            if subject is None:
                model = build_model(setup.geometry, setup.device, dtype, small=setup.small)
                subject = Synthetic(model, setup.geometry, kind, setup.words)
            roof = peaks(device, dtype)
            for batch in dict.fromkeys(row.batch for row in todo):
                shown = subject.prompts(batch)
                options = (setup.repeats, setup.warm, setup.backend, setup.bucket)
                own = None if not shown.samples else shown.text
                one = Bench(subject.model, shown.inputs, roof, *options, own, shown.processor)
                for row in (row for row in todo if row.batch == batch):
                    if end is not None and time.monotonic() > end:
                        break
                    progress(len(folder.read()), len(wanted), f"{row.strategy} {row.keep or ''} {row.way}")
                    line = {**asdict(row), "identity": made[row.strategy]}
                    if shown.samples:
                        line["samples"] = list(shown.samples)
                    folder.append([{**line, **_measured(one, row), **_roof(roof)}])
                    gc.collect()
                    if device.type == "cuda":
                        torch.cuda.empty_cache()
        rows = _latest(folder.read(), made)
        summary = {"setup": settings, "machine": machine(device), "rows": rows}
        write_atomically(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    return rows


def _latest(rows: Sequence[dict[str, Any]], made: Mapping[str, str]) -> list[dict[str, Any]]:
    """One line a row: the last, and of strategies in ``made`` only as they are now."""
    current = [row for row in rows if row["strategy"] not in made or row.get("identity") == made[row["strategy"]]]
    return [*{_key(row): row for row in current}.values()]


def _measured(one: Bench, row: BenchRow) -> dict[str, Any]:
    """A row's numbers, or why there are none."""
    strategy = row.built()
    if strategy is not None and (why := refusal(adapter_for(one.model), strategy)) is not None:
        return {"refused": why}
    try:
        return one.measure(strategy, row.keep or None, row.way)
    except TokenPruneError as error:
        return {"refused": str(error)}
    except torch.OutOfMemoryError as error:
        return {"refused": f"out of memory: {str(error).splitlines()[0]}"}


def _roof(roof: Any) -> dict[str, float]:
    return {"copy_tb_per_s": round(roof.bytes_per_ms / 1e9, 4), "tflops": round(roof.flops_per_ms / 1e9, 2)}


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["batch"], row["strategy"], row["keep"], row["way"]
