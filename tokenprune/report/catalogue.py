"""The page of parts, ``docs/parts.md``, made from what is registered and what the docstrings say.

``python -m tokenprune.report.catalogue`` writes it (from a checkout); a test fails when it is stale.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tokenprune.core.description import Described, described, markdown
from tokenprune.core.features import SIGNALS
from tokenprune.core.registry import registry
from tokenprune.core.schedule import LAYER_SIGNALS

__all__ = ["PATH", "catalogue"]

PATH: Final = "docs/parts.md"

_KINDS: Final = {
    "scorers": "How much does each visual token matter? (B, N), higher is better.",
    "aggregators": "From a table of visual by text tokens to one number a visual token.",
    "normalizers": "From similarities to log conditional probabilities.",
    "priors": "How probable is each visual token before the text is known?",
    "objectives": "What is a set of tokens worth? As gains given the picks so far.",
    "pairwise": "How alike are two visual tokens? What an objective charges for.",
    "selectors": "Which tokens stay?",
    "budgets": "How many of the picks are worth keeping? For `adaptive`, and `Budget(adaptive=...)`.",
    "mergers": "What happens to the tokens that were not kept?",
    "metrics": "Is an answer right?",
    "adapters": "How encoder outputs of a model family fill placeholders, by `model_type`.",
}


def catalogue() -> str:
    """The page as Markdown: parts that ship with this distribution, kind by kind."""
    return "\n".join(_lines()).rstrip() + "\n"


def _lines() -> Iterator[str]:
    yield "<!-- made by python -m tokenprune.report.catalogue; do not edit -->\n"
    yield "# Parts\n"
    yield (
        "Everything that ships, by name. `tokenprune list KIND NAME` prints the whole docstring; "
        "[one example of each kind](write-a-part.md) shows how to add one. *Reads* are signals with default options; "
        "*says of itself* is what the tests hold a part to and selectors rely on.\n"
    )
    for kind, question in _KINDS.items():
        ours = [described(entry) for entry in registry.entries(kind) if entry.target.startswith("tokenprune.")]
        yield f"## {kind.capitalize()}\n"
        yield f"{question}\n"
        yield "| name | what it is | options | reads | says of itself |"
        yield "|---|---|---|---|---|"
        for part in ours:
            yield _row(part)
        yield ""
    yield "## Signals\n"
    yield (
        "What parts may read. A strategy's signals are the union over its parts, and nothing else is collected. "
        "Shapes: b units, n visual tokens, t text tokens.\n"
    )
    yield "| name | shape | meaning |"
    yield "|---|---|---|"
    for signal in SIGNALS.values():
        yield f"| `{signal.name}` | {signal.shape} | {markdown(signal.meaning)} |"
    yield ""
    yield (
        "Between layers of the language model there are also " + ", ".join(f"`{name}`" for name in LAYER_SIGNALS) + "."
    )


def _row(part: Described) -> str:
    options = "<br>".join(f"`{option}`" for option in part.options).replace("|", "\\|")
    reads = ", ".join(f"`{name}`" for name in part.signals)
    return f"| `{part.entry.name}` | {markdown(part.about)} | {options} | {reads} | {', '.join(part.properties)} |"


if __name__ == "__main__":
    Path(PATH).write_text(catalogue(), encoding="utf-8")
    sys.stdout.write(f"{PATH}\n")
