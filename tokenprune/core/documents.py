"""YAML that people write, read strictly: no key twice, nothing that unfolds without end, faults with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tokenprune.core.errors import ConfigError

__all__ = ["MOST", "parse_yaml", "read_yaml"]

MOST = 100_000
"""Values that a document may unfold to: aliases repeat what they stand for."""


class _Loader(yaml.SafeLoader):
    """Plain values only; a key that is there twice is a mistake, not the last one's value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if key.value in seen:
                        raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} twice", key.start_mark)
                    seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def read_yaml(path: Path) -> Any:
    """Read a file.

    Raises
    ------
    ConfigError
        No such file, no text in UTF-8, no YAML, a key twice, or more than :data:`MOST` values once aliases are
        unfolded; names the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Read a text; ``where`` is what a ConfigError names.

    Raises
    ------
    ConfigError
        As :func:`read_yaml`.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _counted(node, where)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        said = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ConfigError(f"{where}: cannot be read: {said}") from error


def _counted(node: yaml.Node, where: str) -> None:
    """Refuse a document that unfolds to too much, by counting no further than that."""
    waiting, n = [node], 0
    while waiting:
        one = waiting.pop()
        n += 1
        if n > MOST:
            raise ConfigError(f"{where}: more than {MOST} values once its aliases are unfolded")
        if isinstance(one, yaml.SequenceNode):
            waiting += one.value
        elif isinstance(one, yaml.MappingNode):
            waiting += [part for pair in one.value for part in pair]
