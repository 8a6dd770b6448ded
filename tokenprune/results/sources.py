"""Which files a piece of code consists of: what it imports here, or all of the distribution that it came with."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import os
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["distribution_of", "source_of", "sources_of"]

_OURS = frozenset({"tokenprune", "tokenprune_strategies", "tokenprune_theory"})
_BYTECODE = frozenset({".pyc", ".pyo"})


def source_of(thing: Any) -> str:
    """Hash of the code that a class or function consists of.

    Of our own packages: the module that defines it and, of those, all modules that it imports, directly or not. Of
    somebody else's distribution, or of a package that none installed: every file of it, since it may load them by
    other means than an import. Of a single file: the file, and what it imports from its own folder. Of a notebook's
    cell: its own text.

    Parameters
    ----------
    thing : class or function
    """
    digest = hashlib.sha256()
    files = sources_of(thing.__module__)
    if not files:
        try:
            digest.update(inspect.getsource(thing).encode())
        except (OSError, TypeError):
            return "unknown"
    for name, file in files:
        found = file.stat()
        digest.update(f"{name};".encode() + _hashed(file, found.st_mtime_ns, found.st_size))
    return digest.hexdigest()


@functools.lru_cache(maxsize=4096)
def _hashed(file: Path, changed: int, size: int) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()


def sources_of(module: str) -> list[tuple[str, Path]]:
    """Names and files that a module's code consists of, sorted by name; none for what was typed into a session."""
    file = _file(module)
    if file is None:
        return []
    top = module.partition(".")[0]
    if top in _OURS:
        return sorted((name, path) for name, path in _imported(module, file) if name.partition(".")[0] in _OURS)
    packages = _shipped_with(top)
    if not packages and ("." in module or file.name == "__init__.py"):
        packages = [top]  # a package on the path that nobody installed
    if packages:
        return sorted(
            (f"{name}/{below}", path)
            for name in packages
            if (root := _root(name)) is not None
            for below, path in _files_under(root)
        )
    folder = file.parent
    return sorted(
        (name, path)
        for name, path in _imported(module, file)
        if path == file or (folder in path.parents and not _installed(path))
    )


def distribution_of(thing: Any) -> str:
    """Name and version of the distribution that a class or function came with; its file or module without one."""
    module = str(getattr(thing, "__module__", "") or "")
    top = module.partition(".")[0]
    for name in _distributions().get(top, ()):
        return f"{name} {metadata.version(name)}"
    file = _file(module)
    return module or "unknown" if file is None else str(file)


def _distributions() -> dict[str, list[str]]:
    return dict(_by_package(tuple(sys.path)))


@functools.lru_cache(maxsize=8)
def _by_package(path: tuple[str, ...]) -> tuple[tuple[str, list[str]], ...]:
    found: dict[str, list[str]] = {}
    for name, distributions in metadata.packages_distributions().items():
        found[name] = sorted(set(distributions))
    return tuple(found.items())


def _shipped_with(top: str) -> list[str]:
    """All import packages of the distribution that ships one; none where no distribution does."""
    ships = _distributions()
    mine = set(ships.get(top, ()))
    if not mine or mine & set(ships.get("tokenprune", ())):
        return []
    return sorted(name for name, distributions in ships.items() if mine & set(distributions))


def _root(package: str) -> Path | None:
    """Folder of a package, or the file of a single module."""
    file = _file(package)
    if file is None:
        return None
    return file.parent if file.name == "__init__.py" else file


def _files_under(root: Path) -> Iterator[tuple[str, Path]]:
    """Files of a package, by their names below its folder; the file of a single module is called ``.``."""
    if root.is_file():
        yield ".", root
        return
    for folder, below, names in os.walk(root):  # thousands of files: rglob takes ten times as long
        below[:] = [name for name in below if name != "__pycache__"]
        start = os.path.relpath(folder, root)
        for name in names:
            path = Path(folder, name)
            if path.suffix not in _BYTECODE and path.is_file():
                yield os.path.normpath(os.path.join(start, name)), path


def _file(module: str) -> Path | None:
    """Source of a module, imported or not."""
    loaded = getattr(sys.modules.get(module), "__file__", None)
    if loaded:
        return Path(loaded)
    return _found(module) if module.partition(".")[0] in _OURS else _looked_for(module)


def _looked_for(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module) if module not in ("", "__main__") else None
    except (ImportError, ValueError, AttributeError):
        return None
    origin = None if spec is None else spec.origin
    return Path(origin) if origin and Path(origin).is_file() else None


_found = functools.lru_cache(maxsize=4096)(_looked_for)
"""Of our own packages, whose modules are there from the start: most names that an import may mean are no module."""


def _installed(path: Path) -> bool:
    """Whether a file belongs to Python or to an installed package."""
    places = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(place in path.parents for place in places)


def _imported(module: str, file: Path) -> Iterator[tuple[str, Path]]:
    """A module and all that it imports, anywhere in its text, as far as it is ours or lies in its folder."""
    seen: set[str] = set()
    nearby: dict[str, bool] = {}
    waiting = [(module, file)]
    while waiting:
        name, path = waiting.pop()
        if name in seen or path.suffix != ".py":
            continue
        seen.add(name)
        yield name, path
        for other in _imports(name, path, path.stat().st_mtime_ns):
            if other in seen:
                continue
            top = other.partition(".")[0]
            if top not in nearby:
                nearby[top] = top in _OURS or (file.parent / top).exists() or (file.parent / f"{top}.py").exists()
            found = _file(other) if nearby[top] else None
            if found is not None:
                waiting.append((other, found))


@functools.lru_cache(maxsize=4096)
def _imports(module: str, path: Path, changed: int) -> tuple[str, ...]:
    """Names that a file imports; of ``from a import b`` both a and a.b, which may be a module too."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(name for name in found if name)
