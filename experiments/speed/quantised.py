"""Weight-only checkpoints through transformers' own quantisers: compiled models are to answer as under ``attach``.

    pip install torchao
    python experiments/speed/quantised.py --out experiments/speed/results/quantised.json

Tiny models with random weights are saved, loaded again with int8 and float8 weights, and answer two prompts with
``compile`` and with ``attach``.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, TorchAoConfig

import tokenprune as tp
from tokenprune.core.errors import NotCompiledWarning
from tokenprune.hf.saved_processor import MAKES_PROCESSOR
from tokenprune.zoo.tiny import tiny_inputs, tiny_model

FAMILIES = ("llava", "qwen2_5_vl", "qwen3_vl", "gemma3")
STRATEGIES = ("mi-pruner", "fastv")


def quantised(family: str, how: Any, device: str) -> Any:
    """A tiny model whose matrices are quantised, all but the head."""
    model = tiny_model(family)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = TorchAoConfig(how, modules_to_not_convert=["lm_head"])
        made = AutoModelForImageTextToText.from_pretrained(folder, quantization_config=config, dtype=torch.float32)
    vars(made)[MAKES_PROCESSOR] = vars(model)[MAKES_PROCESSOR]
    return made.eval().to(device)


def row(family: str, name: str, how: Any, strategy: str, device: str) -> dict[str, Any]:
    """Whether tokens are equal, and what was captured."""
    model, inputs = quantised(family, how, device), tiny_inputs(family, "image", 2)
    weights = {type(value).__name__ for key, value in model.named_parameters() if "q_proj.weight" in key}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", NotCompiledWarning)
        compiled = tp.compile(model, strategy, 0.4, bucket=8)
        got = compiled.generate(**inputs, max_new_tokens=7)
    with tp.attach(model, strategy, 0.4):
        want = model.generate(**{key: value.to(device) for key, value in inputs.items()}, max_new_tokens=7)
    return {
        "family": family,
        "weights": name,
        "kept_as": sorted(weights),
        "strategy": strategy,
        "equal": torch.equal(got, want),
        "captured": {built.stage: built.captured for built in compiled.built},
        "said": [str(one.message) for one in said if issubclass(one.category, NotCompiledWarning)],
    }


def main() -> None:
    """Run and write."""
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kinds = {"int8": Int8WeightOnlyConfig(), "float8": Float8WeightOnlyConfig()}
    refused = {("gemma3", "fastv")}  # windows
    rows = [
        row(family, name, how, strategy, device)
        for family in FAMILIES
        for name, how in kinds.items()
        for strategy in STRATEGIES
        if (family, strategy) not in refused
    ]
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU"
    versions = {name: version(name) for name in ("torch", "transformers", "torchao")}
    asked.out.write_text(json.dumps({"device": machine, "versions": versions, "rows": rows}, indent=1) + "\n")
    for one in rows:
        print(one, flush=True)


if __name__ == "__main__":
    main()
