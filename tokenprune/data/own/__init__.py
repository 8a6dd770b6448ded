"""Questions and pictures of one's own: files in usual layouts, columns by name, benchmarks from local copies."""

from __future__ import annotations

from tokenprune.data.own.benchmarks import BENCHMARKS, Benchmark, find_data, way_to
from tokenprune.data.own.columns import FIELDS, parse_map
from tokenprune.data.own.load import OwnData, load_data
from tokenprune.data.own.question import OwnQuestion, Prompts
from tokenprune.data.own.rows import Hub

__all__ = [
    "BENCHMARKS",
    "FIELDS",
    "Benchmark",
    "Hub",
    "OwnData",
    "OwnQuestion",
    "Prompts",
    "find_data",
    "load_data",
    "parse_map",
    "way_to",
]
