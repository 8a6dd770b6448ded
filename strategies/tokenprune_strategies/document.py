"""The pages of strategies and of references, made from the strategies, their docstrings and the references' source.

``python -m tokenprune_strategies.document`` writes them (from a checkout); a test fails when they are stale. What a
strategy's parts tell (where it acts, what it reads, whether it merges, how many tokens layers process) is asked of the
parts; what they cannot tell (citation, cost, differences from the paper) is in the docstring of what builds it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenprune as tp
from tokenprune.core.description import Docstring, markdown
from tokenprune.core.errors import UnreachableBudgetError
from tokenprune.core.features import LAYOUTS, SIGNALS
from tokenprune.core.matching import matched_keep
from tokenprune.core.reference import list_references, load_reference
from tokenprune.core.registry import registry
from tokenprune.core.schedule import LAYER_SIGNALS, LayerSchedule
from tokenprune.core.strategy import AnyStrategy

__all__ = ["PATH", "REFERENCES", "Docstring", "Method", "methods", "render", "render_references", "write"]

PATH = "docs/strategies.md"
"""Where the page lies in a checkout."""

FREE = "follows from the data"
"""What a budget means where it means nothing."""

REFERENCES = "docs/references.md"
"""Where the page of references lies."""

BUDGETS = (192, 128, 64, 32)
N_VISUAL, N_LAYERS = 576, 32
"""LLaVA-1.5-7B, for which most methods were published."""

SPOKEN = frozenset({"text", "joint_text", "attention", "text_keys"})
"""Signals that depend on the prompt."""

HEAD = """\
<!-- made by python -m tokenprune_strategies.document; do not edit -->

# Strategies

What ships with the package. Each is a composition of shared parts; `tp.build(name, **options)` makes it, and
`tokenprune doctor --strategies NAME` shows what it does to a model. Options named `faithful` reproduce what a method's
published code does where we hold that to be a defect; without them a strategy does the sane thing, and the section of
the method says what that is.
"""

WHOLE = """\
<!-- made by python -m tokenprune_strategies.document; do not edit -->

# Methods, whole

What a strategy composes of parts, written out as a plain loop for one image: the method on one page. Signals come
without the batch axis; N visual tokens, T text tokens, K kept. Tests hold every strategy to its reference: the same
picks in the same order, and the same merged tokens, for ragged batches, several budgets and every option that both
have. `tokenprune.core.reference.load_reference(name)` finds them, a plugin's too (entry-point group
`tokenprune.references`); `tokenprune bench` times them as the way `loop`.
"""

LEGEND = """\
*Acts*: in front of the language model at the encoder's output (before the projector) or in projection space, or after
decoder layers, numbered from 0 for 32 of them. *Reads*: signals; attention, keys and text of a strategy inside the
language model are those of its layers; `frames` is which frame a token belongs to. *"64"*: visual tokens left in the
last layer / processed by a layer on average, for a budget of 64 of 576; ≈ where counts follow from the data too, and
only aim at it. *Cost* of choosing: N visual tokens of which K are kept, T text tokens, S in the sequence; widths d
(language model), e (encoder), k (keys); H heads; other letters are explained with the method.
"""

BUDGET = """\
A budget is what the method's authors call it, so "64 tokens" is not one thing: a strategy that acts after some layers
has run those on all tokens, and some keep more or less than they are asked for. Tokens left in the last layer /
processed by a layer on average, for 576 visual tokens and 32 layers:
"""

FRAMES = """\
Strategies that read `frames` are for videos. A model that reads none refuses them by name. Where a model reads both, a
still picture is a video of one frame, tiles and all. In InternVL frames are images of their own: pass `unit="sample"`,
so that one budget holds the whole video (images of one size that stand apart in a prompt are taken for frames then).
With `unit="frame"` every frame is a video of one frame.
"""

AUTOPRUNE = """\
Counts that follow from what a strategy measures on a sample (autoprune) are those without a measurement; with one,
tokens move between layers while the sum of what layers leave stays.
"""

MATCHED = """\
`tokenprune compare --match layer-average` solves each strategy's own budget so that layers process equally many tokens
on average; what it then asks for:
"""

EXAMPLE = """\
```python
import tokenprune as tp
from tokenprune.core.matching import matched_keep

keep = matched_keep(tp.build("fastv"), 128, n_visual=576, n_layers=32)
assert keep == 98  # (2 * 576 + 30 * 98) / 32 = 127.9
```

Below the smallest average no budget helps: `matched_keep` raises, and `compare` leaves the row out and says so. Tokens
of each layer, FLOPs and cache bytes in results are counted from what ran.
"""


@dataclass(frozen=True)
class Method:
    """A strategy of this package and what is said of it."""

    name: str
    build: Callable[..., AnyStrategy]
    strategy: AnyStrategy
    doc: Docstring
    summary: str

    @property
    def inside(self) -> bool:
        """Whether it acts between layers."""
        return isinstance(self.strategy, LayerSchedule)

    @property
    def place(self) -> str:
        """Where it acts."""
        if not isinstance(self.strategy, LayerSchedule):
            return _place(self.strategy)
        before = self.strategy.before
        first = self.strategy.decoding_layer(N_LAYERS)
        parts = [_place(before)] if before is not None else []
        decoding = [f"while decoding from layer {first} on"] if first is not None else []
        layers = [layer for layer, _ in self.strategy.placed(N_LAYERS)]
        numbers = "every layer" if len(layers) == N_LAYERS else f"layer {', '.join(map(str, layers))}"
        inside = [f"after {numbers}"] if layers else []
        return "; ".join(parts + inside + decoding)

    @property
    def signals(self) -> frozenset[str]:
        """What it reads, wherever it acts."""
        if not isinstance(self.strategy, LayerSchedule):
            return self.strategy.requires
        parts = [act.requires for act in self.strategy.acts]
        parts += [event.requires for event in self.strategy.events]
        parts += [measure.required_signals() for measure in self.strategy.measures]
        every = {name for part in parts for name in part}
        return frozenset(every & (SIGNALS.keys() | LAYER_SIGNALS.keys() | LAYOUTS.keys()))

    @property
    def spoken_to(self) -> str:
        """Whether the prompt decides."""
        if not self.signals & SPOKEN:
            return "while decoding" if getattr(self.strategy, "decoding", None) is not None else "no"
        if isinstance(self.strategy, LayerSchedule) and "text" not in self.signals:
            rows = {event.rows for event in self.strategy.events}
            return "by its last token" if rows == {"last"} else "yes"
        return "yes"

    @property
    def cost(self) -> str:
        """Terms of the section on cost."""
        return " + ".join(re.findall(r"O\((?:[^()]|\([^()]*\))*\)", self.doc.sections["Cost"]))

    def meaning(self, keep: int) -> str:
        """Tokens in the last layer and on average."""
        if not self.strategy.uses_budget:
            return FREE
        left = self.strategy.tokens_per_layer(N_VISUAL, N_LAYERS, keep)[-1]
        about = "≈ " if self.strategy.own_counts else ""
        return f"{about}{left} / {about}{round(self.strategy.layer_average(N_VISUAL, N_LAYERS, keep), 2):g}"

    def matched(self, target: int) -> str:
        """The budget that processes so many tokens on average."""
        if not self.strategy.uses_budget:
            return "no budget"
        try:
            return str(matched_keep(self.strategy, target, N_VISUAL, N_LAYERS))
        except UnreachableBudgetError:
            return f"none below {self.strategy.layer_average(N_VISUAL, N_LAYERS, 1):.2f}"


def _place(strategy: AnyStrategy) -> str:
    merger = strategy.merger if isinstance(strategy, tp.Strategy) else None
    place = "encoder output" if merger is not None and "encoder" in merger.required_signals() else "projection space"
    inside = isinstance(strategy, tp.Strategy) and strategy.stage is not None
    return f"between encoder layers; {place}" if inside else place


def methods() -> list[Method]:
    """Strategies of this package: those in front of the language model first, by name."""
    found = []
    for entry in registry.entries("strategies"):
        if entry.target.startswith("tokenprune_strategies."):
            build = registry.load("strategies", entry.name)
            summary = inspect.getdoc(sys.modules[build.__module__]) or ""
            doc = Docstring.of(inspect.getdoc(build) or "")
            found.append(Method(entry.name, build, build(), doc, summary.splitlines()[0]))
    return sorted(found, key=lambda method: (method.inside, method.name))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([_row(*head), "|" + "---|" * len(head), *(_row(*row) for row in rows), ""])


def _average(method: Method, keep: int) -> float:
    return method.strategy.layer_average(N_VISUAL, N_LAYERS, keep)


def _link(method: Method) -> str:
    return f"[{method.name}](#{method.name})"


def _overview(method: Method) -> tuple[str, ...]:
    given = method.strategy.reads(SIGNALS) - method.strategy.requires
    reads = ", ".join(f"`{name}`" for name in sorted(method.signals))
    if given:
        reads += "; where given " + ", ".join(f"`{name}`" for name in sorted(given))
    acts = method.strategy.acts if isinstance(method.strategy, LayerSchedule) else (method.strategy,)
    merges = "yes" if any(isinstance(act, tp.Strategy) and act.merger is not None for act in acts) else "no"
    positions = "kept" if method.strategy.positions == "keep" else "renumbered"
    cost = markdown(method.cost)
    return _link(method), method.place, reads, method.spoken_to, merges, positions, method.meaning(64), cost


def _section(method: Method) -> str:
    lines = [f"### {method.name}", "", f"*{markdown(method.summary)}*", ""]
    for paragraph in method.doc.paragraphs:
        lines += [markdown(paragraph), ""]
    for title, text in method.doc.sections.items():
        link = f"([source](references.md#{method.name}))" if title == "Whole" else ""
        lines.append(f"- **{title}**: {markdown(text)} {link}".rstrip())
    lines += [""]
    if method.doc.parameters:
        rows = []
        for names, kind, meaning in method.doc.parameters:
            options = ", ".join(f"`{name}`" for name in names.split(", "))
            rows.append((options, markdown(kind), markdown(meaning)))
        lines += [_table(("option", "type", "meaning"), rows)]
    return "\n".join(lines)


def render() -> str:
    """Make the page."""
    found = methods()
    columns = ("strategy", "acts", "reads", "text", "merges", "positions", '"64"', "cost")
    uneven = [m for m in found if m.meaning(64) != "64 / 64" or any(_average(m, b) != b for b in BUDGETS)]
    uneven += [m for m in found if m.inside and m not in uneven]
    budgets = ("strategy", *(str(budget) for budget in BUDGETS))
    meanings = [(_link(m), *map(m.meaning, BUDGETS)) for m in sorted(uneven, key=lambda m: m.name)]
    others = [m for m in found if m not in uneven]
    meanings.append(("all others", *map(others[0].meaning, BUDGETS)))
    assert len({tuple(map(m.meaning, BUDGETS)) for m in others}) == 1
    matched = [(_link(m), *map(m.matched, BUDGETS)) for m in sorted(uneven, key=lambda m: m.name)]
    matched.append(("all others", *(str(budget) for budget in BUDGETS)))
    return "\n".join(
        [
            HEAD,
            "## Overview\n",
            _table(columns, [_overview(m) for m in found]),
            LEGEND,
            FRAMES,
            "## What a budget means\n",
            BUDGET,
            _table(budgets, meanings),
            AUTOPRUNE,
            MATCHED,
            _table(budgets, matched),
            EXAMPLE,
            "## Methods\n",
            *(_section(m) for m in found),
        ]
    )


def write(root: Path) -> None:
    """Write the pages into a checkout."""
    for path, text in ((PATH, render()), (REFERENCES, render_references())):
        (root / path).write_text(text.rstrip() + "\n", encoding="utf-8")


def render_references() -> str:
    """Make the page that shows the code of every reference."""
    sections = [WHOLE]
    for name in list_references():
        reference = load_reference(name)
        module = inspect.getmodule(reference.function)
        if module is not None and module.__name__.startswith("tokenprune_strategies."):
            source = inspect.getsource(module).strip()
            sections.append(f"## {name}\n\nOf [{name}](strategies.md#{name}).\n\n```python\n{source}\n```\n")
    return "\n".join(sections)


if __name__ == "__main__":
    write(Path(__file__).parents[2])
