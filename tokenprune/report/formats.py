"""The page of files, ``docs/results-format.md``, made from the schemas that every read is checked against.

``python -m tokenprune.report.formats`` writes it (from a checkout); a test fails when it is stale.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tokenprune.core.description import markdown
from tokenprune.results.schema import schema

__all__ = ["PATH", "formats"]

PATH: Final = "docs/results-format.md"

_FILES: Final = {
    "results": "`results.jsonl`: one answer a line",
    "summary": "`summary.json`: the table, and all that is not in it",
    "strategies": "`strategies.json`: what each label stands for now",
    "config": "`config.json`: the provenance record",
}

_EXAMPLE: Final = """
Reading them needs nothing of this package:

```python
import json

line = '{"strategy": "mi-pruner", "keep": 64, "draw": 0, "sample": "q1", "task": "mine", "correct": true}'
answers = [json.loads(text) for text in [line]]  # Path("results/results.jsonl").read_text().splitlines()
right = [answer["correct"] for answer in answers if (answer["strategy"], answer["keep"]) == ("mi-pruner", 64)]
assert sum(right) / len(right) == 1
```

or, where pandas is installed, `pandas.read_json("results/results.jsonl", lines=True)`, and `tokenprune report results
--formats parquet` for the table. A label that changed keeps its earlier answers in the file: take those whose
`identity` is the one in `strategies.json`, as `tokenprune.evaluation.compare.answers_in(folder)` does.
"""


def formats() -> str:
    """The page as Markdown."""
    return "\n".join(_lines()).rstrip() + "\n"


def _lines() -> Iterator[str]:
    yield "<!-- made by python -m tokenprune.report.formats; do not edit -->\n"
    yield "# What is in the files\n"
    yield (
        "Fields of what `compare` writes, as the JSON schemas in `tokenprune/results/schemas` say; every read is "
        "checked against them, and a file may hold fields that are not listed here. What is promised about these "
        "files: [Numbers one can trust](numbers.md)."
    )
    yield _EXAMPLE
    for name, title in _FILES.items():
        document = schema(name)
        yield f"## {title}\n"
        values = document.get("additionalProperties")
        if isinstance(values, Mapping):
            yield "By label:\n"
            document = values  # type: ignore[assignment]
        yield "| field | type | | meaning |"
        yield "|---|---|---|---|"
        yield from _fields(document, "")
        yield ""


def _fields(document: Mapping[str, Any], above: str) -> Iterator[str]:
    needed = set(document.get("required", ()))
    for name, field in document.get("properties", {}).items():
        held = "" if name in needed else "optional"
        yield f"| `{above}{name}` | {_type(field)} | {held} | {markdown(field.get('description', ''))} |"
        inner = field.get("items", field)
        if isinstance(inner, Mapping) and inner.get("properties"):
            yield from _fields(inner, f"{above}{name}{'[].' if 'items' in field else '.'}")
        for other in sorted(set(inner.get("required", ())) - set(inner.get("properties", {}))):
            yield f"| `{above}{name}.{other}` | any | | |"
    if not above:
        for other in sorted(needed - set(document.get("properties", {}))):
            yield f"| `{other}` | any | | |"


def _type(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    kind = field.get("type", "any")
    told = " or ".join(kind) if isinstance(kind, list) else str(kind)
    if "items" in field:
        told += f" of {_type(field['items'])}"
    ends = [f"{sign} {field[name]}" for name, sign in (("minimum", "≥"), ("maximum", "≤")) if name in field]
    return f"{told} {', '.join(ends)}".strip()


if __name__ == "__main__":
    Path(PATH).write_text(formats(), encoding="utf-8")
    sys.stdout.write(f"{PATH}\n")
