"""One style for figures in a paper: sizes of columns, letters that can be read there, files that can be sent in."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokenprune.core.errors import ConfigError, closest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "WIDTHS", "canvas", "checked_width", "legend_below", "write_figure"]

WIDTHS: Final = {"one": 3.25, "two": 6.75}
"""Inches of one and of two columns."""

FORMATS: Final = ("pdf", "png")

SETTINGS: Final = {
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "pdf.fonttype": 42,  # letters as letters: publishers refuse type 3
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
}


def checked_width(name: str) -> float:
    """Inches of ``one`` or ``two`` columns.

    Raises
    ------
    ConfigError
        Any other name.
    """
    if name not in WIDTHS:
        raise ConfigError(f"--columns: no {name!r}; {closest(name, WIDTHS)}")
    return WIDTHS[name]


@contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """An empty figure of so many inches; settings hold while it is used, and matplotlib's own stay as they are."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield Figure(figsize=(width, height), layout="constrained")


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str], width: float) -> None:
    """A legend under everything, in as many columns as fit."""
    longest = max((len(label) for label in labels), default=1)
    columns = max(1, int(width / (0.055 * longest + 0.38)))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(columns, len(labels)), frameon=False, handlelength=1.8
    )


def write_figure(draw: Callable[[], Any], path: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a figure, each file whole or not at all; the same numbers give the same bytes.

    Parameters
    ----------
    draw : callable
        A context in which the figure can be saved, as :func:`canvas` and what is built on it return.
    path : Path
        Without an ending.
    formats : sequence of str, default ("pdf", "png")

    Raises
    ------
    ConfigError
        A format that is not known, or no such folder.
    """
    for one in formats:
        if one not in FORMATS:
            raise ConfigError(f"--formats: no {one!r}; {closest(one, FORMATS)}")
    if not path.parent.is_dir():
        raise ConfigError(f"--out {str(path)!r}: its folder does not exist")
    written = []
    with draw() as figure:
        for kind in formats:
            out = io.BytesIO()
            metadata = (
                {"CreationDate": None, "Producer": None, "Creator": None} if kind == "pdf" else {"Software": None}
            )
            figure.savefig(out, format=kind, dpi=300, metadata=metadata)
            file = path.with_name(f"{path.name}.{kind}")
            part = file.with_name(file.name + ".part")
            part.write_bytes(out.getvalue())
            os.replace(part, file)
            written.append(file)
    return written
