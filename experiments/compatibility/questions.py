"""Count how often exactly the user's words count, for the processors of published checkpoints.

    python -m experiments.compatibility.questions measure "LLaVA-1.5=llava-hf/llava-1.5-7b-hf" "Mine=/models/mine"
    python -m experiments.compatibility.questions page        # puts the table into docs/models.md

A checkpoint is a folder or a name in the hub's cache; its processor, tokenizer and config are read, its weights are
not. Every prompt of `tokenprune.diagnostics.asked` is made by the processor itself and read as `attach` reads it: with
the processor, with its tokenizer, and with a tokenizer that has no template.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

from experiments.marked import put
from tokenprune.diagnostics.asked import KINDS
from tokenprune.diagnostics.questions import READERS, Reading, read_questions
from tokenprune.hf.adapters import adapter_for

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "questions.json"
PAGE = HERE.parents[1] / "docs" / "models.md"


def counted(readings: Iterable[Reading]) -> dict[str, dict[str, Any]]:
    """Kind -> how many prompts were read right, of how many, how many with a warning, and what was wrong."""
    found: dict[str, dict[str, Any]] = {}
    for reading in readings:
        cell = found.setdefault(reading.kind, {"right": 0, "of": 0, "warned": 0, "wrong": []})
        cell["of"] += 1
        cell["right"] += reading.wrong is None
        cell["warned"] += reading.warned is not None
        if reading.wrong is not None:
            cell["wrong"].append(f"{reading.name}, by the {reading.reader}: {reading.wrong}")
    return found


def measure(source: str) -> dict[str, dict[str, Any]]:
    """Read every prompt that a checkpoint's processor can make."""
    config = transformers.AutoConfig.from_pretrained(source, local_files_only=True)
    processor = transformers.AutoProcessor.from_pretrained(source, local_files_only=True)
    with torch.device("meta"):
        adapter = adapter_for(transformers.AutoModelForImageTextToText.from_config(config))
    return counted(read_questions(processor, adapter.image_token_ids, adapter.special_ids))


def table(report: Mapping[str, Any]) -> str:
    """One row a checkpoint, one column a kind of prompt."""
    lines = ["| processor | " + " | ".join(KINDS) + " |", "|---" * (len(KINDS) + 1) + "|"]
    for name, found in report["checkpoints"].items():
        cells = [_cell(found.get(kind)) for kind in KINDS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    about = report["environment"]
    return "\n".join([*lines, "", "Measured with " + ", ".join(f"{name} {about[name]}" for name in about) + "."])


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    return f"{found['right']} / {found['of']}" + (f" ({found['warned']} warn)" if found["warned"] else "")


def main() -> None:
    """Measure, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("checkpoints", nargs="+", help="NAME=FOLDER, or NAME=HUB_ID of one in the hub's cache")
    measuring.add_argument("--out", type=Path, default=RESULTS)
    commands.add_parser("page")
    given = parser.parse_args()
    if given.command == "page":
        put(PAGE, "questions", table(json.loads(RESULTS.read_text(encoding="utf-8"))))
        return
    environment = {
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "Python": f"{platform.python_version()} on {platform.machine()}",
    }
    report: dict[str, Any] = {"environment": environment, "readers": READERS, "checkpoints": {}}
    for name, _, source in (checkpoint.partition("=") for checkpoint in given.checkpoints):
        report["checkpoints"][name] = found = measure(source or name)
        print(name, {kind: _cell(cell) for kind, cell in found.items()}, flush=True)
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
