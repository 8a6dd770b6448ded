"""A row that broke: what is told of it, and where the whole story is."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenprune.results.files import write_atomically
from tokenprune.results.fingerprint import providers

__all__ = ["Failure", "failure", "told", "write_failures"]

FILE = "failures.txt"


@dataclass(frozen=True)
class Failure:
    """Why a row has no numbers.

    Attributes
    ----------
    strategy : str
    keep : int
    reason : str
        One line.
    provider : str
        Distributions that its parts came with.
    story : str
        The traceback; empty where there is none to tell.
    """

    strategy: str
    keep: int
    reason: str
    provider: str = ""
    story: str = field(default="", repr=False)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"strategy": self.strategy, "keep": self.keep, "reason": self.reason, "provider": self.provider}


def failure(label: str, keep: int, strategy: object, error: BaseException) -> Failure:
    """Make one from what was raised."""
    first = (str(error).strip().splitlines() or ["no message"])[0]
    story = "".join(traceback.format_exception(error))
    own, *others = providers(strategy) or [""]
    # what is composed of our parts and theirs fails in theirs, as far as anybody can tell
    whose = ", ".join(others or [own]) if own.startswith("tokenprune-vlm ") else ", ".join([own, *others])
    return Failure(label, keep, f"{type(error).__name__}: {first}", whose, story)


def told(failed: Sequence[Failure], out: Path) -> list[str]:
    """Two lines a strategy: what failed and why, and who provides it; where the tracebacks are."""
    said = []
    for label in dict.fromkeys(one.strategy for one in failed):
        mine = [one for one in failed if one.strategy == label]
        budgets = ", ".join(str(one.keep) for one in mine if one.keep)
        said.append(f"{label}{f' at {budgets}' if budgets else ''} FAILED: {mine[0].reason}")
        said.append(f"  provided by {mine[0].provider or 'unknown'}; traceback in {out / FILE}")
    return said


def write_failures(out: Path, failed: Sequence[Failure]) -> None:
    """Write all tracebacks into ``failures.txt``; take the file away where nothing failed."""
    if failed:
        heads = (f"{one.strategy} at {one.keep} ({one.provider})\n{one.story or one.reason}" for one in failed)
        write_atomically(out / FILE, "\n\n".join(heads) + "\n")
    else:
        (out / FILE).unlink(missing_ok=True)
