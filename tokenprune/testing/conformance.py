"""Replay golden vectors: inputs and outputs recorded from a method's reference code.

A folder of vectors holds one folder a method, with a ``cases.json`` and one safetensors file a case::

    divprune/cases.json              {"method": "divprune", "cases": [{"name", "file", "hyper", ...}, ...], ...}
    divprune/n64_d32_r0.1.safetensors     tensors "in.<name>" and "out.<name>"

The engine knows no method. It finds a *replay* by the method's name among the entry points of the group
``tokenprune.conformance``; a replay is a function that runs the method on a case's inputs and returns what it got for
every ``out.*``. Integers must agree exactly and in order, unless the replay says that only the set has a meaning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from tokenprune.core.errors import ConfigError, UnknownNameError, closest

__all__ = [
    "FEATURE_TOLERANCE",
    "GROUP",
    "HALF_TOLERANCE",
    "SCORE_TOLERANCE",
    "Case",
    "CaseResult",
    "Replay",
    "Replayed",
    "Report",
    "mismatch",
    "replay_folder",
]

GROUP: Final = "tokenprune.conformance"

SCORE_TOLERANCE: Final = 1e-5
"""Largest difference of a floating-point output, relative to max(1, what is expected)."""

FEATURE_TOLERANCE: Final = 1e-4
"""The same where rounding is larger: sums taken in another order, a system solved in float32."""

HALF_TOLERANCE: Final = 1e-3
"""The same of features that the reference code keeps in half precision."""

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Case:
    """One recorded run.

    Attributes
    ----------
    method, name : str
    inputs, outputs : mapping of str to Tensor
        The file's ``in.*`` and ``out.*``, without the prefix.
    hyper : mapping
        Options of the recorded run.
    entry, document : mapping
        The case's own entry in ``cases.json``, and the whole file, for what else they say.
    """

    method: str
    name: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    hyper: Mapping[str, Any] = field(default_factory=dict)
    entry: Mapping[str, Any] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Replayed:
    """An output with how it is to be compared; a bare tensor means ``Replayed(tensor)``.

    Parameters
    ----------
    value : Tensor
    unordered : bool, default False
        Only the set of entries in each row has a meaning.
    rounded : bool, default False
        Features made by summing or averaging, or what a system solved in float32 leaves (which differs between
        processors): :data:`FEATURE_TOLERANCE`.
    half : bool, default False
        Features that the reference code rounds to half precision: :data:`HALF_TOLERANCE`.
    """

    value: Tensor
    unordered: bool = False
    rounded: bool = False
    half: bool = False


Replay = Callable[[Case], Mapping[str, Tensor | Replayed]]


@dataclass(frozen=True)
class CaseResult:
    """What became of a case; ``detail`` says why it did not pass."""

    method: str
    name: str
    status: Status
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """Results of a folder."""

    cases: tuple[CaseResult, ...]

    def count(self, status: Status) -> int:
        """How many cases have this status."""
        return sum(case.status == status for case in self.cases)

    @property
    def ok(self) -> bool:
        """True where nothing failed."""
        return self.count("failed") == 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data: numbers of passed, failed and skipped cases, and the cases."""
        counts = {status: self.count(status) for status in ("passed", "failed", "skipped")}
        return {**counts, "cases": [asdict(case) for case in self.cases]}


def mismatch(got: Tensor | Replayed, expected: Tensor) -> str:
    """Say how an output differs from what is expected; the empty string where it does not."""
    replayed = got if isinstance(got, Replayed) else Replayed(got)
    value = replayed.value.detach().cpu()
    if value.shape != expected.shape:
        return f"shape {tuple(value.shape)}, expected {tuple(expected.shape)}"
    if value.is_floating_point() != expected.is_floating_point():
        return f"dtype {value.dtype}, expected {expected.dtype}"
    if replayed.unordered:
        value, expected = value.sort(-1).values, expected.sort(-1).values
    if expected.is_floating_point():
        tolerance = FEATURE_TOLERANCE if replayed.rounded else SCORE_TOLERANCE
        tolerance = HALF_TOLERANCE if replayed.half else tolerance
        value, expected = value.double(), expected.double()
        wrong = ~torch.isclose(value, expected, rtol=0, atol=0, equal_nan=True)
        wrong &= ~((value - expected).abs() <= tolerance * expected.abs().clamp_min(1))
    else:
        wrong = value != expected
    if not bool(wrong.any()):
        return ""
    first = wrong.nonzero()[0].tolist()
    here, there = value[tuple(first)].item(), expected[tuple(first)].item()
    return f"{int(wrong.sum())} of {wrong.numel()} differ, first at {first}: got {here}, expected {there}"


def replay_folder(folder: str | Path, methods: Collection[str] | None = None) -> Report:
    """Replay every case in a folder of vectors.

    Parameters
    ----------
    folder : path
        Laid out as the module says.
    methods : collection of str, optional
        Only these methods.

    Raises
    ------
    ConfigError
        The folder is missing or holds no ``<method>/cases.json``.
    UnknownNameError
        A method asked for is not among them; names the closest.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ConfigError(f"conformance: {str(root)!r} is not a folder")
    found = {path.parent.name: path for path in sorted(root.glob("*/cases.json"))}
    if not found:
        raise ConfigError(f"conformance: no <method>/cases.json in {str(root)!r}")
    for name in methods or ():
        if name not in found:
            raise UnknownNameError(f"conformance: no vectors of a method {name!r}; {closest(name, found)}")
    chosen = [path for name, path in found.items() if methods is None or name in methods]
    return Report(tuple(result for path in chosen for result in _replay_method(path)))


def _replay_method(path: Path) -> Iterator[CaseResult]:
    method = path.parent.name
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        entries = document["cases"]
        method = document.get("method", method)
        names = [entry["name"] for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield CaseResult(method, path.name, "failed", f"cannot be read: {type(error).__name__}: {error}")
        return
    try:
        replay = _find(method)
    except Exception as error:  # a broken plugin fails its own method, not the others
        detail = f"its replay cannot be loaded: {type(error).__name__}: {error}"
        yield from (CaseResult(method, name, "failed", detail) for name in names)
        return
    for name, entry in zip(names, entries, strict=True):
        if replay is None:
            yield CaseResult(method, name, "skipped", f"no entry point {method!r} in the group {GROUP!r}")
        else:
            try:
                detail = _compare(replay, _load(path.parent, method, name, entry, document))
            except Exception as error:  # whatever a replay raises is a failed case, not the end of the run
                detail = f"{type(error).__name__}: {error}"
            yield CaseResult(method, name, "failed" if detail else "passed", detail)


def _find(method: str) -> Replay | None:
    points = {point.value: point for point in metadata.entry_points(group=GROUP, name=method)}
    if len(points) > 1:
        raise ConfigError(f"several replays claim {method!r}: {', '.join(sorted(points))}")
    for point in points.values():
        replay: Replay = point.load()
        return replay
    return None


def _load(folder: Path, method: str, name: str, entry: Mapping[str, Any], document: Mapping[str, Any]) -> Case:
    tensors = load_file(folder / entry.get("file", f"{name}.safetensors"))
    inputs, outputs = (
        {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        for prefix in ("in.", "out.")
    )
    return Case(method, name, inputs, outputs, entry.get("hyper", {}), entry, document)


def _compare(replay: Replay, case: Case) -> str:
    if not case.outputs:
        return "the file holds no out.* to compare with"
    got = replay(case)
    problems = []
    for name, expected in case.outputs.items():
        problem = mismatch(got[name], expected) if name in got else "not replayed"
        if problem:
            problems.append(f"{name}: {problem}")
    return "; ".join(problems)
