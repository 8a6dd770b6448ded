"""Try what callers do with stock packages around a model: trainers, adapters, offloading, weights of few bits.

    pip install --target DIR --no-deps peft accelerate bitsandbytes psutil fastapi httpx python-multipart ...
    PYTHONPATH=DIR python -m experiments.compatibility.callers --out experiments/compatibility/results/callers.json

Each line is right or not: the same picks, tokens or losses as without the package, or everything kept as the plain
model. Models are tiny and have random weights.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import platform
import re
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

import tokenprune as tp
from tokenprune.zoo.tiny import tiny_inputs, tiny_model

GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
KEEP = 0.3
CHECKS: dict[tuple[str, str], Callable[[], bool]] = {}
"""(package, what) -> whether it is right."""


def check(package: str, what: str) -> Callable[[Callable[[], bool]], Callable[[], bool]]:
    """Register a check."""

    def noted(function: Callable[[], bool]) -> Callable[[], bool]:
        CHECKS[package, what] = function
        return function

    return noted


def answer(model: Any, inputs: Any, keep: float = KEEP) -> Tensor:
    """Tokens under ``attach``."""
    with tp.attach(model, "mi-pruner", keep):
        out: Tensor = model.generate(**inputs, **GREEDY)
    return out


def agree(model: Any, inputs: Any, *, compiled: bool = True) -> bool:
    """Keep all = plain, and attach = prepare (= compiled)."""
    plain, got = model.generate(**inputs, **GREEDY), answer(model, inputs)
    shorter = tp.prepare(model, "mi-pruner", KEEP, **inputs)
    same = [torch.equal(answer(model, inputs, 1.0), plain)]
    same.append(torch.equal(model.generate(**shorter, **GREEDY)[:, -4:], got[:, -4:]))
    if compiled:
        same.append(torch.equal(tp.compile(model, "mi-pruner", keep=KEEP).generate(**inputs, **GREEDY), got))
    return all(same)


def trained(**options: Any) -> tuple[float, list[list[int]]]:
    """The loss of one step of the stock Trainer under ``attach``, and what was kept."""

    def collate(_: Any) -> dict[str, Tensor]:
        inputs = dict(tiny_inputs("llava", "image", 2))
        return {**inputs, "labels": inputs["input_ids"]}

    arguments = transformers.TrainingArguments(
        tempfile.mkdtemp(),
        per_device_train_batch_size=2,
        max_steps=1,
        learning_rate=0.0,
        report_to=[],
        use_cpu=True,
        remove_unused_columns=False,
        save_strategy="no",
        disable_tqdm=True,
        **options,
    )
    model = tiny_model("llava")
    trainer = transformers.Trainer(model, arguments, train_dataset=[0, 1], data_collator=collate)  # type: ignore[arg-type]
    with tp.attach(model, "mi-pruner", 9) as run:
        loss = trainer.train().training_loss
    return loss, run.selections[-1].indices.tolist()


@check("transformers", "Trainer(bf16=True): the picks of float32, a loss within 1 %")
def _() -> bool:
    (plain, picks), (loss, low) = trained(), trained(bf16=True)
    return picks == low and abs(loss - plain) < 0.01 * plain


@check("transformers", "Trainer(label_smoothing_factor=0.1)")
def _() -> bool:
    return trained(label_smoothing_factor=0.1)[0] > trained()[0]


@check("transformers", "Trainer(gradient_checkpointing=True): the loss without")
def _() -> bool:
    return abs(trained(gradient_checkpointing=True)[0] - trained()[0]) < 1e-4


@check("accelerate", "cpu_offload: the tokens of the model as it was; attach, prepare, compile agree")
def _() -> bool:
    import accelerate

    model, inputs = tiny_model("llava"), tiny_inputs("llava", "image", 2)
    want = answer(model, inputs)
    accelerate.cpu_offload(model, execution_device="cpu")
    return torch.equal(answer(model, inputs), want) and agree(model, inputs)


@check("accelerate", "disk_offload: likewise")
def _() -> bool:
    import accelerate

    model, inputs = tiny_model("llava"), tiny_inputs("llava", "image", 2)
    want = answer(model, inputs)
    accelerate.disk_offload(model, tempfile.mkdtemp(), execution_device="cpu")
    return torch.equal(answer(model, inputs), want) and agree(model, inputs)


@check("accelerate", "Accelerator(mixed_precision='bf16').prepare: the picks of float32; attach and prepare agree")
def _() -> bool:
    import accelerate
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    model, inputs = tiny_model("llava"), tiny_inputs("llava", "image", 2)
    with torch.no_grad(), tp.attach(model, "mi-pruner", KEEP) as plain:
        model(**inputs)
    ready = accelerate.Accelerator(mixed_precision="bf16", cpu=True).prepare(model)
    with torch.no_grad(), tp.attach(ready, "mi-pruner", KEEP) as run:
        ready(**inputs)
    same = torch.equal(run.selections[0].indices, plain.selections[0].indices)
    return same and agree(ready, inputs, compiled=False)


def few_bits(family: str, **options: Any) -> bool:
    """Weights of few bits: keep all = plain, attach = prepare = compiled, and merging before the projector runs."""
    folder = tempfile.mkdtemp()
    tiny_model(family).save_pretrained(folder)
    inputs = tiny_inputs(family, "image", 2)
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        folder,
        quantization_config=transformers.BitsAndBytesConfig(**options),
        device_map={"": "cpu"},
        dtype=torch.float32,
    ).eval()
    for module in model.modules():
        # on a CPU they are packed when in evaluation, which needs widths over 64
        module.train("Linear4bit" in type(module).__name__)
    with tp.attach(model, "apet", KEEP):
        model.generate(**inputs, **GREEDY)
    return agree(model, inputs)


for _family in ("llava", "llava_next", "video_llava", "idefics3", "smolvlm"):

    @check("bitsandbytes", f"4 bits, {_family}: keep all = plain, attach = prepare = compiled; merging strategies run")
    def _(family: str = _family) -> bool:
        return few_bits(family, load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)


@check("bitsandbytes", "8 bits, llava: likewise")
def _() -> bool:
    return few_bits("llava", load_in_8bit=True)


def lora() -> tuple[Any, Any]:
    """A model with LoRA of random weights, and inputs."""
    import peft

    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return peft.get_peft_model(tiny_model("llava"), config).eval(), tiny_inputs("llava", "image", 2)


@check("peft", "LoRA: keep all = plain, attach = prepare = compiled")
def _() -> bool:
    return agree(*lora())


@check("peft", "LoRA switched off inside the block, and merged: the tokens of the model below, and of the adapter")
def _() -> bool:
    model, inputs = lora()
    want = answer(model, inputs)
    with tp.attach(model, "mi-pruner", KEEP), model.disable_adapter():
        below = model.generate(**inputs, **GREEDY)
    merged = model.merge_and_unload()
    return torch.equal(below, answer(tiny_model("llava"), inputs)) and torch.equal(answer(merged, inputs), want)


@check("peft", "LoRA: labels through the model, and gradients of the adapter alone")
def _() -> bool:
    model, inputs = lora()
    with tp.attach(model.train(), "mi-pruner", KEEP):
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
    return all(
        ("lora_" in name) == (p.grad is not None) for name, p in model.named_parameters() if "vision" not in name
    )


@check("peft", "prefix and prompt tuning are refused by name")
def _() -> bool:
    import peft

    refused = 0
    for config in (peft.PrefixTuningConfig, peft.PromptTuningConfig):
        model = peft.get_peft_model(tiny_model("llava"), config(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
        try:
            answer(model, tiny_inputs("llava", "image", 2))
        except tp.TokenPruneError:
            refused += 1
    return refused == 2


@check(
    "fastapi",
    "the endpoint of docs/callers.md streams the answers that generate gives in one piece, three requests at once",
)
def _() -> bool:
    from fastapi.testclient import TestClient

    page = (Path(__file__).parents[2] / "docs" / "callers.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "served"}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:2]:
        exec(code, names)  # the page's own code
    from tokenprune.data.images import picture
    from tokenprune.hf.chat import prompt_inputs

    def ask(seed: int, keep: int) -> bool:
        shown, file = picture(seed), io.BytesIO()
        shown.save(file, "PNG")
        fields = {"question": "what color is the dog ?", "keep": str(keep)}
        said = client.post("/answer", data=fields, files={"image": ("a.png", file.getvalue(), "image/png")})
        with names["turn"]:
            inputs = prompt_inputs(names["processor"], [shown], [fields["question"]])
            with tp.attach(names["model"], "mi-pruner", keep):
                whole = names["model"].generate(**inputs, max_new_tokens=6)
        new = names["processor"].tokenizer.decode(whole[0, inputs["input_ids"].shape[1] :])
        return said.status_code == 200 and said.text.split() == new.split() != []

    with TestClient(names["app"]) as client, ThreadPoolExecutor(3) as pool:
        return all(pool.map(ask, range(6), (9, 4, 20, 9, 4, 20)))


def main() -> None:
    """Run every check and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    warnings.simplefilter("ignore")
    rows = []
    for (package, what), function in CHECKS.items():
        try:
            outcome = "right" if function() else "wrong"
        except Exception as error:  # whatever a package raises
            outcome = f"{type(error).__name__}: {error}"
        rows.append({"package": package, "what": what, "outcome": outcome})
        print(f"{package}: {what}: {outcome}", flush=True)
    names = dict.fromkeys(package for package, _ in CHECKS)
    about = {
        "device": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: importlib.metadata.version(name) for name in names},
    }
    out.write_text(json.dumps({"environment": about, "dtype": "float32", "callers": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
