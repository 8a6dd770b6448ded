"""Set-up that all tests share: hypothesis settings and single-threaded torch."""

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
