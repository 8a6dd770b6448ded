"""Where programs run: natively on a GPU, in Triton's interpreter where there is none."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

NEED_TRITON = ("programs", "rotary", "rounds", "shortening", "spoken", "subclasses")

collect_ignore_glob = [] if find_spec("triton") else [f"test_{name}.py" for name in NEED_TRITON]


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
