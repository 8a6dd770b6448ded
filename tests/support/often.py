"""How many examples of a law are tried: all of them every night, half of them where somebody waits."""

from __future__ import annotations

import os

LEAST = 25
"""Fewer than so many are not halved."""


def often(count: int) -> int:
    """Examples to try of a law whose examples take long: ``count`` where ``NIGHTLY`` is set, else half of them."""
    return count if os.environ.get("NIGHTLY") else min(count, max(LEAST, count // 2))
