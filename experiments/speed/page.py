r"""What docs/results/speed.md says of rows that were measured: tables, the command of each, pictures.

    python -m experiments.speed.page experiments/speed/results/published.json \
        --decoding experiments/speed/results/decoding.json

The first file is what ``published.py`` wrote, the second what ``decoding.py`` did.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from experiments.marked import put
from experiments.speed.published import PARTS, Part, command

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results" / "speed.md"
IMAGES = ROOT / "docs" / "images" / "speed"

TITLES = {
    "llava-1.5-7b-image": "LLaVA-1.5-7B, one picture of 576 tokens",
    "qwen3-vl-8b-large-image": "Qwen3-VL-8B, a picture of 1,280 x 960 pixels",
    "qwen3-vl-8b-image": "Qwen3-VL-8B, a picture of 576 x 576 pixels",
    "qwen3-vl-8b-long-video": "Qwen3-VL-8B, 64 frames; kept of each pair's 256",
    "qwen2.5-vl-7b-large-image": "Qwen2.5-VL-7B, a picture of 60 x 80 patches",
    "video-llava-7b-video": "Video-LLaVA-7B, eight frames",
}

DRAWN = ("llava-1.5-7b-image", "qwen3-vl-8b-large-image")

HEAD = (
    "| | kept | encode | select | prefill | host | first token | parts add up to | of stock | of compiled, all kept |"
)


def median(row: Mapping[str, Any], name: str) -> float | None:
    """Median of a time, None where it was not taken."""
    found = row.get(name)
    return None if found is None else float(found["median"])


def told(value: float | None, digits: int = 1) -> str:
    """A number for a cell."""
    return "-" if value is None else f"{value:,.{digits}f}"


def named(row: Mapping[str, Any]) -> str:
    """What a row is of."""
    if row["way"] == "plain":
        return "stock" if not row["keep"] else f"{row['strategy']}, attach"
    return "compiled" if not row["keep"] else f"{row['strategy']}, compiled"


def ratio(row: Mapping[str, Any], other: Mapping[str, Any] | None) -> str:
    """How many times the first token comes earlier than another row's."""
    if other is None or other is row or row["way"] == "plain" or other.get("refused"):
        return ""
    return f"{other['first_token_ms']['median'] / row['first_token_ms']['median']:.1f} x"


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A part's rows, in the order in which they were measured."""
    whole = {row["way"]: row for row in rows if not row["keep"]}
    lines = [HEAD, "|---|" + "---:|" * (HEAD.count("|") - 2)]
    for row in rows:
        kept = f"{row['keep'] or 'all'}"
        if "refused" in row:
            lines.append(f"| {named(row)} | {kept} | {row['refused'].split('. ')[0]} |" + " |" * 7)
            continue
        first = row["first_token_ms"]["median"]
        parts = row.get("parts_ms")
        share = "-" if parts is None else f"{100 * sum(part['median'] for part in parts.values()) / first:.1f} %"
        cells = [told(median(row, f"{name}_ms")) for name in ("encode", "select", "prefill")]
        cells += [told(row.get("host_ms")), told(first), share]
        compiled = whole.get("compiled")
        cells += [ratio(row, whole.get("plain")), ratio(row, compiled if row["keep"] else None)]
        lines.append(f"| {named(row)} | {kept} | " + " | ".join(cells) + " |")
    return lines


def said(found: Mapping[str, Any], part: Part) -> str:
    """A part: its title, command and table."""
    shown = ["```console", command(part, found["repeats"], found["warm"]), "```", ""]
    rows = [row for row in found["parts"][part.name] if row.get("first_token_ms") or "refused" in row]
    visual = next((row["visual_tokens"] for row in rows if "visual_tokens" in row), None)
    title = f"**{TITLES[part.name]}** ({visual:,} visual tokens)" if visual else f"**{TITLES[part.name]}**"
    return "\n".join([title, "", *shown, *table(rows)])


def text(found: Mapping[str, Any]) -> str:
    """What stands between the marks."""
    machine = found["machine"]
    about = (
        f"One {machine['device']}, Python {machine['python']}, torch {machine['torch']}, transformers "
        f"{machine['transformers']}; medians of {found['repeats']} calls after {found['warm']}, milliseconds."
    )
    missing = [TITLES[part.name] for part in PARTS if part.name not in found["parts"]]
    parts = [said(found, part) for part in PARTS if part.name in found["parts"]]
    if missing:
        parts.append("Not measured in this run: " + "; ".join(missing) + ".")
    return "\n\n".join([about, *parts])


def decoding(found: Mapping[str, Any]) -> str:
    """Tokens a second, a line for each batch and way."""
    asked = found["asked"]
    about = (
        f"One {asked['device']}, torch {asked['torch']}; {asked['layers']} layers of the language model, "
        f"{asked['new']} tokens after the first, medians of {asked['repeats']} answers, milliseconds."
    )
    lines = [
        "| prompts | way | ms a token, all | 64 kept | tokens a second, all | 64 kept | gain |",
        "|---:|---|" + "---:|" * 5,
    ]
    rows = {(row["batch"], row["way"], row["keep"]): row for row in found["rows"]}
    for batch, way in dict.fromkeys((row["batch"], row["way"]) for row in found["rows"]):
        both = [rows.get((batch, way, keep), {}) for keep in (0, asked["keep"])]
        times = [row.get("token_ms") for row in both]
        gain = f"{times[0] / times[1]:.2f} x" if times[0] and times[1] else "-"
        cells = [told(time, 2) for time in times] + [told(row.get("tokens_per_s"), 0) for row in both]
        lines.append(f"| {batch} | {'stock' if way == 'plain' else way} | " + " | ".join(cells) + f" | {gain} |")
    return "\n".join([about, "", *lines])


def draw(found: Mapping[str, Any]) -> None:
    """Bars of some parts."""
    from tokenprune.report.figures.canvas import checked_width, write_figure
    from tokenprune.report.figures.speed import bars, speed_rows

    for name in DRAWN:
        if name in found["parts"]:
            rows = speed_rows(found["parts"][name], None, 64, None)
            write_figure(partial(bars, rows, checked_width("two")), IMAGES / name, ["png"])


def main() -> None:
    """Write the page and its pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--decoding", type=Path)
    options = parser.parse_args()
    found = json.loads(options.rows.read_text(encoding="utf-8"))
    put(PAGE, "published", text(found))
    draw(found)
    if options.decoding is not None:
        put(PAGE, "decoding", decoding(json.loads(options.decoding.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
