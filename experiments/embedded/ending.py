"""How a training ends: told to stop or out of time, it is saved, measured and closed; and what is saved is whole."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file

__all__ = ["Training", "train", "write_folder", "write_tensors", "write_text"]

SHARDS = 2


class Training(Protocol):
    """What trains until its time is over."""

    def run(self) -> None:
        """Train."""

    def save(self) -> None:
        """Write what the next call starts from."""

    def check(self) -> None:
        """Measure on validation scenes."""

    def test(self) -> None:
        """Measure on scenes that nothing was chosen by, where that was asked for."""

    def close(self) -> None:
        """End the workers."""


def train(training: Training, log: Callable[[str], None]) -> None:
    """Train, save, measure, and save with the measurements; a signal to end ends the training and not the rest.

    It is saved before it is measured, so that a limit that comes too early costs numbers and no training. A fault saves
    nothing: what was saved before stays.
    """
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        training.run()
    except KeyboardInterrupt:
        log("told to stop")
    training.save()
    training.check()
    training.test()
    training.save()
    training.close()
    log("done")


def write_text(path: Path, text: str) -> None:
    """Write a file that is complete or absent."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.replace(path)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """The same of tensors."""
    part = path.with_name(f"{path.name}.part")
    save_file({name: value.contiguous() for name, value in tensors.items()}, part, metadata={"format": "pt"})
    part.replace(path)


def write_folder(folder: Path, state: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
    """Write weights in fp16 in a few files, and ``meta.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    total, done = sum(value.numel() for value in state.values()), 0
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(SHARDS)]
    for name in sorted(state):
        parts[min(SHARDS - 1, done * SHARDS // total)][name] = state[name].detach().to("cpu", torch.float16)
        done += state[name].numel()
    for i, part in enumerate(parts, 1):
        write_tensors(folder / f"weights-{i}.safetensors", part)
    write_text(folder / "meta.json", json.dumps(meta, indent=1))
