"""Rows of a comparison from files: strategies that a Python file registers, and mixes of parts written in YAML."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenprune.core.documents import read_yaml
from tokenprune.core.errors import ConfigError, PluginError
from tokenprune.core.registry import strategy_in
from tokenprune.evaluation.conditions import strategy_names

__all__ = ["chosen_rows", "read_mix", "run_files"]

Row = str | Mapping[str, Any]


def run_files(paths: Iterable[Path]) -> None:
    """Run Python files, so that what they register is known by name; each once in a process.

    Raises
    ------
    ConfigError
        No such file, or no Python file.
    PluginError
        It raised; says what, and in which line.
    """
    for path in paths:
        if path.suffix != ".py" or not path.is_file():
            raise ConfigError(f"--load {str(path)!r}: {'no such file' if path.suffix == '.py' else 'no .py file'}")
        file = path.resolve()
        name = f"{path.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        # what lies beside it can be imported, as from a script
        sys.path.insert(0, str(file.parent))
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise PluginError(
                f"--load {str(path)!r}, {_line_in(file, error)}{type(error).__name__}: {error}"
            ) from error
        finally:
            sys.path.remove(str(file.parent))


def _line_in(file: Path, error: BaseException) -> str:
    """The last line of a file that an error passed through."""
    trace, line = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = f"line {trace.tb_lineno}: "
        trace = trace.tb_next
    return line


def read_mix(path: Path) -> list[Row]:
    """Rows from a YAML file.

    What ``tokenprune tune`` wrote; or a list of names, or of mappings of ``label`` and ``strategy``; or one mapping of
    labels to strategies. A strategy is what :func:`tokenprune.build` takes: a name, ``{strategy: NAME, option: ...}``,
    or parts.

    Raises
    ------
    ConfigError
        The file cannot be read or holds something else; names it and shows what is accepted.
    """
    given = read_yaml(path)
    if isinstance(given, Mapping) and "tuned" in given:
        # a tuned strategy names itself and where it comes from
        given = [{"label": str(given.get("label", path.stem)), "strategy": strategy_in(path)}]
    accepted = "a list of names or of {label: ..., strategy: ...}, or a mapping of labels to strategies"
    if isinstance(given, Mapping) and given:
        given = [{"label": str(label), "strategy": strategy} for label, strategy in given.items()]
    if not isinstance(given, list) or not given:
        raise ConfigError(f"{path}: {accepted} is needed")
    for row in given:
        whole = isinstance(row, Mapping) and set(row) == {"label", "strategy"}
        if not whole and not isinstance(row, str):
            raise ConfigError(f"{path}: {accepted} is needed, got the row {row!r}")
        if whole and not isinstance(row["strategy"], str | Mapping):
            raise ConfigError(
                f"{path}: the strategy of {row['label']!r} is a name or a mapping, got {row['strategy']!r}"
            )
    return given


def chosen_rows(text: str) -> Sequence[Row] | None:
    """What ``--strategies`` stands for: names separated by commas, YAML files among them; None for "all".

    Raises
    ------
    ConfigError
        Nothing is named, or a file cannot be read.
    """
    if text.strip() == "all":
        return None
    rows: list[Row] = []
    for word in (word.strip() for word in text.split(",")):
        if word.endswith((".yaml", ".yml")):
            rows += read_mix(Path(word))
        elif word:
            rows.append(word)
    if not rows:
        strategy_names(())
    return rows
