"""What lmms-eval logged, as results of ours: for paired tests, tables and reports."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenprune.core.errors import ConfigError, TokenPruneError, closest
from tokenprune.core.registry import build
from tokenprune.evaluation.answered import answered, described
from tokenprune.evaluation.compare import summary_of
from tokenprune.evaluation.conditions import RANDOM, RANDOM_DRAWS
from tokenprune.evaluation.summary import SummaryRow
from tokenprune.integrations.lmms_eval.journal import record_in
from tokenprune.integrations.lmms_eval.options import FULL
from tokenprune.results.files import write_atomically
from tokenprune.results.fingerprint import providers
from tokenprune.results.lines import ANSWERS, read_lines
from tokenprune.results.provenance import differences, short
from tokenprune.results.store import ResultFolder

__all__ = ["Imported", "import_samples"]

_LOGGED: Final = frozenset(
    {
        "doc_id",
        "doc",
        "target",
        "arguments",
        "resps",
        "filtered_resps",
        "token_counts",
        "doc_hash",
        "input",
        "input_media",
    }
)
"""What the harness logs of every sample; all else is a metric's."""

_COPIED: Final = (
    "sample",
    "image",
    "task",
    "family",
    "question",
    "tokens",
    "layer_average_tokens",
    "flops",
    "kv_bytes",
)


@dataclass(frozen=True)
class Imported:
    """What an import came to.

    Attributes
    ----------
    folder : Path
    rows : list of SummaryRow
    facts : dict
        Environment, as in summary.json.
    answers : int
        Lines that the folder holds.
    metrics : dict of str to str
        What answers of each task count as right by.
    notes : list of str
        What a reader must know.
    """

    folder: Path
    rows: list[SummaryRow]
    facts: dict[str, Any]
    answers: int
    metrics: dict[str, str]
    notes: list[str]


@dataclass(frozen=True)
class _Sample:
    """One logged answer: where it stands, what the harness wrote, what we wrote into it."""

    where: str
    values: Mapping[str, Any]
    facts: Mapping[str, Any]


def import_samples(
    folders: Sequence[Path], out: Path, *, metrics: Mapping[str, str] | None = None, journal: Path | None = None
) -> Imported:
    """Bring samples into a folder of results, which ``report`` and ``verify`` read.

    Parameters
    ----------
    folders : sequence of Path
        What ``--output_path`` named, of runs with ``--log_samples`` and ``--model tokenprune``; of one model and one
        choice of options, with as many strategies and budgets as there are.
    out : Path
        May hold answers of the same tasks already.
    metrics : mapping of str to str, optional
        By which number of the harness an answer of a task is right; by default the first it logs.
    journal : Path, optional
        Where the record of the run lies; by default where the samples say it does.

    Raises
    ------
    ConfigError
        No samples, none of ours, of different runs, without a journal; a metric that is not there, or no share of 1.
    """
    samples = [sample for folder in folders for sample in _samples(folder)]
    if not samples:
        raise ConfigError(f"no samples of --model tokenprune in {', '.join(map(repr, map(str, folders)))}")
    lines, identities, used = _lines(samples, metrics or {})
    record = _record(samples, lines, journal)
    for line in lines:
        line["run"] = short(record)
    with ResultFolder(out, record, ANSWERS) as folder:
        before = described(out)
        for label, identity in identities.items():
            if before.get(label, {"identity": identity})["identity"] != identity:
                raise ConfigError(f"{str(out)!r} holds answers of another {label!r}: import into a new folder")
        there = {tuple(line[name] for name in ANSWERS.key): line for line in folder.read()}
        folder.append(line for line in lines if there.get(tuple(line[name] for name in ANSWERS.key)) != line)
        now = {label: {"identity": identity, **_about(label)} for label, identity in identities.items()}
        write_atomically(out / "strategies.json", json.dumps(before | now, indent=1) + "\n")
        facts = _facts(record)
        rows, document = summary_of(out, facts)
        write_atomically(out / "summary.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
        found = answered(out)
    notes = [f"{one.strategy} at {one.keep}: {one.answered} of {one.of} answered" for one in found.incomplete]
    if not any(line["strategy"] == FULL for line in found.lines):
        notes.append("no run of the unpruned model is among them: nothing is tested against it")
    return Imported(out, rows, facts, len(found.lines), used, notes)


def _samples(folder: Path) -> Iterator[_Sample]:
    """Everything that was logged in a folder, of our model."""
    if not folder.is_dir():
        raise ConfigError(f"{str(folder)!r}: no such folder; give what lmms-eval's --output_path named")
    for file in sorted(folder.rglob("*samples_*.jsonl")):
        for number, values in enumerate(read_lines(file), 1):
            counts = values.get("token_counts") or [None]
            facts = counts[0] if isinstance(counts, list) and isinstance(counts[0], Mapping) else {}
            where = f"{str(file)!r}, line {number}"
            if "identity" not in facts:
                raise ConfigError(f"{where}: this answer is not of --model tokenprune; give folders of its runs only")
            if len(counts) != 1:
                raise ConfigError(f"{where}: {len(counts)} answers to one question (--repeats) are not compared")
            yield _Sample(where, values, facts)


def _lines(
    samples: Sequence[_Sample], metrics: Mapping[str, str]
) -> tuple[list[dict[str, Any]], dict[str, str], dict[str, str]]:
    """Lines of results.jsonl, without their run; what each label stands for; what each task is graded by."""
    labels = _labels(samples)
    identities: dict[str, str] = {}
    used: dict[str, str] = {}
    found = []
    for sample in samples:
        facts = sample.facts
        label, draw, keep, identity = labels[facts["strategy"], facts["identity"], facts["keep"]]
        if identities.setdefault(label, identity) != identity:
            raise ConfigError(
                f"{sample.where}: {label!r} was another strategy in an earlier run (its code or options changed); "
                "give folders that were filled since"
            )
        target = sample.values.get("target")
        said = sample.values.get("filtered_resps")
        said = said[0] if isinstance(said, list) else said
        name = metrics.get(facts["task"]) or metrics.get(_task(facts)) or _first_metric(sample)
        if used.setdefault(facts["task"], name) != name:
            raise ConfigError(
                f"{sample.where}: graded by {name!r}, other answers of this task by {used[facts['task']]!r}"
            )
        found.append(
            {
                "strategy": label,
                "identity": identity,
                "keep": keep,
                "draw": draw,
                **{copied: facts[copied] for copied in _COPIED},
                "binary": isinstance(target, str) and target.strip().lower() in ("yes", "no"),
                "answer": target,
                "prediction": str(said).strip(),
                **({"metric": facts["metric"]} if "metric" in facts else {}),
                "correct": _right(sample, name),
            }
        )
    return found, identities, used


def _task(facts: Mapping[str, Any]) -> str:
    return str(facts["document"]).rpartition("/")[0]


def _labels(samples: Sequence[_Sample]) -> dict[tuple[Any, ...], tuple[str, int, int, str]]:
    """Strategy, identity and budget of samples -> label, draw, budget and identity of lines.

    Three draws of random are one row, as in a comparison; a share of the tokens is a row of its own at the number of
    tokens that it came to on average.
    """
    kept: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for sample in samples:
        key = tuple(sample.facts[name] for name in ("strategy", "identity", "keep"))
        kept[key].append(sample.facts["tokens"])
    draws = {key: draw for key in kept if (draw := _draw(key[0])) is not None and isinstance(key[2], int)}
    whole = {
        keep
        for keep in {key[2] for key in draws}
        if {draw for key, draw in draws.items() if key[2] == keep} >= set(range(RANDOM_DRAWS))
    }
    first = {key[2]: key[1] for key, draw in draws.items() if draw == 0}
    found = {}
    for key, tokens in kept.items():
        strategy, identity, keep = key
        if strategy == FULL:
            found[key] = (FULL, 0, 0, identity)
        elif isinstance(keep, float):
            found[key] = (f"{strategy} keep={keep}", 0, max(1, round(sum(tokens) / len(tokens))), identity)
        elif key in draws and keep in whole and draws[key] < RANDOM_DRAWS:
            found[key] = (RANDOM, draws[key], keep, first[keep])
        else:
            found[key] = (f"{RANDOM}:seed=0" if strategy == RANDOM else strategy, 0, keep, identity)
    return found


def _draw(strategy: str) -> int | None:
    """Which of the draws a strategy is; None where it is no random one."""
    name, _, seed = strategy.partition(":seed=")
    if name != RANDOM or not (seed or "0").isdecimal():
        return None
    return int(seed or 0)


def _first_metric(sample: _Sample) -> str:
    for name in sample.values:
        if name not in _LOGGED and _number(sample.values[name]) is not None:
            return name
    raise ConfigError(f"{sample.where}: no metric of this task is a number; there are {_metrics_in(sample)}")


def _metrics_in(sample: _Sample) -> str:
    return ", ".join(name for name in sample.values if name not in _LOGGED) or "none"


def _number(value: Any) -> float | None:
    """What a metric gave a sample: a number, or a mapping that holds one under "score" or "correct"."""
    if isinstance(value, Mapping):
        value = next((value[name] for name in ("score", "correct") if name in value), None)
    return float(value) if isinstance(value, bool | int | float) else None


def _right(sample: _Sample, metric: str) -> bool | float:
    if metric not in sample.values:
        known = [name for name in sample.values if name not in _LOGGED]
        raise ConfigError(
            f"--metric {metric!r}: {sample.where}: this task has none of that name; {closest(metric, known)}"
        )
    value = _number(sample.values[metric])
    if value is None or not 0 <= value <= 1:
        raise ConfigError(
            f"{sample.where}: {metric!r} is {sample.values[metric]!r}, and a share of 1 is needed; choose another of "
            f"{_metrics_in(sample)} with --metric {sample.facts['task']}=NAME"
        )
    return bool(value) if value in (0, 1) else value


def _record(samples: Sequence[_Sample], lines: Sequence[Mapping[str, Any]], journal: Path | None) -> dict[str, Any]:
    """The provenance record of all samples, questions included."""
    stored: dict[str, Any] | None = None
    generation: dict[str, str] = {}
    for sample in samples:
        facts = sample.facts
        if generation.setdefault(facts["task"], facts["generation"]) != facts["generation"]:
            raise ConfigError(
                f"{sample.where}: answers of {facts['task']!r} were generated with other options elsewhere"
            )
    runs = {sample.facts["run"]: sample for sample in samples}
    for run, sample in runs.items():
        folder = journal or sample.facts.get("journal")
        if folder is None:
            raise ConfigError(
                f"{sample.where}: this run kept no journal, which holds what its answers rest on: run with "
                "--model_args ...,journal=DIR"
            )
        record = record_in(Path(folder), run)
        if stored is not None and (changed := differences(stored, record)):
            raise ConfigError(
                f"{sample.where}: this run differs from the others in more than strategy and budget "
                f"({'; '.join(changed)}): import them apart"
            )
        stored = record
    assert stored is not None
    text, pictures = hashlib.sha256(), hashlib.sha256()
    questions = {line["sample"]: [line[name] for name in ("image", "task", "question", "answer")] for line in lines}
    for name, asked in sorted(questions.items()):
        text.update(json.dumps([name, *asked], default=str).encode() + b"\n")
    for image in sorted({line["image"] for line in lines}):
        pictures.update(f"{image};".encode())
    counted = {"n": len(questions), "located": 0, "text": text.hexdigest()[:12], "pictures": pictures.hexdigest()[:12]}
    options = {**stored["asked"], "generation": dict(sorted(generation.items()))}
    return {**stored, "asked": options, "questions": counted}


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader of a table needs to know."""
    asked, software = record["asked"], record["software"]
    return {
        "model": asked["pretrained"],
        "device": record["device"],
        "dtype": asked["dtype"],
        "tokenprune": software["tokenprune"].partition(" ")[0],
        "torch": software["torch"],
        "transformers": software["transformers"],
        "harness": asked["harness"],
        "run": short(record),
        "data": ", ".join(asked["generation"]),
        "questions": record["questions"]["n"],
        "match": "kept",
    }


def _about(label: str) -> dict[str, Any]:
    """What strategies.json tells of a label besides its identity."""
    name = label.partition(" keep=")[0]
    if name == FULL:
        return {"strategy": FULL, "providers": []}
    try:
        strategy = build(name)
    except TokenPruneError:  # a plugin that is not installed here
        return {"strategy": name, "providers": []}
    return {"strategy": repr(strategy), "providers": providers(strategy)}
