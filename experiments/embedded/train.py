"""Train the embedded model, one stage of ``stages.yaml`` at a time, under a limit of wall-clock time.

``python -m experiments.embedded.train finish --start CHECKPOINT --out DIR --seconds 540``

DIR holds, after every save, what the next call starts from: weights in fp16 in two files, training heads, ``meta.json``
and ``train.log``. With ``--keep FILE`` everything (float32 weights, optimizer) is kept there as well, and a call that
finds FILE goes on exactly where the last one stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

STARTED = time.time()
# workers paint side by side, one thread each: BLAS threads that spin beside them halve the pictures a second
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch  # noqa: E402
import yaml  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from experiments.embedded.batches import SUBFAMILIES, TEST_LENGTH, TRAIN_LENGTH, Batch, Feeder  # noqa: E402
from experiments.embedded.ending import train, write_folder, write_tensors  # noqa: E402
from experiments.embedded.losses import Weights, branches_of, losses  # noqa: E402
from experiments.embedded.network import Heads, answer, build, encode, normalize, plain_state, project  # noqa: E402

NAMES = [f"{family}/{sub}" for family, sub in SUBFAMILIES]
EVEN = [100] * len(NAMES)
HEADS = ("object", "color", "character", "present", "place")
LOSSES = [field.name for field in fields(Weights)]
WARM_UP = 300


def elapsed() -> float:
    """Seconds since the program started."""
    return time.time() - STARTED


class Log:
    """Lines on the screen and in a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, text: str) -> None:
        """Write one line."""
        line = f"[{elapsed():6.1f}s] {text}"
        print(line, flush=True)
        self._file.write(line + "\n")
        self._file.flush()


def save_weights(model: Any, heads: Heads, folder: Path, meta: Mapping[str, Any]) -> None:
    """Write a checkpoint: each file is complete or absent."""
    write_tensors(folder / "heads.safetensors", {k: v.detach().cpu() for k, v in heads.state_dict().items()})
    write_folder(folder, plain_state(model), meta)


def load_weights(model: Any, heads: Heads | None, folder: Path) -> dict[str, Any]:
    """Read a checkpoint into the model; returns its ``meta.json``.

    Raises
    ------
    ValueError
        The checkpoint has other parameters than the model.
    """
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("weights-*.safetensors")):
        found |= load_file(path)
    own = plain_state(model)
    if found.keys() != own.keys():
        raise ValueError(f"checkpoint {folder} and model differ in {sorted(found.keys() ^ own.keys())[:5]}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(found[name])
    if heads is not None and (folder / "heads.safetensors").exists():
        heads.load_state_dict(load_file(folder / "heads.safetensors"))
    meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
    return meta


def to_device(batch: Batch, device: str) -> dict[str, torch.Tensor]:
    """Copy a batch out of shared memory."""
    tensors = {}
    for name, array in batch.items():
        tensor = torch.from_numpy(array)
        # pinned memory lets the copy run beside the computation; on a CPU the slot must be copied just as well
        tensors[name] = tensor.pin_memory().to(device, non_blocking=True) if device == "cuda" else tensor.clone()
    return tensors


@torch.no_grad()
def accuracy(
    model: Any, feeder: Feeder, batches: int, device: str, dtype: torch.dtype
) -> tuple[dict[str, float], dict[str, float], dict[str, int]]:
    """Teacher-forced accuracy by sub-family: all tokens of the answer and its end are the most likely ones.

    Returns
    -------
    tuple of dict
        Accuracy with the picture, with the batch's next picture instead, and the number of questions.
    """
    right = torch.zeros(2, len(NAMES), device=device)
    asked = torch.zeros(len(NAMES), device=device)
    for _ in range(batches):
        slots, slot = feeder.take()
        batch = to_device(slots, device)
        feeder.release(slot)
        visual = project(model, encode(model, normalize(batch["images"], dtype))[0])
        branches, targets = branches_of(batch), batch["targets"].long()
        rows, starts = (batch["kinds"] >= 0).nonzero(as_tuple=True)
        kinds = batch["kinds"][rows, starts].long()
        numbers = branches.branch[rows, starts]
        asked += torch.bincount(kinds, minlength=len(NAMES))
        for which, seen in enumerate((visual, visual.roll(1, 0))):
            wrong = (answer(model, seen, branches).argmax(-1) != targets) & (targets >= 0)
            faults = torch.zeros(len(targets), int(numbers.max()) + 2, device=device)
            faults.scatter_add_(1, branches.branch + 1, wrong.float())
            good = faults[rows, numbers + 1] == 0
            right[which] += torch.bincount(kinds, weights=good.float(), minlength=len(NAMES))
    shares = (right / asked.clamp_min(1)).tolist()
    return (
        dict(zip(NAMES, shares[0], strict=True)),
        dict(zip(NAMES, shares[1], strict=True)),
        dict(zip(NAMES, asked.int().tolist(), strict=True)),
    )


def by_family(values: Mapping[str, float]) -> dict[str, float]:
    """Mean over the sub-families of each family, in percent."""
    groups: dict[str, list[float]] = {}
    for name, value in values.items():
        groups.setdefault(name.split("/")[0], []).append(value)
    return {family: round(100 * sum(v) / len(v), 1) for family, v in groups.items()}


def weights_by_error(accuracies: Mapping[str, float]) -> list[int]:
    """Ask a sub-family the more often the more often it goes wrong; none is ever forgotten."""
    return [max(20, min(300, round(1000 * (1 - accuracies[name])))) for name in NAMES]


def loss_weight(text: str) -> tuple[str, float]:
    """Read ``NAME=WEIGHT`` from the command line."""
    name, _, weight = text.partition("=")
    if name not in LOSSES:
        raise argparse.ArgumentTypeError(f"{text!r} names no loss; the losses are {', '.join(LOSSES)}")
    try:
        return name, float(weight)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=WEIGHT") from None


class Trainer:
    """One stage, from wherever it was left."""

    def __init__(self, arguments: argparse.Namespace, log: Log) -> None:
        self.arguments, self.log = arguments, log
        stages = yaml.safe_load(Path(__file__).with_name("stages.yaml").read_text())
        self.stage: dict[str, Any] = stages[arguments.stage]
        if arguments.stage_seconds:
            self.stage["seconds"] = arguments.stage_seconds
        self.stage["losses"] |= dict(arguments.loss)
        self.stage["seed"] += arguments.seed
        self.progress: dict[str, Any] = {"stage": arguments.stage, "seconds": 0.0, "steps": 0, "images": 0}
        self.history: list[dict[str, Any]] = []
        start: dict[str, Any] = json.loads((arguments.start / "meta.json").read_text()) if arguments.start else {}
        self.shape = start.get("shape", {"width": arguments.width})
        if start.get("progress", {}).get("stage") == arguments.stage:
            self.progress, self.history = start["progress"], start["history"]
        else:
            self.history = [*start.get("history", []), *([start["progress"]] if "progress" in start else [])]
        kept = arguments.keep if arguments.keep and arguments.keep.exists() else None
        state = torch.load(kept, map_location="cpu", weights_only=True) if kept else None
        if state is not None:
            self.progress = state["progress"]
        self.progress["losses"] = self.stage["losses"]
        weights = self.stage.get("weights", EVEN)
        self.adaptive = weights == "by error"
        first = EVEN if self.adaptive else weights if isinstance(weights, list) else [weights[name] for name in NAMES]
        if self.adaptive and self.progress.get("validation"):
            first = weights_by_error(self.progress["validation"])
        self._start_feeders(first)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.manual_seed(self.stage["seed"])
        self.model = build(**self.shape)
        self.heads = Heads(self.shape.get("width", 256))
        if arguments.start:
            load_weights(self.model, self.heads, arguments.start)
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.heads.load_state_dict(state["heads"])
        self.model.to(self.device)
        self.heads.to(self.device)
        self.weights = Weights(**self.stage["losses"])
        self._make_optimizer(state)
        log(f"{sum(p.numel() for p in self.model.parameters()) / 1e6:.2f} M parameters on {self._device_name()}")
        log(
            f"stage {self.stage}; from {self.progress}; torch {torch.__version__}; "
            + ("all state" if kept else "weights only")
        )

    def _device_name(self) -> str:
        return torch.cuda.get_device_name() if self.device == "cuda" else "CPU"

    def _start_feeders(self, weights: Sequence[int]) -> None:
        # before CUDA is touched: the workers are forks of this process
        a, size = self.arguments, self.arguments.batch
        self.feeder = Feeder(
            a.workers, size, TRAIN_LENGTH, "train", self.stage["seed"], self.progress["images"], weights
        )
        self.check_batches = max(1, a.check // size)
        self.checker = Feeder(
            2, size, TEST_LENGTH, "validation", self.stage["seed"], self.progress["steps"] * size, None
        )
        self.test_batches = max(1, a.test // size)
        self.tester = None
        if a.test:
            self.tester = Feeder(4, size, TEST_LENGTH, a.test_split, 0, 0, None, self.test_batches)

    def _make_optimizer(self, state: Mapping[str, Any] | None) -> None:
        answers = bool(self.weights.answers)
        groups: dict[tuple[float, float, bool], list[Any]] = {}
        for name, parameter in [*self.model.named_parameters(), *self.heads.named_parameters()]:
            slower = 0.5 if answers and "vision_tower" in name else 1.0
            decay = 0.05 if parameter.dim() >= 2 else 0.0
            # heads learn at once, so that fresh ones do not pull at a trained encoder for long
            warm = not name.startswith(HEADS)
            groups.setdefault((slower, decay, warm), []).append(parameter)
        self.parameters = [p for members in groups.values() for p in members]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": p, "weight_decay": decay, "slower": slower, "warm": warm}
                for (slower, decay, warm), p in groups.items()
            ],
            betas=(0.9, 0.98),
            fused=self.device == "cuda",
        )
        self.since_start = 0
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            self.since_start = WARM_UP

    def save(self) -> None:
        """Write the checkpoint."""
        meta = {"shape": self.shape, "progress": self.progress, "history": self.history, "torch": torch.__version__}
        save_weights(self.model, self.heads, self.arguments.out, meta)
        self.log(f"saved at {self.progress['steps']} steps, {self.progress['images']} pictures")

    def keep(self) -> None:
        """Write everything that an exact continuation needs."""
        path = self.arguments.keep
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": self.progress,
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def run(self) -> None:
        """Train until the stage or this call's time is over."""
        before, began = self.progress["seconds"], elapsed()
        stop = self.arguments.seconds - self.arguments.reserve
        if "validation" not in self.progress:
            self.check()
        noted, images, checked = time.time(), 0, time.time()
        while elapsed() < stop and self.progress["seconds"] < self.stage["seconds"]:
            self.progress["seconds"] = before + elapsed() - began
            share = min(self.progress["seconds"] / self.stage["seconds"], 1.0)
            found = self._step(share)
            images += self.arguments.batch
            steps = self.progress["steps"]
            if steps % self.arguments.every == 0 or self.since_start in (1, 2, 20):
                values = {name: value.item() for name, value in found.items()}
                if not all(map(math.isfinite, values.values())):
                    raise FloatingPointError(f"a loss is not finite: {values}")
                rate = images / (time.time() - noted)
                text = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
                ready = self.feeder.ready()
                self.log(f"step {steps} ({share:.0%}): {text}; {rate:.0f} pictures/s, {ready} batches wait")
                noted, images = time.time(), 0
            if time.time() - checked > self.arguments.check_seconds:
                self.check()
                self.save()
                noted, images, checked = time.time(), 0, time.time()

    def _step(self, share: float) -> dict[str, torch.Tensor]:
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share))
        rate = float(self.stage["rate"]) * cosine
        warmth = min(1.0, (self.since_start + 1) / WARM_UP)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["slower"] * (warmth if group["warm"] else 1.0)
        slots, slot = self.feeder.take()
        batch = to_device(slots, self.device)
        self.feeder.release(slot)
        weights = replace(self.weights, dense=self.weights.dense * (1 - self.stage["fade"] * share))
        found = losses(self.model, self.heads, batch, weights, self.dtype)
        total = sum(getattr(weights, name) * value for name, value in found.items())
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.since_start += 1
        self.progress["steps"] += 1
        self.progress["images"] += self.arguments.batch
        return found

    def check(self) -> None:
        """Measure on validation scenes, and ask more of what goes wrong."""
        got, _, _ = accuracy(self.model, self.checker, self.check_batches, self.device, self.dtype)
        self.progress["validation"] = got
        worst = sorted(got, key=lambda name: got[name])[:6]
        text = ", ".join(f"{name} {100 * got[name]:.1f}" for name in worst)
        self.log(f"validation {by_family(got)}; lowest: {text}")
        if self.adaptive:
            self.feeder.weights[:] = weights_by_error(got)

    def test(self) -> None:
        """Measure on the benchmark's scenes."""
        if self.tester is None:
            return
        got, blind, number = accuracy(self.model, self.tester, self.test_batches, self.device, self.dtype)
        self.progress["test"] = {"accuracy": got, "wrong image": blind, "questions": number}
        for name in NAMES:
            self.log(f"{name:18} {100 * got[name]:6.1f}  wrong image {100 * blind[name]:6.1f}  of {number[name]}")
        self.log(f"families {by_family(got)}, wrong image {by_family(blind)}")

    def close(self) -> None:
        """End the workers."""
        for feeder in (self.feeder, self.checker, self.tester):
            if feeder is not None:
                feeder.close()


def main() -> None:
    """Run one call."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", help="a stage of stages.yaml")
    parser.add_argument("--start", type=Path, help="checkpoint folder to start from; without, fresh weights")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the log")
    parser.add_argument("--keep", type=Path, help="file with everything for an exact continuation")
    parser.add_argument("--seconds", type=float, default=540, help="this call's limit, measurement included")
    parser.add_argument("--stage-seconds", type=float, help="stretch the stage over other than its own seconds")
    parser.add_argument("--loss", nargs="+", default=[], type=loss_weight, metavar="NAME=WEIGHT", help="other weights")
    parser.add_argument("--seed", type=int, default=0, help="added to the stage's own seed")
    parser.add_argument("--reserve", type=float, default=20, help="seconds kept for saving and the final measurement")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--every", type=int, default=200, help="steps between two lines of the log")
    parser.add_argument("--check", type=int, default=256, help="validation scenes of a check")
    parser.add_argument("--check-seconds", type=float, default=45)
    parser.add_argument("--test", type=int, default=2048, help="scenes of the measurement at the end; 0 for none")
    parser.add_argument("--test-split", default="validation", help="split of that measurement")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = Log(arguments.out / "train.log")
    trainer = Trainer(arguments, log)
    train(trainer, log)
    trainer.keep()


if __name__ == "__main__":
    main()
