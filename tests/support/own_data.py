"""Tables of questions with pictures, written as people write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tokenprune.data.images import picture

Write = Callable[..., Path]


@pytest.fixture
def table(tmp_path: Path) -> Write:
    """Write rows to a file of JSON lines beside three pictures, a.png, b.png and c.png; return the file."""

    def write(rows: Sequence[Mapping[str, Any] | str], name: str = "mine.jsonl") -> Path:
        for seed, letter in enumerate("abc"):
            picture(seed).save(tmp_path / f"{letter}.png")
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / name

    return write
