"""Kernels of attention at the shapes of vision encoders: which is the fastest, and by how much they differ.

    python experiments/speed/attention.py --out attention.json

Microseconds on the device, mean of 20 replays of a graph; queries, keys and values lie packed, as encoders leave them.
Needs a GPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tokenprune.benchmark.clock import captured

SHAPES: dict[str, tuple[int, int, int, int]] = {
    "qwen3-vl, 4,800 patches": (1, 16, 4800, 72),
    "qwen2.5-vl, 4,800 patches": (1, 16, 4800, 80),
    "qwen2.5-vl, 75 windows": (75, 16, 64, 80),
    "qwen3-vl, 1,296 patches": (1, 16, 1296, 72),
    "qwen3-vl, 32 frames of 1,024": (32, 16, 1024, 72),
    "siglip, 5 tiles of 729": (5, 16, 729, 72),
    "clip, 577": (1, 16, 577, 64),
    "clip, 8 frames of 257": (8, 16, 257, 64),
}
KERNELS = ("stock", "flash", "cudnn", "efficient", "varlen", "flex")


def kernels(batch: int, length: int) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Name -> attention of (B, H, L, k)."""

    def only(backend: SDPBackend) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v)

        return attend

    bounds = torch.arange(batch + 1, device="cuda", dtype=torch.int32) * length

    def varlen(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        rows = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
        return varlen_attn(*rows, bounds, bounds, length, length).unflatten(0, (batch, length)).transpose(1, 2)

    def flex(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from torch.nn.attention.flex_attention import flex_attention

        return torch.compile(flex_attention, dynamic=False)(q, k, v)

    return {
        "stock": F.scaled_dot_product_attention,
        "flash": only(SDPBackend.FLASH_ATTENTION),
        "cudnn": only(SDPBackend.CUDNN_ATTENTION),
        "efficient": only(SDPBackend.EFFICIENT_ATTENTION),
        "varlen": varlen,
        "flex": flex,
    }


def microseconds(call: Callable[[], Any], repeats: int = 20) -> float:
    """Mean device time of a call, replayed from a graph."""
    graph, _ = captured(call, 5)
    graph.replay()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) * 1000 / repeats / 5


@torch.no_grad()
def main() -> None:
    """Measure and write JSON after each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", nargs="+", default=KERNELS, choices=KERNELS)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    for name, (batch, heads, length, width) in SHAPES.items():
        packed = torch.randn(batch, length, 3, heads, width, device="cuda", dtype=torch.float16)
        q, k, v = packed.permute(2, 0, 3, 1, 4)
        with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
            want = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
        row: dict[str, Any] = {"shape": [batch, heads, length, width]}
        for kernel, attend in kernels(batch, length).items():
            if kernel not in chosen.kernels:
                continue
            try:
                differs = float((attend(q, k, v).float() - want).abs().max())
                row[kernel] = {"us": round(microseconds(partial(attend, q, k, v)), 1), "differs": differs}
            except (RuntimeError, ImportError) as error:
                torch.cuda.synchronize()
                row[kernel] = {"refused": str(error).splitlines()[0][:200]}
        found[name] = row
        chosen.out.write_text(json.dumps(found, indent=1))
        print(name, json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
