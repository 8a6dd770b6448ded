"""Measure the laws of pruning and the modes of generation on every model family, at random weights.

    python experiments/compatibility/laws.py --out experiments/compatibility/results/cpu.json

Every number is the largest difference of logits that ought to be equal, as a share of the logits' standard deviation;
every mode says whether the tokens are those of the plain model (all kept) and whether `attach` and `prepare` agree
(most dropped), or which error is raised.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

import tokenprune as tp
from tokenprune.diagnostics.laws import attention_calls, difference, forward, widen_windows
from tokenprune.diagnostics.mask_out import mask_out
from tokenprune.hf.adapters import adapter_for
from tokenprune.hf.encoded import takes_encoded
from tokenprune.zoo.tiny import FAMILIES, tiny_inputs, tiny_model

KEEP = 0.4
KINDS = {"image": 1, "two-images": 1, "video": 1, "image-and-video": 1}
MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True},
    "two sequences": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"do_sample": False, "num_beams": 3},
    "no cache": {"do_sample": False, "use_cache": False},
    "static cache": {"do_sample": False, "cache_implementation": "static"},
    "quantised cache": {
        "do_sample": False,
        "cache_implementation": "quantized",
        "cache_config": {"backend": "quanto", "nbits": 4, "q_group_size": 16},
    },
    "prompt lookup": {"do_sample": False, "prompt_lookup_num_tokens": 2},
    "assisted": {"do_sample": False, "assistant_model": True},
}
SINGLE = ("prompt lookup", "assisted")
"""Modes that transformers runs for one prompt at a time."""


def inputs_of(family: str, kind: str, batch: int, model: Any) -> dict[str, Any]:
    """A batch on the model's device, in its dtype."""
    found = tiny_inputs(family, kind, batch)  # type: ignore[arg-type]
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        for name, value in found.items()
    }


def laws(model: Any, family: str) -> Iterator[dict[str, Any]]:
    """Both laws for every kind of prompt, alone and in a left-padded batch of three with budgets that differ."""
    adapter = adapter_for(model)
    for kind in FAMILIES[family].kinds:
        for batch in (1, 3) if kind in KINDS else ():
            inputs = inputs_of(family, kind, batch, model)
            real = inputs["attention_mask"].bool()
            with attention_calls() as expected:
                plain = forward(model, inputs)
            # what differs from run to run says nothing about pruning
            row: dict[str, Any] = {"kind": kind, "batch": batch, "again": difference(forward(model, inputs), plain)}
            for stage, strategy in (("before", "similarity"), ("between", "fastv")):
                try:
                    with attention_calls() as calls, tp.attach(model, strategy, 1.0) as run:
                        kept = forward(model, inputs)
                except tp.TokenPruneError as error:
                    row[stage] = str(error).split(";")[0]
                    continue
                units = len(run.history[0].rows)
                budgets = [(0.3, 0.6, 0.45)[i % 3] for i in range(units)]
                with tp.attach(model, strategy, budgets) as run:
                    last = forward(model, inputs)[:, -1]
                (prefill,) = run.history
                result = {
                    "keep all": difference(kept[real], plain[real]),
                    "same calls": calls == expected,
                    "drop": difference(last, mask_out(model, inputs, prefill)),
                }
                if stage == "before" and takes_encoded(model):
                    shorter = tp.prepare(model, strategy, budgets, **inputs)
                    result["prepare"] = difference(forward(model, shorter)[:, -1], last)
                row[stage] = result
            row["tokens"] = [int(adapter.image_mask(inputs["input_ids"]).sum()), sum(prefill.tokens_after)]
            yield row


def outcome(run: Callable[[], Tensor]) -> Tensor | str:
    """Tokens, or the name of the error."""
    torch.manual_seed(0)
    try:
        return run()
    except (tp.TokenPruneError, ValueError, TypeError, RuntimeError, IndexError, ImportError) as error:
        return type(error).__name__


def modes(model: Any, family: str) -> Iterator[dict[str, Any]]:
    """Every mode of generation, for three prompts where it takes as many."""
    # a random model may say placeholders, for which there are no pictures
    quiet = {"max_new_tokens": 6, "suppress_tokens": list(adapter_for(model).image_token_ids)}
    for mode, options in MODES.items():
        asked = {**quiet, **options}
        if asked.get("assistant_model"):
            asked["assistant_model"] = copy.deepcopy(model)
        inputs = inputs_of(family, "image", 1 if mode in SINGLE else 3, model)
        plain = outcome(partial(generated, model, inputs, asked))
        row: dict[str, Any] = {"mode": mode}
        pruned = []
        for way, ask in (("attach", attached), ("prepare", prepared)):
            if way == "prepare" and not takes_encoded(model):
                continue
            everything = outcome(partial(ask, model, inputs, asked, 1.0))
            row[way] = everything if isinstance(everything, str) else bool(torch.equal(everything, plain))
            pruned.append(outcome(partial(ask, model, inputs, asked, KEEP)))
        if len(pruned) == 2 and all(isinstance(tokens, Tensor) for tokens in pruned):
            row["agree"] = bool(torch.equal(*pruned))
        yield row


def generated(model: Any, inputs: dict[str, Any], options: dict[str, Any]) -> Tensor:
    """New tokens of the plain model."""
    tokens: Tensor = model.generate(**inputs, **options)
    return tokens[:, inputs["input_ids"].shape[1] :]


def placement(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Positions without gaps where there is no cache to tell prompts apart, on models that count along one axis."""
    gapless = options.get("use_cache") is False and not adapter_for(model).multi_axis
    return {"positions": "compact"} if gapless else {}


def attached(model: Any, inputs: dict[str, Any], options: dict[str, Any], keep: float) -> Tensor:
    """New tokens inside attach."""
    with tp.attach(model, "similarity", keep, **placement(model, options)):
        return generated(model, inputs, options)


def prepared(model: Any, inputs: dict[str, Any], options: dict[str, Any], keep: float) -> Tensor:
    """New tokens from shorter inputs."""
    cache = {"use_cache": options["use_cache"]} if "use_cache" in options else {}
    shorter = tp.prepare(model, "similarity", keep, **placement(model, options), **cache, **inputs)
    return generated(model, {**shorter, **options}, {})


def environment(device: str) -> dict[str, str]:
    """What the numbers were measured on."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    return {
        "device": name,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main() -> None:
    """Measure and write JSON after each family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--attention", nargs="+", default=["sdpa", "eager"])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    report: dict[str, Any] = {"environment": environment(asked.device), "dtype": asked.dtype, "families": {}}
    for family in asked.families:
        found: dict[str, Any] = {}
        for attention in asked.attention:
            model = tiny_model(family, attention).to(asked.device, getattr(torch, asked.dtype))
            widen_windows(model)
            found[attention] = list(laws(model, family))
            found.setdefault("modes", list(modes(model, family)))
        report["families"][family] = found
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(report, indent=1))
        worst = max(
            (
                value
                for a in asked.attention
                for row in found[a]
                for s in ("before", "between")
                if isinstance(row.get(s), dict)
                for law, value in row[s].items()
                if law != "same calls"
            ),
            default=0.0,
        )
        print(f"{family:16s} largest difference {worst:.1e} of a standard deviation", flush=True)


if __name__ == "__main__":
    main()
