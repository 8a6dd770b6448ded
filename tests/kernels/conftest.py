"""Where programs run: natively on a GPU, in Triton's interpreter where there is none."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

collect_ignore_glob = (
    []
    if find_spec("triton")
    else ["test_programs.py", "test_rotary.py", "test_shortening.py", "test_spoken.py", "test_subclasses.py"]
)


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
