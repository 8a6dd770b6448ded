"""What the page on the architecture says of the code, taken from the code.

    python -m experiments.architecture.page    # writes docs/architecture.md between its marks

*Rooms*: which room imports which, at load time and lazily, as a diagram without the arrows that others imply.
*Way*: the modules in which a function runs while ``attach`` prunes and ``generate`` answers, in the order in which they
are entered: what one opens to follow a prompt.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import grimp

from experiments.marked import put

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = ("tokenprune", "tokenprune_strategies", "tokenprune_theory")
OUTSIDE = ("tokenprune_strategies", "tokenprune_theory")
APART = ("tokenprune", "tokenprune.__main__", "tokenprune._version")
"""Modules that are no room: the public names, and two of three lines."""
FORMER = ("models",)
"""Former names of rooms, which only hand on."""


def room_of(module: str) -> str | None:
    """Room of a module, or the package beside the framework; None for what is in none."""
    package, _, rest = module.partition(".")
    if module in APART or rest.partition(".")[0] in FORMER:
        return None
    return package if package in OUTSIDE else rest.partition(".")[0]


def imports() -> dict[str, set[str]]:
    """Rooms that each room imports."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    found: dict[str, set[str]] = {}
    for module in graph.modules:
        here = room_of(module)
        if here is None:
            continue
        found.setdefault(here, set())
        for other in graph.find_modules_directly_imported_by(module):
            there = room_of(other)
            if there is not None and there != here:
                found[here].add(there)
    return found


def reduced(edges: Mapping[str, Iterable[str]]) -> list[tuple[str, str]]:
    """Edges of a graph without cycles that no longer way implies, sorted."""
    memo: dict[str, set[str]] = {}

    def reach(node: str) -> set[str]:
        if node not in memo:
            memo[node] = set(edges.get(node, ()))
            memo[node] |= {far for near in edges.get(node, ()) for far in reach(near)}
        return memo[node]

    return sorted(
        (node, near)
        for node, nears in edges.items()
        for near in nears
        if not any(near in reach(other) for other in nears if other != near)
    )


def diagram() -> str:
    """The rooms in Mermaid's language."""
    lines = ["```mermaid", "flowchart LR"]
    lines += [f"    {here} --> {there}" for here, there in reduced(imports())]
    return "\n".join([*lines, "```"])


def entered(run: Callable[[], object]) -> list[str]:
    """Modules of the framework in which a function is called while something runs, in the order of their first call.

    Module bodies and generated methods (of dataclasses) do not count: nobody opens a file for them.
    """
    seen: dict[str, None] = {}
    base = str(ROOT / "tokenprune")

    def watch(frame: FrameType, event: str, _arg: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(base) and code.co_name != "<module>":
            seen.setdefault(str(Path(code.co_filename).relative_to(ROOT)))

    sys.setprofile(watch)
    try:
        run()
    finally:
        sys.setprofile(None)
    return list(seen)


def way() -> list[str]:
    """Files that a prompt passes: ``attach`` with mi-pruner around ``generate``, on a tiny LLaVA."""
    import tokenprune as tp
    from tokenprune.zoo.tiny import picture, tiny_llava, tiny_processor

    model, processor = tiny_llava(side=6), tiny_processor(side=6)
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this ?"}]}]
    prompt = processor.apply_chat_template(message, add_generation_prompt=True)
    inputs = processor(images=picture(), text=prompt, return_tensors="pt")
    strategy, attach = tp.build("mi-pruner"), tp.attach  # read here: reading it loads modules, which is no way

    def run() -> None:
        with attach(model, strategy, keep=9, processor=processor):
            model.generate(**inputs, max_new_tokens=2, do_sample=False)

    return [path for path in entered(run) if not path.startswith("tokenprune/zoo/")]


PARTS = {
    "the spine": r"hf/(attach|hooks|batch|collect|decision|splice)",
    "which words are the user's": r"hf/prompt_",
    "the model family": r"hf/adapters/",
    "the strategy and its parts": r"(components|kernels)/",
    "what they are made of": r"core/",
    "around the spine": r"",
}
"""Parts of the way; a file belongs to the first that matches."""


def followed() -> str:
    """How many files the way has, by part, each in the order in which they are entered."""
    files = way()
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for path in files:
        name = path.removeprefix("tokenprune/").removesuffix(".py")
        parts[next(part for part, pattern in PARTS.items() if re.match(pattern, name))].append(name)

    def size(names: Iterable[str]) -> int:
        return sum(len((ROOT / f"tokenprune/{name}.py").read_text(encoding="utf-8").splitlines()) for name in names)

    rows = ["| part | files | lines | in the order in which they are entered |", "|---|---:|---:|---|"]
    for part, names in parts.items():
        listed = ", ".join(f"`{name}`" for name in names)
        rows.append(f"| {part} | {len(names)} | {size(names):,} | {listed} |")
    every = [name for names in parts.values() for name in names]
    return "\n".join([*rows, f"| **together** | {len(every)} | {size(every):,} | |"])


MADE: dict[str, Callable[[], str]] = {"rooms": diagram, "way": followed}
"""Marks on the page, and what stands between them."""


def write() -> None:
    """Put what the code says into the page."""
    for mark, make in MADE.items():
        put(PAGE, mark, make())


if __name__ == "__main__":
    write()
