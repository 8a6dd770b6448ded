"""What a search found: the verdict, the frontier of accuracy against tokens, what mattered, and all that was tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tokenprune.report.charts import Chart, svg
from tokenprune.report.looks import COLORS
from tokenprune.report.pages import drawn, render, share
from tokenprune.results.store import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["scatter", "told", "write_report"]


def told(summary: Mapping[str, Any]) -> Iterator[str]:
    """Lines for a terminal."""
    yield summary["words"]
    for row in summary["verdict"]["rows"]:
        tokens = f"{row['tokens']:7.1f} tokens" if row["keep"] else "    all tokens"
        yield f"  {row['label']:24} {tokens}  {row['accuracy']:6.1%}  [{row['low']:.1%}, {row['high']:.1%}]"
    if summary["importances"]:
        most = [f"{name} {value:.0%}" for name, value in list(summary["importances"].items())[:5]]
        yield f"What mattered: {', '.join(most)}"
    yield f"Chosen, {summary['candidate']['label']}: {_flow(summary['candidate']['strategy'])}"


def _flow(value: Any) -> str:
    """One line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("...\n").strip()


def scatter(trials: Sequence[Mapping[str, Any]], front: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Accuracy on training questions against tokens: a mark a composition, a line along those that none beats."""
    complete = [trial for trial in trials if trial["state"] == "complete"]
    if not complete:
        return None

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import PercentFormatter

        axes.scatter([t["tokens"] for t in complete], [t["accuracy"] for t in complete], s=14, color=COLORS[6])
        best = ([t["tokens"] for t in front], [t["accuracy"] for t in front])
        axes.plot(*best, color=COLORS[0], marker="o", markersize=4, linewidth=1.4)
        axes.set_xlabel("visual tokens that layers process on average")
        axes.set_ylabel("accuracy, training questions")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))

    return Chart("Accuracy against tokens", draw)


def write_report(out: Path, summary: Mapping[str, Any]) -> Path:
    """Write report.html beside the results."""
    trials = sorted(summary["trials"], key=lambda t: (t["state"] != "complete", -(t["accuracy"] or 0)))
    page = render(
        "tune.html",
        title="Which composition keeps the answers?",
        environment=summary["environment"],
        summary=summary,
        drawing=drawn(svg(scatter(summary["trials"], summary["front"]))),
        rows=[(row, share(row["accuracy"], row["low"], row["high"])) for row in summary["verdict"]["rows"]],
        validation=[(row, share(row["accuracy"], row["low"], row["high"])) for row in summary["validation"]],
        chosen=_flow(summary["candidate"]["strategy"]),
        trials=[(trial, _flow(trial["strategy"])) for trial in trials],
    )
    path = out / "report.html"
    write_atomically(path, page)
    return path
