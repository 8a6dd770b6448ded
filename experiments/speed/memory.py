"""What selection needs beside its features on a CPU, for an hour of video or a page of tiles.

    python experiments/speed/memory.py --out experiments/speed/results/memory.json

Each strategy selects in a process of its own. Peak memory is the kernel's high-water mark of the process, set back
right before ``select``, less what was there then: features, torch and transformers are not counted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import time
from pathlib import Path
from typing import Any

import torch

import tokenprune as tp
from tokenprune.core.features import Grid

STRATEGIES = (
    "similarity",
    "mi-pruner",
    "divprune",
    "cdpruner",
    "mmtok",
    "visionzip",
    "vispruner",
    "holov",
    "trimtokenator",
)


def memory(name: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"this system does not tell {name}")


def _first(part: str, signal: torch.Tensor) -> torch.Tensor:
    """What of a signal is about the first 64 tokens."""
    if part in ("visual", "encoder", "keys"):
        return signal[:, :64]
    return signal[..., :64] if part.endswith("attention") else signal


def measure(name: str, n: int, keep: int, width: int) -> dict[str, Any]:
    """Select once; in a fresh process."""
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    side = int(n**0.5)
    group = torch.randint(40, (n,), generator=draw)
    alike = torch.randn(40, width, generator=draw)[group]
    made = {
        "visual": lambda: (alike + torch.randn(n, width, generator=draw))[None],
        "text": lambda: torch.randn(1, 40, width, generator=draw),
        "encoder": lambda: torch.randn(1, n, 64, generator=draw),
        "keys": lambda: torch.randn(1, n, 64, generator=draw),
        "encoder_cls": lambda: torch.randn(1, 64, generator=draw),
        "cls_attention": lambda: torch.randn(1, 16, n, generator=draw).softmax(-1),
        "received_attention": lambda: torch.randn(1, n, generator=draw).softmax(-1),
    }
    strategy = tp.build(name)
    needs = {"visual"} | (strategy.requires & made.keys())
    signals = {part: made[part]() for part in sorted(needs)}
    features = tp.Features(**signals, grid=Grid(side, n // side))
    few = {part: _first(part, signal) for part, signal in signals.items()}
    strategy.select(tp.Features(**few, grid=Grid(8, 8)), 8)  # libraries load what they need
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    start = time.perf_counter()
    strategy.select(features, keep)
    return {
        "strategy": name,
        "tokens": n,
        "keep": keep,
        "width": width,
        "features_mib": round(sum(features[part].nbytes for part in needs) / 2**20, 1),
        "above_mib": round((memory("VmHWM") - before) / 2**20, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--keep", type=int, default=1024)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    fresh = multiprocessing.get_context("spawn")
    rows = []
    for name in asked.strategies.split(","):
        with fresh.Pool(1) as pool:
            try:
                rows.append(pool.apply(measure, (name, asked.tokens, asked.keep, asked.width)))
            except RuntimeError as error:  # no room
                rows.append({"strategy": name, "failed": f"{type(error).__name__}: {error}"})
        print(rows[-1], flush=True)
        found = {"machine": f"{platform.machine()}, one thread", "torch": torch.__version__, "rows": rows}
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
