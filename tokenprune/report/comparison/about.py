"""What a row of a table is: in a sentence, with its options, who provides it, and where to read more."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any, Final

from tokenprune.core.description import described
from tokenprune.core.errors import TokenPruneError
from tokenprune.core.registry import Entry, all_entries

__all__ = ["About", "about", "is_own"]

_SCALE: Final = {
    "full": "Nothing is pruned.",
    "wrong image": "Somebody else's picture, nothing pruned: what the questions' words give away.",
    "oracle": "Tokens on the queried objects first, which only the questions' maker knows: a scale, no upper bound.",
}


@dataclass(frozen=True)
class About:
    """What a reader may ask of a row.

    Attributes
    ----------
    label : str
    text : str
        A sentence; empty where nobody wrote one.
    options : str
        The composition with all its options.
    provider : str
        Distributions that its parts came with.
    url : str
        A page about it; empty where none is known.
    """

    label: str
    text: str
    options: str
    provider: str
    url: str


def about(labels: Iterable[str], stands_for: Mapping[str, Mapping[str, Any]]) -> list[About]:
    """Describe rows.

    Parameters
    ----------
    labels : iterable of str
    stands_for : mapping
        ``strategies.json``: what each label stood for.
    """
    return [_about(label, stands_for.get(label, {})) for label in labels]


def _about(label: str, record: Mapping[str, Any]) -> About:
    options = str(record.get("strategy", ""))
    provider = ", ".join(map(str, record.get("providers", ())))
    if label in _SCALE:
        return About(label, _SCALE[label], "", "", "")
    entry = _entries().get(label.partition(":")[0])
    if entry is None:
        return About(label, "", options, provider, "")
    try:
        text = _plain(described(entry).about)
    except TokenPruneError:
        text = ""  # whoever provides it may have gone since
    return About(label, text, options, provider or entry.origin, _url(entry))


def is_own(label: str) -> bool:
    """Whether a row is somebody's own: not one of the strategies that ship, whatever their options, nor a scale."""
    entry = _entries().get(label.partition(":")[0])
    return label not in _SCALE and (entry is None or not entry.ships)


def _entries() -> dict[str, Entry]:
    return {entry.name: entry for entry in all_entries(["strategies"])}


def _url(entry: Entry) -> str:
    if entry.ships:
        site = _links("tokenprune-vlm").get("documentation", "")
        return f"{site.rstrip('/')}/strategies/#{entry.name}" if site else ""
    links = _links(entry.origin.partition(" ")[0])
    found = next((links[name] for name in ("documentation", "homepage", "repository", "source") if name in links), "")
    return found if found.startswith(("https://", "http://")) else ""


@cache
def _links(distribution: str) -> dict[str, str]:
    """Addresses that a distribution tells of itself, by what they are."""
    try:
        told = metadata.metadata(distribution).get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return {}
    pairs = (line.partition(",") for line in told)
    return {name.strip().lower(): url.strip() for name, _, url in pairs}


def _plain(text: str) -> str:
    """A docstring's sentence without its marks."""
    return re.sub(r":\w+:`~?([^`]+)`", lambda role: role[1].rpartition(".")[2], text).replace("``", "")
