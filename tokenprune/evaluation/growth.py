"""More questions in a folder that has answers to fewer: those that stay valid are kept, and the rest is asked.

A run with more questions is another run: its record differs, and lines carry its name. If nothing but the number of
questions differs, an answer to a question that both ask is the answer that the larger run would have got: its line is
given the larger run's name. Two kinds of lines go: those to questions that the larger run does not ask (painted scenes
are balanced anew), and answers about a wrong image where another picture now stands in. What then lies in the folder
is what the larger run would have written so far.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from tokenprune.core.errors import ConfigError
from tokenprune.data.items import Item
from tokenprune.evaluation.conditions import WRONG_IMAGE
from tokenprune.evaluation.runner import following
from tokenprune.results.files import write_atomically
from tokenprune.results.lines import ANSWERS, parsed, read_results
from tokenprune.results.provenance import asked_of, differences, short
from tokenprune.results.team import Team

__all__ = ["GROWN", "grow"]

GROWN: Final = "results.grown.jsonl"
"""Lines of the larger run, while the folder changes hands."""

_MAY_DIFFER: Final = ("asked.limit", "questions.")

_PATIENCE: Final = 900.0
"""Seconds in which the process that leads is expected: it may load the model more slowly than the others."""

_PAUSE: Final = 0.1
"""Seconds between two looks whether it has."""


def grow(
    folder: Path,
    record: Mapping[str, Any],
    items: Sequence[Item],
    fewer: Callable[[int], Sequence[Item]],
    team: Team | None = None,
) -> tuple[int, int] | None:
    """Let a folder that holds a smaller run go on as a larger one.

    Whatever ends the program meanwhile, the folder is the smaller run's or the larger one's: a second call finishes
    what was begun.

    Parameters
    ----------
    folder : Path
    record : mapping
        Provenance of the larger run.
    items : sequence of Item
        Its questions.
    fewer : callable
        From a limit to the questions that it chooses.
    team : Team, optional
        Of several processes that fill the folder the one that leads lets it grow; the others wait until it has.

    Returns
    -------
    (int, int) or None
        Answers that stay and that go; None where the folder holds no smaller run of the same kind, or where this
        process does not lead.

    Raises
    ------
    ConfigError
        Processes of a launcher that was stopped left answers that nobody has brought together; the process that leads
        does not come.
    """
    file = folder / "config.json"
    if not file.exists():
        return None
    if team is not None and not team.leads:
        _wait(folder, file, _plain(record), items, fewer)
        return None
    try:
        with FileLock(folder / ".lock", timeout=0):
            return _grow(folder, file, record, items, fewer)
    except Timeout:
        return None  # whoever goes on here is told that it is in use


def _grow(
    folder: Path,
    file: Path,
    record: Mapping[str, Any],
    items: Sequence[Item],
    fewer: Callable[[int], Sequence[Item]],
) -> tuple[int, int] | None:
    stored, wanted = parsed(file.read_bytes(), repr(str(file))), _plain(record)
    begun = folder / GROWN
    if stored == wanted:
        if begun.exists():
            os.replace(begun, folder / "results.jsonl")
        return None
    before = _smaller(stored, wanted, items, fewer)
    if before is None:
        return None
    if any((folder / "ranks").glob("*/results.jsonl")):
        limit = stored["asked"]["limit"]
        raise ConfigError(
            f"{str(folder)!r} holds answers that processes of a launcher have not brought together; let the command "
            f"with --limit {limit} come to its end, then ask more questions"
        )
    both = {item.id for item in before} & {item.id for item in items}
    lines = read_results(folder, ANSWERS)
    shown_then, shown_now = (_strangers(asked) for asked in (before, items))
    kept = [
        {**line, "run": short(wanted)}
        for line in lines
        if line["sample"] in both
        and (line["strategy"] != WRONG_IMAGE or shown_then[line["image"]] == shown_now[line["image"]])
    ]
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in kept)
    write_atomically(begun, text)
    write_atomically(file, json.dumps(wanted, indent=1) + "\n")
    os.replace(begun, folder / "results.jsonl")
    return len(kept), len(lines) - len(kept)


def _smaller(
    stored: Mapping[str, Any],
    wanted: Mapping[str, Any],
    items: Sequence[Item],
    fewer: Callable[[int], Sequence[Item]],
) -> Sequence[Item] | None:
    """Questions of a run that differs from a larger one in nothing but their number; None if it differs otherwise."""
    changed = [told.partition(":")[0] for told in differences(stored, wanted)]
    limit = stored.get("asked", {}).get("limit")
    larger = stored.get("questions", {}).get("n", 0) < len(items)
    if not larger or limit is None or not all(name.startswith(_MAY_DIFFER) for name in changed):
        return None
    before = fewer(limit)
    both = {item.id for item in before} & {item.id for item in items}
    if asked_of(before) != stored["questions"] or not both:
        return None
    same = asked_of([i for i in before if i.id in both]) == asked_of([i for i in items if i.id in both])
    return before if same else None


def _wait(
    folder: Path,
    file: Path,
    wanted: Mapping[str, Any],
    items: Sequence[Item],
    fewer: Callable[[int], Sequence[Item]],
) -> None:
    """Return when the process that leads has let a folder grow, at once where it is not going to."""
    stored = parsed(file.read_bytes(), repr(str(file)))
    if stored != wanted and _smaller(stored, wanted, items, fewer) is None:
        return
    end = time.monotonic() + _PATIENCE
    # lines change hands last: whoever read them earlier would go on in the middle of others
    while parsed(file.read_bytes(), repr(str(file))) != wanted or (folder / GROWN).exists():
        if time.monotonic() > end:
            raise ConfigError(
                f"{str(folder)!r} holds a run with fewer questions, and the first process has not let it go on with "
                f"{len(items)} for {_PATIENCE:.0f} seconds; run the command once without a launcher"
            )
        time.sleep(_PAUSE)


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(record)))
    return plain


def _strangers(items: Sequence[Item]) -> dict[str, str | None]:
    """The picture that stands in the place of each as a wrong one."""
    return {image: None if item is None else item.image_id for image, item in following(items).items()}
