"""Tokens a second after the first, where the cache is read more than the weights: eight pictures, many prompts.

    python experiments/speed/decoding.py --layers 8 --batches 1,8,32 --out experiments/speed/results/decoding.json

Widths of LLaVA-1.5-7B, of whose 32 layers ``--layers`` are made, so that 32 prompts of eight pictures fit a card:
weights and cache shrink alike, and what a token reads of the one and of the other keep their ratio. A token's time is
that from the first to the last one of an answer on the device's clock, by the answer's length. Rows that the file
holds are not measured again. Needs a GPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.benchmark.clock import laps
from tokenprune.benchmark.geometry import asked, build_model, geometry
from tokenprune.core.errors import NotCompiledWarning

FULL = 0
"""A budget of all tokens."""


def answers(model: Any, inputs: dict[str, Tensor], keep: int, way: str, new: int) -> Callable[..., None]:
    """Something that answers with ``new`` tokens after the first, and marks when that one is there and when all are."""
    question = asked(model)
    if way == "compiled":
        compiled = tp.compile(model, "mi-pruner" if keep else "similarity", keep or 1.0, text=question)
        given = {k: v if v.is_floating_point() else v.cpu() for k, v in inputs.items()}
        prompt = compiled.select(compiled.encode(**given), **given)
        assert prompt is not None

        def answer(mark: Callable[[str], None]) -> None:
            read = compiled.read(prompt, 1 + new)
            mark("read")
            compiled.say(prompt, read, 1 + new)
            mark("said")

        return answer

    quiet = {"do_sample": False, "suppress_tokens": [model.config.image_token_id]}

    def plainly(mark: Callable[[str], None]) -> None:
        heard: list[int] = []

        def count(ids: Tensor, _scores: Any, **_more: Any) -> Tensor:
            if not heard:
                mark("read")
            heard.append(ids.shape[1])
            return ids.new_zeros(len(ids), dtype=torch.bool)

        asked_for = {"max_new_tokens": 1 + new, "min_new_tokens": 1 + new, "stopping_criteria": [count]}
        if keep:
            with tp.attach(model, "mi-pruner", keep, text=question):
                model.generate(**inputs, **quiet, **asked_for)
        else:
            model.generate(**inputs, **quiet, **asked_for)
        mark("said")

    return plainly


@torch.no_grad()
def main() -> None:
    """Measure row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", default="llava-1.5-7b")
    parser.add_argument("--kind", default="eight-images")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--keep", type=int, default=64, help="of each picture")
    parser.add_argument("--new", type=int, default=16, help="tokens after the first")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no row after this long")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    have = {(row["batch"], row["keep"], row["way"]) for row in rows}
    model = build_model(options.geometry, "cuda", torch.float16, layers=options.layers)
    about = {name: value for name, value in vars(options).items() if name not in ("out", "seconds", "batches")}
    about |= {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    for batch in map(int, options.batches.split(",")):
        inputs = geometry(options.geometry).inputs(model, options.kind, batch)
        for keep, way in [(k, w) for w in ("compiled", "plain") for k in (FULL, options.keep)]:
            if (batch, keep, way) in have or time.monotonic() > end:
                continue
            start = time.monotonic()
            row: dict[str, Any] = {"batch": batch, "keep": keep, "way": way}
            torch.cuda.reset_peak_memory_stats()
            answer: Any = None
            try:
                answer = answers(model, inputs, keep, way, options.new)
                parts = laps(answer, model.device, options.repeats, 1)
                token = parts["said"].median / options.new
                row |= {"read_ms": parts["read"].row, "said_ms": parts["said"].row, "token_ms": round(token, 4)}
                row["tokens_per_s"] = round(1000 * batch / token, 1)
            except torch.OutOfMemoryError as error:
                row["refused"] = str(error).splitlines()[0].split(". ")[0]
            row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            row["took_s"] = round(time.monotonic() - start, 1)
            rows.append(row)
            options.out.write_text(json.dumps({"asked": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
            print(row, flush=True)
            del answer
            gc.collect()
            torch.cuda.empty_cache()


if __name__ == "__main__":
    warnings.simplefilter("error", NotCompiledWarning)
    main()
