"""Bars of the time to the first token, by what takes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from tokenprune.core.errors import ConfigError
from tokenprune.report.figures.canvas import canvas, legend_below

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PARTS", "bars", "speed_rows"]

PARTS: Final = {
    "encode_ms": ("vision encoder", "#0b4f7d"),
    "select_ms": ("selection", "#d55e00"),
    "layout_ms": ("layout", "#8a8d96"),
    "prefill_ms": ("prefill", "#7cc8a8"),
}
"""What bench times apart: title and colour; neighbours differ in brightness, for whoever prints in grey."""


def speed_rows(
    rows: Sequence[Mapping[str, Any]], batch: int | None, keep: int | None, ways: Sequence[str] | None
) -> list[Mapping[str, Any]]:
    """Rows of one batch size and one budget that were timed: unpruned first, then fastest first.

    Parameters
    ----------
    rows : sequence of mapping
        Of ``bench``.
    batch, keep : int or None
        The smallest by default.
    ways : sequence of str or None
        All by default.

    Raises
    ------
    ConfigError
        Nothing was timed there.
    """
    timed = [row for row in rows if row.get("first_token_ms")]
    batches, keeps = ({row[name] for row in timed if row[name]} for name in ("batch", "keep"))
    if not timed or not keeps:
        raise ConfigError("these rows hold no first_token_ms of a pruned model; give what bench wrote")
    at_batch, at_keep = batch or min(batches), keep or min(keeps)
    found = [
        row
        for row in timed
        if row["batch"] == at_batch and row["keep"] in (0, at_keep) and (ways is None or row["way"] in ways)
    ]
    if not found:
        raise ConfigError(
            f"nothing was timed at batch {at_batch}, {at_keep} tokens, way {ways or 'any'}; there are batches "
            f"{sorted(batches)}, budgets {sorted(keeps)}, ways {sorted({row['way'] for row in timed})}"
        )
    return sorted(found, key=lambda row: (row["keep"] > 0, row["first_token_ms"]["median"]))


@contextmanager
def bars(rows: Sequence[Mapping[str, Any]], width: float) -> Iterator[Figure]:
    """A bar a row: the parts one after another, the rest of the time to the first token, and its spread.

    Where parts that run at once add up to more than the whole, they are drawn as their shares of it.

    Parameters
    ----------
    rows : sequence of mapping
        As :func:`speed_rows` returns them.
    width : float
        Inches.
    """
    several = len({row["way"] for row in rows}) > 1
    with canvas(width, 0.62 + 0.165 * len(rows)) as figure:
        axes = figure.subplots()
        handles: dict[str, Any] = {}
        for place, row in enumerate(rows):
            whole = row["first_token_ms"]["median"]
            parts = {name: row[name]["median"] for name in PARTS if row.get(name)}
            scale = min(1.0, whole / sum(parts.values())) if parts else 1.0
            left = 0.0
            for name, ms in parts.items():
                title, color = PARTS[name]
                bar = axes.barh(place, ms * scale, 0.68, left, color=color)
                handles.setdefault(title, bar)
                left += ms * scale
            rest = axes.barh(place, max(0.0, whole - left), 0.68, left, color="#d9dbe0")
            handles.setdefault("rest", rest)
            axes.errorbar(
                [whole],
                [place],
                xerr=[[0], [row["first_token_ms"]["std"]]],
                color="#1c1d21",
                linewidth=0.6,
                capsize=1.2,
            )
            axes.text(whole + row["first_token_ms"]["std"], place, f"  {whole:.1f}", va="center", fontsize=6)
        labels = [row["strategy"] + (f", {row['way']}" if several else "") for row in rows]
        axes.set_yticks(range(len(rows)), labels)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.1)
        axes.set_xlabel("ms to the first token")
        kept = next(row["keep"] for row in rows if row["keep"])
        axes.set_title(f"{kept} of {rows[0]['visual_tokens']} tokens, batch {rows[0]['batch']}", loc="left")
        order = [title for title, _ in PARTS.values() if title in handles] + ["rest"]
        legend_below(figure, [handles[title] for title in order], order, width)
        yield figure
