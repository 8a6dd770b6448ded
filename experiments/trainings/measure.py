"""How long a step takes, and whether a captured one is the same: ``python -m experiments.trainings.measure --compile``.

One batch is painted and shown again and again. Prints pictures a second, and on an accelerator the operations that take
longest; ``--same`` compares captured steps with those that are launched one by one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from experiments.embedded.batches import Batch, Feeder, Shown, write_training_scene
from experiments.embedded.losses import IGNORED
from experiments.trainings.kinds import KINDS as FAMILIES
from experiments.trainings.kinds import Kind
from experiments.trainings.losses import starved_rows
from experiments.trainings.network import Stack
from experiments.trainings.step import CapturedStep, Step, adam_step
from experiments.trainings.train import CLIP, CYCLE, PICTURES, TRAIN_LENGTH
from tokenprune.data.scenes.styles import NATURAL

KINDS = {"plain": Shown(), "small": Shown(NATURAL, (336, 224)), "clips": CLIP}
"""Pictures of 144 and of 96 tokens, clips of 256."""
PAINTED = 16


def given_for(kind: Kind, shown: Shown, rows: int, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Inputs of a step: few pictures, repeated."""
    few = min(rows, PAINTED)
    length = kind.lengths[0]
    batch = Batch.views(bytearray(Batch.nbytes(few, length, shown)), few, length, shown)
    for row in range(few):
        write_training_scene(batch, row, "train", 0, shown.index(row), [100] * len(PICTURES), shown)
    tensors = {name: torch.from_numpy(array.copy()).to(device) for name, array in batch.items()}
    tensors = {
        name: tensor.repeat(-(-rows // few), *[1] * (tensor.dim() - 1))[:rows] for name, tensor in tensors.items()
    }
    seen = kind.tensors(shown, device)
    sight, starved = starved_rows(rows, len(seen["visual"]), device)
    images = tensors.pop("images")
    return {
        "patches": kind.patches_of(images, seen, dtype),
        **tensors,
        **seen,
        "sight": sight,
        "starved": starved,
        "counts": torch.ones(len(kind.names), device=device),
        "rate": torch.tensor(1e-3, device=device),
        "step": torch.tensor(1.0, device=device),
    }


def made(arguments: argparse.Namespace, device: str, dtype: torch.dtype, compiled: bool) -> Step:
    """Models with fresh weights, and their step."""
    torch.manual_seed(0)
    shape, kind = dict(arguments.shape), FAMILIES[arguments.kind]
    models = [kind.build(**shape) for _ in range(arguments.models)]
    stack = Stack(models, [kind.heads_of(model) for model in models])
    flat = stack.flat.to(device)
    zeros = torch.zeros(flat.shape[1], device=device)
    return Step(
        stack,
        models[0].config,
        flat,
        torch.zeros_like(flat),
        torch.zeros_like(flat),
        zeros,
        zeros,
        dtype,
        kind.compiled() if compiled else kind.eager(),
        torch.compile(adam_step, dynamic=False) if compiled else adam_step,
        kind.losses,
    )


def seconds(run: Callable[[], object], times: int, device: str) -> float:
    """Mean time of a call, after a few that are not counted."""
    for _ in range(6):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / times


def differences(arguments: argparse.Namespace, given: dict[str, Tensor], device: str, dtype: torch.dtype) -> None:
    """Print how far captured steps end from launched ones, and how far launched ones end from themselves."""
    ends = []
    for captured in (False, False, True):
        step = made(arguments, device, dtype, False)
        run = CapturedStep(step, print) if captured else step
        for number in range(1, 9):
            values = run(given | {"step": torch.tensor(float(number), device=device)}, True)
        ends.append((step.flat.clone(), values))
    (flat, values), *others = ends
    for name, (other, found) in zip(("launched again", "captured"), others, strict=True):
        far = (other - flat).abs()
        print(
            f"after 8 steps, {name}: parameters differ by {far.max():.2e} at most, {far.mean():.2e} on average; "
            f"losses by {(found - values).abs().max():.2e} of {values.abs().max():.2f}",
            flush=True,
        )


def painters(arguments: argparse.Namespace) -> None:
    """Print how many pictures workers paint."""
    cycle = [one for one in CYCLE if one.frames == 1]
    for name, shown in (("plain", [one.style is not NATURAL for one in cycle]), ("plain and natural", None)):
        for uses in (1, arguments.uses):
            feeder = Feeder(
                arguments.workers, arguments.batch, TRAIN_LENGTH, "train", 0, 0, [100] * len(PICTURES),
                cycle=cycle, shown=shown, uses=uses, kept=300,
            )  # fmt: skip
            pictures, questions = 0, 0
            for number in range(10**9):
                if number == 3 * arguments.workers:
                    began = time.perf_counter()
                elif number > 3 * arguments.workers and time.perf_counter() > began + arguments.painting:
                    break
                batch, slot = feeder.take()
                if number >= 3 * arguments.workers:
                    pictures += len(batch.images)
                    questions += int((batch.kinds >= 0).sum())
                feeder.release(slot)
            took = time.perf_counter() - began
            feeder.close()
            print(
                f"{name}, {uses} uses: {pictures / took:.0f} pictures a second of {arguments.workers} workers, "
                f"{questions / max(1, pictures):.1f} questions each",
                flush=True,
            )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=FAMILIES, default="qwen", help="family of the models")
    parser.add_argument("--models", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["plain"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--capture", action="store_true")
    parser.add_argument("--same", action="store_true", help="compare captured with launched steps")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--painting", type=float, default=0, help="seconds of each measurement of painters instead")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--uses", type=int, default=3)
    parser.add_argument("--shape", nargs="+", default=[], type=_shape, metavar="NAME=N", help="arguments of build")
    arguments = parser.parse_args()
    if arguments.painting:
        painters(arguments)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.set_float32_matmul_precision("high")
    if arguments.same:
        given = given_for(FAMILIES[arguments.kind], KINDS[arguments.kinds[0]], arguments.batch, device, dtype)
        differences(arguments, given, device, dtype)
        return
    began = time.perf_counter()
    step = made(arguments, device, dtype, arguments.compile)
    run = CapturedStep(step, print) if arguments.capture else step
    for kind in arguments.kinds:
        for answers in (False, True):
            given = given_for(FAMILIES[arguments.kind], KINDS[kind], arguments.batch, device, dtype)
            assert int((given["targets"] != IGNORED).sum())
            took = seconds(lambda: run(given, answers), arguments.times, device)  # noqa: B023
            print(
                f"{kind}, answers {answers}: {1000 * took:.1f} ms a step of {arguments.models} models, "
                f"{arguments.batch / took:.0f} pictures a second; {time.perf_counter() - began:.0f} s since the start",
                flush=True,
            )
    if arguments.profile and device == "cuda":
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
            for _ in range(3):
                run(given, True)
            torch.cuda.synchronize()
        print(found.key_averages().table(sort_by="cuda_time_total", row_limit=40, max_name_column_width=90))


def _shape(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    return name, int(number)


if __name__ == "__main__":
    main()
