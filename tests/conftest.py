"""Set-up that all tests share: hypothesis settings, single-threaded torch, and programs for a GPU without one."""

from __future__ import annotations

import os

import torch
from hypothesis import settings

settings.register_profile(
    "tokenprune",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    max_examples=50,
    print_blob=True,
)
settings.load_profile("tokenprune")

torch.set_num_threads(1)

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, and transformers may import it

pytest_plugins = ["tests.support.llava", "tests.support.explorer"]
"""Fixtures of every test; nothing else defines any that a second file needs."""
