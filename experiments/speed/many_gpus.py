"""Questions per second of ``compare`` under a launcher, by number of processes, and whether the table stays the same.

    python experiments/speed/many_gpus.py model larger
    python experiments/speed/many_gpus.py ask --model larger --processes 1,2 --limit 256 --out many-gpus.jsonl

``model`` writes a LLaVA with random weights, large enough for a GPU to have work: the shipped model is so small that
the host is what it waits for. Its answers are noise and cost what those of a trained model of its size cost. ``ask``
runs the command once for each number of processes and looks every twentieth of a second at how many answers there are.
The pace is that between the first and the last of them, and besides that from when every process has answered: what
imports, loading and the report take is told apart.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HIDDEN, LAYERS, INTERMEDIATE = 2560, 16, 6912
"""Of the language model: 1.3 billion parameters; the encoder is CLIP's of 0.3 billion, as in LLaVA-1.5."""


def write_model(folder: Path, device: str) -> None:
    """Save a LLaVA of random weights with the shipped one's processor."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    from tokenprune.zoo.loading import load_model

    small, processor = load_model("embedded")
    words = small.config.text_config.to_dict() | {
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HIDDEN // 128,
        "num_key_value_heads": HIDDEN // 128,
        "head_dim": 128,
    }
    seen = small.config.vision_config.to_dict() | {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    config = LlavaConfig(
        text_config=LlamaConfig(**words),
        vision_config=CLIPVisionConfig(**seen),
        image_token_id=small.config.image_token_id,
        vision_feature_layer=small.config.vision_feature_layer,
        vision_feature_select_strategy=small.config.vision_feature_select_strategy,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    print(f"{folder}: {sum(one.numel() for one in model.parameters()) / 1e9:.2f} billion parameters")


def answered(out: Path) -> int:
    """Answers that all processes have written so far; while they are brought together they are in two places."""
    return max(_lines(out / "results.jsonl"), sum(map(_lines, out.glob("ranks/*/results.jsonl"))))


def answering(out: Path) -> int:
    """Processes that have written an answer, as long as each writes a folder of its own."""
    return sum(_lines(file) > 0 for file in out.glob("ranks/*/results.jsonl"))


def _lines(file: Path) -> int:
    try:
        return file.read_bytes().count(b"\n")
    except FileNotFoundError:  # not begun yet, or gone meanwhile
        return 0


def launched(processes: int) -> list[str]:
    """``accelerate launch`` with nothing left to what a machine's own configuration says."""
    words = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    words += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    return [*words, *(["--multi_gpu"] if processes > 1 else []), "-m", "tokenprune"]


def ask(words: list[str], out: Path, processes: int, seconds: float) -> dict[str, Any]:
    """Run one command, and look at its answers while it does."""
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "8")}
    with tempfile.TemporaryFile() as said:
        begun = subprocess.Popen(
            [*launched(processes), *words, "--out", str(out)],
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # so that it can be stopped with all that it began
        )
        seen: list[tuple[float, int]] = []  # when, and how many answers
        together: tuple[float, int] | None = None  # the same when all processes had answered
        try:
            while begun.poll() is None and (now := time.perf_counter() - start) < seconds:
                if (count := answered(out)) > (seen[-1][1] if seen else 0):
                    seen.append((now, count))
                    if together is None and (processes == 1 or answering(out) >= processes):
                        together = seen[-1]
                time.sleep(0.05)
        finally:
            if begun.poll() is None:
                os.killpg(begun.pid, signal.SIGTERM)
                begun.wait(30)
        whole = time.perf_counter() - start
        said.seek(0)
        told = said.read().decode(errors="replace")
    found: dict[str, Any] = {"processes": processes, "exit": begun.returncode, "seconds": round(whole, 2)}
    if begun.returncode:
        found["told"] = told[-1500:]
    if len(seen) > 1:
        (first, few), (last, many) = seen[0], seen[-1]
        found |= {
            "answers": many,
            "first_answer_s": round(first, 2),
            "answering_s": round(last - first, 2),
            "answers_per_s": round((many - few) / (last - first), 2),
        }
        if together is not None and last > together[0]:
            found["all_answering_after_s"] = round(together[0] - first, 2)
            found["answers_per_s_of_all"] = round((many - together[1]) / (last - together[0]), 2)
    if (out / "summary.json").exists():
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        lines = sorted((out / "results.jsonl").read_text(encoding="utf-8").splitlines())
        asked = {json.loads(line)["sample"] for line in lines}
        found |= {
            "questions": len(asked),
            "questions_per_s": round(found.get("answers_per_s", 0) * len(asked) / len(lines), 2),
            "table_sha256": _digest(json.dumps(summary["rows"], sort_keys=True)),
            "answers_sha256": _digest("\n".join(lines)),
        }
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main() -> None:
    """Write a model, or run commands and tell their pace."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("model")
    making.add_argument("folder", type=Path)
    making.add_argument("--device", default="cuda")
    asking = commands.add_parser("ask")
    asking.add_argument("--model", required=True)
    asking.add_argument("--processes", default="1,2")
    asking.add_argument("--limit", type=int, default=256)
    asking.add_argument("--batch-size", type=int, default=16)
    asking.add_argument("--strategies", default="mi-pruner")
    asking.add_argument("--budgets", default="64")
    asking.add_argument("--device", default="cuda")
    asking.add_argument("--dtype", default="bfloat16")
    asking.add_argument("--seconds", type=float, default=600, help="after which a command is stopped")
    asking.add_argument("--out", type=Path, required=True, help="lines are added")
    said = parser.parse_args()
    if said.command == "model":
        write_model(said.folder, said.device)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))  # what it began is then stopped, too
    import torch

    name = torch.cuda.get_device_name() if said.device == "cuda" else platform.processor() or platform.machine()
    machine = {"device": name, "cores": len(os.sched_getaffinity(0)), "torch": torch.__version__}
    words = ["compare", "--model", said.model, "--limit", str(said.limit), "--batch-size", str(said.batch_size)]
    words += ["--strategies", said.strategies, "--budgets", said.budgets]
    words += ["--device", said.device, "--dtype", said.dtype]
    folder = Path(tempfile.mkdtemp())
    try:
        for processes in map(int, said.processes.split(",")):
            row = ask(words, folder / str(processes), processes, said.seconds)
            row |= {"command": shlex.join(words), **machine}
            with said.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
