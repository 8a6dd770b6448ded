"""Train several models side by side, under a limit of wall-clock time: they see the same and differ in their weights.

``python -m experiments.trainings.train --out DIR --seeds 0,1,2 --seconds 540``

DIR holds everything (``state.safetensors``, ``state.json``), so that the same command goes on where it stopped, through
all stages of ``stages.yaml``; and a folder for each seed, which ``experiments.trainings.package`` makes a model of.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from experiments.embedded.batches import IGNORED, KINDS_OF_QUESTIONS, SUBFAMILIES, Feeder, Shown
from experiments.embedded.ending import train, write_folder, write_tensors, write_text
from experiments.embedded.losses import branches_of
from experiments.embedded.train import Log, by_family, elapsed, to_device
from experiments.trainings.kinds import KINDS, QWEN, Kind
from experiments.trainings.losses import starved_rows
from experiments.trainings.network import Stack
from experiments.trainings.step import CapturedStep, Step, adam_step
from tokenprune.data.scenes.styles import NATURAL

NAMES = ["/".join(pair) for pair in KINDS_OF_QUESTIONS]
PICTURES = ["/".join(pair) for pair in SUBFAMILIES]
TRAIN_LENGTH, TEST_LENGTH = QWEN.lengths
WARM_UP = 300
CLIP = Shown(frames=8, size=(224, 224), rows=32)
WIDE = tuple(Shown(NATURAL, size) for size in NATURAL.sizes)
CYCLE = (*(one for wide in WIDE for one in (Shown(), Shown(), wide)), CLIP)
"""What training shows: two plain scenes and one of each shape of the natural ones in turn, then clips; stages say which
of the three."""
AHEAD = 2
"""Steps that are launched before the first of them is done."""
GROUPS = {"plain": (Shown(),), "natural": WIDE, "clips": (CLIP,)}
"""What is measured apart."""


def recipe(total: float | None, kind: Kind = QWEN, file: Path | None = None) -> dict[str, dict[str, Any]]:
    """Stages of a kind, or of a file, by name, stretched over ``total`` seconds."""
    stages: dict[str, dict[str, Any]] = yaml.safe_load((file or kind.recipe).read_text())
    whole = sum(stage["seconds"] for stage in stages.values())
    for stage in stages.values():
        stage["seconds"] *= (total or whole) / whole
    return stages


def weights_by_error(accuracies: Mapping[str, float]) -> list[int]:
    """Ask a sub-family the more often the more often it goes wrong; none is ever forgotten.

    One that was not measured is asked as often as one that goes wrong once in ten times.
    """
    return [max(20, min(300, round(1000 * (1 - accuracies.get(name, 0.9))))) for name in PICTURES]


def pooled(found: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """Accuracy of each sub-family over all groups that ask it and all models."""
    values: dict[str, list[float]] = {}
    for group in found.values():
        for name, shares in group.items():
            values.setdefault(name, []).extend(shares)
    return {name: sum(each) / len(each) for name, each in values.items()}


class Trainings:
    """K models on one stream of pictures, from wherever they were left.

    Attributes
    ----------
    stages_file : Path, optional
        By default the kind's.
    cycle, groups : as ``CYCLE`` and ``GROUPS``
    tested : mapping
        Share of the scenes that are asked for that a group is measured on.
    judged_by : str
        Group whose validation scenes tell which seed is the best.
    """

    stages_file: Path | None = None
    cycle: Sequence[Shown] = CYCLE
    groups: Mapping[str, Sequence[Shown]] = GROUPS
    tested: Mapping[str, float] = {"plain": 1, "natural": 1, "clips": 0.25}
    judged_by = "plain"

    def __init__(self, arguments: argparse.Namespace, log: Log) -> None:
        self.arguments, self.log = arguments, log
        self.kind = KINDS[arguments.kind]
        self.stages = recipe(arguments.total, self.kind, self.stages_file)
        self.device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
        state_file = arguments.out / "state.json"
        self.progress: dict[str, Any] = {"seconds": 0.0, "steps": 0, "batches": 0, "replays": 0, "seen": {}}
        if state_file.exists():
            self.progress = json.loads(state_file.read_text())
        self.shape = dict(arguments.shape)
        self._start_feeders()
        self.dtype = torch.bfloat16 if self.device.startswith("cuda") else torch.float32
        torch.set_float32_matmul_precision("high")
        self._make_models()
        self.seen: dict[Shown, dict[str, Tensor]] = {}
        self.pool: list[tuple[Shown, dict[str, Tensor]]] = []
        self.running: list[Any] = []
        self.step = self._made_step()
        torch.manual_seed(arguments.data_seed + self.progress["steps"])
        each = self.stack.flat.shape[1] / 1e6
        log(f"{len(self.seeds)} models of {each:.2f} M parameters; from {self.progress}; torch {torch.__version__}")

    def _start_feeders(self) -> None:
        # before the accelerator is touched: the workers are forks of this process
        a = self.arguments
        start = self.progress["batches"] * a.batch
        shown = [Shown(s.style, s.size, s.frames, max(1, a.batch // 2) if s.frames > 1 else None) for s in self.cycle]
        weights = [100] * len(PICTURES)
        self.feeder = Feeder(
            a.workers,
            a.batch,
            self.kind.lengths[0],
            "train",
            a.data_seed,
            start,
            weights,
            cycle=shown,
            shown=shown_in(self.stages.get(self.where()[0], {}), self.cycle),
            uses=a.uses,
            kept=a.kept,
        )
        # what no stage shows is not measured either
        able = {kind_of(one) for stage in self.stages.values() for one in shown_by(stage, self.cycle)}
        self.groups = {name: cycle for name, cycle in self.groups.items() if name in able}
        length, first = self.kind.lengths[1], self.progress["steps"] * a.batch
        self.checkers = {
            name: Feeder(2, a.batch, length, "validation", a.data_seed, first, cycle=c)
            for name, c in self.groups.items()
        }

    def _make_models(self) -> None:
        a = self.arguments
        self.seeds = [int(seed) for seed in a.seeds.split(",")]
        models, heads = [], []
        for seed in self.seeds:
            torch.manual_seed(1000 + seed)
            models.append(self.first_model())
            heads.append(self.kind.heads_of(models[-1]))
        self.config = models[0].config
        self.stack = Stack(models, heads)
        flat = self.stack.flat
        moments = {"first": torch.zeros_like(flat), "second": torch.zeros_like(flat)}
        kept = a.out / "state.safetensors"
        if kept.exists():
            found = load_file(kept)
            flat, moments = found.pop("flat"), found
        self.flat = flat.to(self.device)
        self.moments = {name: value.to(self.device) for name, value in moments.items()}
        shapes = self.stack.shapes
        self.decay = self.stack.spread({n: 0.05 if len(s) > 1 else 0.0 for n, s in shapes.items()}).to(self.device)
        self.slowed = self.stack.spread({n: 0.5 * float(n.startswith(self.kind.slow)) for n in shapes}).to(self.device)

    def first_model(self) -> Any:
        """A model to begin with, drawn by the seed that was set."""
        return self.kind.build(**self.shape)

    def _made_step(self) -> Step | CapturedStep:
        compiled = self.arguments.compile
        step = Step(
            self.stack,
            self.config,
            self.flat,
            *self.moments.values(),
            self.decay,
            self.slowed,
            self.dtype,
            self.kind.compiled() if compiled else self.kind.eager(),
            torch.compile(adam_step, dynamic=False) if compiled else adam_step,
            self.kind.losses,
        )
        return CapturedStep(step, self.log) if self.arguments.capture else step

    def where(self) -> tuple[str, float]:
        """Stage, and the share of it that is over."""
        left = self.progress["seconds"]
        for name, stage in self.stages.items():
            if left < stage["seconds"]:
                return name, left / stage["seconds"]
            left -= stage["seconds"]
        return "", 1.0

    def run(self) -> None:
        """Train until all stages or this call's time is over."""
        a, stage_before = self.arguments, ""
        before, began = self.progress["seconds"], elapsed()
        noted, steps, checked = time.time(), 0, time.time()
        last = self.progress["steps"] + a.steps if a.steps else math.inf
        while elapsed() < a.seconds - a.reserve and self.progress["steps"] < last:
            self.progress["seconds"] = before + elapsed() - began
            name, share = self.where()
            if not name:
                break
            if name != stage_before:
                stage_before = name
                self._enter(name)
            before_it = elapsed()
            values = self._step(self.stages[name], share)
            if isinstance(self.step, CapturedStep) and not self.step.ready:
                began += elapsed() - before_it  # compiling is no time of a stage
            steps += 1
            if self.progress["steps"] % a.every == 0 or self.progress["steps"] in (1, 20):
                told = values.tolist()
                if not all(math.isfinite(v) for row in told for v in row):
                    raise FloatingPointError(f"a loss is not finite: {told}")
                text = "; ".join(
                    f"{n} {' '.join(f'{v:.3f}' for v in row)}" for n, row in zip(self.kind.names, told, strict=True)
                )
                rate = steps / (time.time() - noted)
                self.log(
                    f"{name} {share:.0%}, step {self.progress['steps']}: {text}; {rate:.1f} steps/s, "
                    f"{self.progress['replays']} replays, {self.feeder.ready()} wait"
                )
                noted, steps = time.time(), 0
            if time.time() - checked > a.check_seconds:
                self.check()
                self.save()
                noted, steps, checked = time.time(), 0, time.time()
        self.progress["seconds"] = before + elapsed() - began

    def _enter(self, name: str) -> None:
        stage = self.stages[name]
        self.feeder.shown[:] = [int(one) for one in shown_in(stage, self.cycle)]
        weights = stage.get("weights")
        if weights == "by error":
            if "validation" not in self.progress:
                self.check()
            self.feeder.weights[:] = weights_by_error(self.progress["validation"])
        elif weights:
            self.feeder.weights[:] = [weights[pair] for pair in PICTURES]
        self.log(f"stage {name}: {stage}")

    def _tensors(self, shown: Shown) -> dict[str, Tensor]:
        if shown not in self.seen:
            self.log(f"first batch of {kind_of(shown)}, {shown.size}")
            self.seen[shown] = self.kind.tensors(shown, self.device)
        return self.seen[shown]

    def _next(self) -> tuple[Shown, dict[str, Tensor]]:
        """A new batch, or where none waits one that was shown before, once."""
        if self.feeder.ready() == 0 and len(self.pool) > 32:
            self.progress["replays"] += 1
            return self.pool.pop(int(torch.randint(len(self.pool), ())))
        slots, slot = self.feeder.take()
        shown = self.feeder.shown_in(slot)
        batch = to_device(slots, self.device)
        self.feeder.release(slot)
        self.progress["batches"] += 1
        self.progress["seen"][kind_of(shown)] = self.progress["seen"].get(kind_of(shown), 0) + len(batch["images"])
        if self.arguments.replay:
            self.pool.append((shown, dict(batch)))
            if len(self.pool) > self.arguments.replay:
                self.pool.pop(0)
        return shown, batch

    def _step(self, stage: Mapping[str, Any], share: float) -> Tensor:
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share))
        rate = float(stage["rate"]) * cosine * min(1.0, (self.progress["steps"] + 1) / WARM_UP)
        answers = bool(stage["losses"]["answers"])
        shown, batch = self._next()
        seen = self._tensors(shown)
        images = batch.pop("images")
        sight, starved = starved_rows(len(images), len(seen["visual"]), self.device)
        counts = [float(stage["losses"][name]) for name in self.kind.names]
        counts[self.kind.names.index("dense")] *= 1 - stage["fade"] * share
        self.progress["steps"] += 1
        numbers = torch.tensor([*counts, rate, float(self.progress["steps"])])
        if self.device == "cuda":
            numbers = numbers.pin_memory().to(self.device, non_blocking=True)
        given = {
            "patches": self.kind.patches_of(images, seen, self.dtype),
            **batch,
            **seen,
            "sight": sight,
            "starved": starved,
            "counts": numbers[:-2],
            "rate": numbers[-2],
            "step": numbers[-1],
        }
        values = self.step(given, answers)
        self._keep_pace()
        return values

    def _keep_pace(self) -> None:
        """Wait until only a few steps are under way, so that the clock is that of the accelerator."""
        if self.device != "cuda":
            return
        done = torch.cuda.Event()
        done.record()
        self.running.append(done)
        if len(self.running) > AHEAD:
            self.running.pop(0).synchronize()

    @torch.no_grad()
    def accuracy(self, feeder: Feeder, batches: int) -> tuple[Tensor, Tensor]:
        """Questions rightly answered, (K, 2, sub-families), with the picture and with the next; questions asked.

        Teacher-forced: all tokens of the answer and its end are the most likely ones.
        """
        right = torch.zeros(len(self.seeds), 2, len(NAMES), device=self.device)
        asked = torch.zeros(len(NAMES), device=self.device)
        state = self.stack.state(self.flat.to(self.dtype))
        for _ in range(batches):
            slots, slot = feeder.take()
            seen = self._tensors(feeder.shown_in(slot))
            batch = to_device(slots, self.device)
            feeder.release(slot)
            patches = self.kind.patches_of(batch["images"], seen, self.dtype)
            visual = self.kind.visual(state, self.config, patches, seen)
            branches, targets = branches_of(batch), batch["targets"].long()
            rows, starts = (batch["kinds"] >= 0).nonzero(as_tuple=True)
            kinds, numbers = batch["kinds"][rows, starts].long(), branches.branch[rows, starts]
            asked += torch.bincount(kinds, minlength=len(NAMES))
            for which, shown in enumerate((visual, visual.roll(1, 2))):
                said = self.kind.answer(state, self.config, shown, branches, seen).argmax(-1)
                wrong = ((said != targets) & (targets != IGNORED)).float()
                faults = torch.zeros(*wrong.shape[:2], int(numbers.max()) + 2, device=self.device)
                faults.scatter_add_(2, (branches.branch + 1).expand(len(wrong), -1, -1), wrong)
                good = (faults[:, rows, numbers + 1] == 0).float()
                right[:, which].index_add_(1, kinds, good)
        return right, asked

    def measured(self, feeders: Mapping[str, Feeder], batches: Mapping[str, int]) -> dict[str, Any]:
        """By group: accuracy of each model, with a wrong picture, and questions, by sub-family."""
        found: dict[str, Any] = {"accuracy": {}, "wrong image": {}, "questions": {}}
        for group, feeder in feeders.items():
            right, asked = self.accuracy(feeder, batches[group])
            shares = (right / asked.clamp_min(1)).tolist()
            names = [(i, name) for i, name in enumerate(NAMES) if asked[i] > 0]
            for which, key in enumerate(("accuracy", "wrong image")):
                found[key][group] = {name: [model[which][i] for model in shares] for i, name in names}
            found["questions"][group] = {name: int(asked[i]) for i, name in names}
        return found

    def check(self) -> None:
        """Measure on validation scenes, and ask more of what goes wrong."""
        shown = {kind_of(one) for one in itertools.compress(self.cycle, self.feeder.shown[:])}
        batches = {name: math.ceil(self.arguments.check * share) for name, share in self.tested.items()}
        got = self.measured({g: f for g, f in self.checkers.items() if g in shown}, batches)["accuracy"]
        self.progress["validation"] = pooled(got)
        for group, values in got.items():
            mean = {name: sum(v) / len(v) for name, v in values.items()}
            worst = sorted(mean, key=lambda name: mean[name])[:5]
            text = ", ".join(f"{name} {'/'.join(f'{100 * v:.0f}' for v in values[name])}" for name in worst)
            self.log(f"validation, {group}: {by_family(mean)}; lowest: {text}")
        each = [{name: shares[k] for name, shares in got[self.judged_by].items()} for k in range(len(self.seeds))]
        self.progress["validated"] = {
            seed: sum(values.values()) / len(values) for seed, values in zip(self.seeds, each, strict=True)
        }
        for seed, values in zip(self.seeds, each, strict=True):
            self.log(f"  seed {seed}, {self.judged_by}: " + ", ".join(f"{n} {100 * v:.0f}" for n, v in values.items()))
        if self.stages.get(self.where()[0], {}).get("weights") == "by error":
            self.feeder.weights[:] = weights_by_error(self.progress["validation"])

    def test(self) -> None:
        """Measure on scenes of another split, which nothing was chosen by, where that was asked for."""
        a = self.arguments
        if not a.test:
            return
        size, length, workers = a.batch, self.kind.lengths[1], max(1, a.workers // 2)
        batches = {
            name: max(len(cycle), math.ceil(a.test * self.tested[name] / size)) for name, cycle in self.groups.items()
        }
        feeders = {
            name: Feeder(workers, size, length, a.test_split, 0, 0, None, batches[name], cycle)
            for name, cycle in self.groups.items()
        }
        found = self.measured(feeders, batches)
        for feeder in feeders.values():
            feeder.close()
        self.progress["test"] = {"split": a.test_split, "seeds": self.seeds, **found}
        for group, values in found["accuracy"].items():
            for name, shares in values.items():
                text = " ".join(f"{100 * v:6.1f}" for v in shares)
                blind = " ".join(f"{100 * v:6.1f}" for v in found["wrong image"][group][name])
                self.log(f"{group:8} {name:18} {text}  wrong {blind}  of {found['questions'][group][name]}")

    def save(self) -> None:
        """Write the state, and a folder of weights in fp16 for each model; each file is complete or absent."""
        out: Path = self.arguments.out
        flat = self.flat.detach().cpu()
        moments = {name: value.cpu() for name, value in self.moments.items()}
        write_tensors(out / "state.safetensors", {"flat": flat, **moments})
        write_text(out / "state.json", json.dumps(self.progress, indent=1))
        for k, seed in enumerate(self.seeds):
            state = self.stack.state(flat)
            kept = {n: p[k] for n, p in state.items() if not n.startswith("heads.")}
            meta = {
                "kind": self.arguments.kind,
                "shape": self.shape,
                "seed": seed,
                "progress": for_one(self.progress, k),
                "torch": torch.__version__,
            }
            write_folder(out / f"seed-{seed}", kept, meta)
        self.log(f"saved at step {self.progress['steps']}")

    def close(self) -> None:
        """End the workers."""
        for feeder in (self.feeder, *self.checkers.values()):
            feeder.close()


def shown_by(stage: Mapping[str, Any], cycle: Sequence[Shown] = CYCLE) -> list[Shown]:
    """What a stage shows."""
    return list(itertools.compress(cycle, shown_in(stage, cycle)))


def shown_in(stage: Mapping[str, Any], cycle: Sequence[Shown] = CYCLE) -> list[bool]:
    """Which of a cycle a stage shows."""
    said = {"plain": True, "natural": bool(stage.get("natural")), "clips": bool(stage.get("clips"))}
    return [said[kind_of(one)] for one in cycle]


def kind_of(shown: Shown) -> str:
    """Group of what a batch shows."""
    return "clips" if shown.frames > 1 else shown.style.name


def for_one(progress: Mapping[str, Any], k: int) -> dict[str, Any]:
    """Progress with the measurements of one model."""
    found = dict(progress)
    if "test" in progress:
        test = dict(progress["test"])
        for key in ("accuracy", "wrong image"):
            test[key] = {g: {n: v[k] for n, v in values.items()} for g, values in test[key].items()}
        found["test"] = test
    return found


def _shape(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    return name, int(number)


def parser(about: str) -> argparse.ArgumentParser:
    """Options of a call."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the state, the weights and the log")
    parser.add_argument("--kind", choices=KINDS, default="qwen", help="family of the models")
    parser.add_argument("--seeds", default="0", help="seeds of the models' first weights, comma-separated")
    parser.add_argument("--data-seed", type=int, default=0, help="seed of the scenes, which all models share")
    parser.add_argument("--seconds", type=float, default=540, help="this call's limit, measurement included")
    parser.add_argument("--reserve", type=float, default=20, help="seconds of it kept for measuring and saving")
    parser.add_argument("--steps", type=int, help="steps of this call at most")
    parser.add_argument("--total", type=float, help="seconds of a whole training, over all calls; default the stages'")
    parser.add_argument("--device", help="'cpu', 'cuda', 'cuda:1'; default what there is")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--replay", type=int, default=256, help="batches kept on the device, to be shown once more")
    parser.add_argument("--shape", nargs="+", default=[], type=_shape, metavar="NAME=N", help="arguments of build")
    parser.add_argument("--uses", type=int, default=3, help="how often a picture is shown, with other questions")
    parser.add_argument("--kept", type=int, default=300, help="pictures of a kind that a worker keeps for that")
    parser.add_argument("--compile", action="store_true", help="compile the step")
    parser.add_argument("--capture", action="store_true", help="launch a step at once, as a graph")
    parser.add_argument("--every", type=int, default=200, help="steps between two lines of the log")
    parser.add_argument("--check", type=int, default=4)
    parser.add_argument("--check-seconds", type=float, default=60)
    parser.add_argument("--test", type=int, default=0, help="scenes of the last measurement; 0 for none")
    parser.add_argument("--test-split", default="test", help="split of that measurement")
    return parser


def run(kind: Callable[[argparse.Namespace, Log], Trainings], arguments: argparse.Namespace) -> None:
    """Run one call."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = Log(arguments.out / "train.log")
    train(kind(arguments, log), log)


def main() -> None:
    """Run one call."""
    run(Trainings, parser(__doc__).parse_args())


if __name__ == "__main__":
    main()
