"""What selection costs on an accelerator, and whether it picks what it should.

    python experiments/speed/selection.py --out selection.json
    python experiments/speed/selection.py --long --out long.json

Times are medians of 50 calls after 30, on the host's clock, synchronised: ``eager`` is ``Strategy.select``, ``graph``
the same call captured in a CUDA graph. Picks are compared with the plain tensor operations on the same device
(``TOKENPRUNE_KERNELS=0``), with float64 features on the CPU, and with the plain loops of references
(``tokenprune_strategies.reference``). Everything found so far is written after each step; a step that fails says why
and the others go on.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import tokenprune as tp
from tokenprune.benchmark.clock import account, captured, synchronise, timed
from tokenprune.core.ranking import relevance
from tokenprune.core.reference import load_reference

FIXED = ("random", "similarity", "attention", "mi-pruner", "mi-attention", "divprune", "cdpruner", "mmtok", "visionzip")
FIXED += ("vispruner", "holov", "trimtokenator")
"""Strategies of a fixed budget whose ``select`` is called on features alone."""

LONG = ((16384, 1024), (65536, 4096))
"""Tokens, and how many are kept."""

MANY = 400
"""Milliseconds beyond which picks are operations one by one: so many that a graph of them is not tried."""

LOOPS = ("mi-pruner", "divprune", "cdpruner", "mmtok", "vispruner")
"""Methods that are timed against their reference, too."""


def made(
    n: int,
    device: str,
    *,
    seed: int = 0,
    batch: int = 1,
    d: int = 4096,
    e: int = 1024,
    text: int = 40,
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:
    """Signals with what real ones have: a large common part, some tens of groups of alike tokens, and noise."""
    draw = torch.Generator(device=device).manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, device=device)

    def grouped(width: int) -> torch.Tensor:
        group = torch.randint(40, (batch, n), generator=draw, device=device)
        centres = normal(batch, 40, width)
        alike = centres.gather(1, group.unsqueeze(-1).expand(-1, -1, width))
        return 0.7 * normal(batch, 1, width) + alike + 0.7 * normal(batch, n, width)

    signals = {
        "visual": grouped(d),
        "text": 0.3 * normal(batch, 1, d) + normal(batch, text, d),
        "encoder": grouped(e),
        "keys": normal(batch, n, 64),
        "encoder_cls": normal(batch, e),
        "cls_attention": (3 * normal(batch, 16, n)).softmax(-1),
        "received_attention": (2 * normal(batch, n)).softmax(-1),
    }
    return {name: value.to(dtype) for name, value in signals.items()}


def median_ms(call: Callable[[], object], device: str, repeats: int = 50, warm: int = 30) -> float:
    """Median of synchronised calls on the host's clock, in milliseconds."""
    return round(timed(call, torch.device(device), repeats, warm).median, 4)


def captured_selection(signals: dict[str, torch.Tensor], strategy: tp.Strategy, keep: int) -> tuple[Any, Any]:
    """A CUDA graph of features and selection, and the selection it fills."""

    def call() -> tp.Selection:
        return strategy.select(tp.Features(**signals, check=False), keep)

    return captured(call)


def waits(call: Callable[[], object]) -> str | None:
    """What a call says when the host may not wait for the device; None where it does not wait."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return None


class Record:
    """Results by step, written after each; steps share a limit of time."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.end, self.found = path, time.monotonic() + seconds, {}  # type: dict[str, Any]

    def step(self, name: str, call: Callable[[], Any]) -> Any:
        """Run one step, unless time is up, and write everything found."""
        start = time.monotonic()
        try:
            result = call() if start < self.end else {"left out": "no time left"}
        except Exception as error:
            result = {"failed": f"{type(error).__name__}: {error}"[:600], "at": traceback.format_exc()[-900:]}
        self.found[name] = result
        self.path.write_text(json.dumps(self.found, indent=1))
        print(f"{name} [{time.monotonic() - start:.1f} s]: {json.dumps(result)[:700]}", flush=True)
        return result


def plainly(call: Callable[[], Any]) -> Any:
    """Run without the programs of ``tokenprune.kernels``."""
    os.environ["TOKENPRUNE_KERNELS"] = "0"
    try:
        return call()
    finally:
        del os.environ["TOKENPRUNE_KERNELS"]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether picks are equal, order included."""
    return bool(torch.equal(a.cpu(), b.cpu()))


def versions(device: str) -> dict[str, Any]:
    """What ran where."""
    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__, "device": device}
    if device == "cuda":
        import triton

        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "triton": triton.__version__}
    return found


def cost(
    strategy: tp.Strategy, signals: dict[str, torch.Tensor], keep: int, device: str, plain: bool = True
) -> dict[str, Any]:
    """Eager and captured time of one selection, and whether plain operations pick the same."""
    features = tp.Features(**signals)
    selection = strategy.select(features, keep)
    row: dict[str, Any] = {"eager_ms": median_ms(lambda: strategy.select(features, keep), device)}
    if device == "cuda":
        # a failed capture would spoil what comes after it
        row["waits"] = waits(lambda: strategy.select(features, keep))
        if row["waits"] is None:
            graph, _ = captured_selection(signals, strategy, keep)
            row["graph_ms"] = median_ms(graph.replay, device)
    if plain:
        row["equal_to_plain"] = same(selection.order, plainly(lambda: strategy.select(features, keep)).order)
    return row


def greedy(objective: tp.Objective, state: Any, available: torch.Tensor, keep: int) -> torch.Tensor:
    """Picks from a state, one argmax a pick: (B, keep)."""
    left, picks = available.clone(), []
    for _ in range(keep):
        pick = objective.gains(state).masked_fill(~left, -torch.inf).argmax(-1)
        left.scatter_(1, pick.unsqueeze(-1), False)
        state = objective.take(state, pick)
        picks.append(pick)
    return torch.stack(picks, dim=1)


def parting(strategy: tp.Strategy, signals: dict[str, torch.Tensor], keep: int) -> dict[str, Any]:
    """Where the program parts from plain operations, which sum cosines in another order, and what that gains.

    ``equal_on_table``: the program's picks are those of a loop over the program's own numbers. The rest compares with
    plain operations from the features on: picks shared, the first step that differs, and how much less the program's
    pick of that step gains, by the plain numbers.
    """
    features = tp.Features(**signals)
    assert isinstance(strategy.scorer, tp.Scorer)
    objective = strategy.selector.objective  # type: ignore[attr-defined]

    def started() -> Any:
        return objective.start(features, relevance(strategy.scorer, features))  # type: ignore[arg-type]

    got = strategy.select(features, keep).order
    own = greedy(objective, started(), features.valid(), keep)
    return {"equal_on_table": same(got, own)} | apart(objective, started, features, got)


def apart(
    objective: tp.Objective, started: Callable[[], Any], features: tp.Features, got: torch.Tensor
) -> dict[str, Any]:
    """Whether picks are those of plain operations; where not, from which step on, and what that gives away."""
    keep = got.shape[1]
    wanted = plainly(lambda: greedy(objective, started(), features.valid(), keep))
    row: dict[str, Any] = {"equal_to_plain": same(got, wanted)}
    shared = [len(set(a) & set(b)) for a, b in zip(got.tolist(), wanted.tolist(), strict=True)]
    row |= {"shared": min(shared), "of": keep}
    differs = (got != wanted).any(0).nonzero().flatten().tolist()
    if differs:

        def lost() -> float:
            state = started()
            for pick in wanted[:, : differs[0]].unbind(1):
                state = objective.take(state, pick)
            gains = objective.gains(state)
            better, worse = (gains.gather(1, picks[:, differs[0], None]) for picks in (wanted, got))
            return float((better - worse).max())

        row |= {"parts_at": differs[0], "loses": plainly(lost)}
    return row


def against_loops(n: int, device: str, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """Time of each method's loop, and how much longer it takes than ``select``."""
    found: dict[str, Any] = {}
    signals = made(n, device, dtype=dtype)
    features = tp.Features(**signals)
    for name in LOOPS:
        strategy, reference = tp.build(name), load_reference(name)
        given = reference.signals(features)
        for keep in (64, 128):
            row = cost(strategy, signals, keep, device, plain=False)
            row["loop_ms"] = median_ms(lambda: reference.function(**given, keep=keep), device, repeats, 3)  # noqa: B023
            row["ratio_eager"] = round(row["loop_ms"] / row["eager_ms"], 1)
            if "graph_ms" in row:
                row["ratio_graph"] = round(row["loop_ms"] / row["graph_ms"], 1)
            picks, wanted = strategy.select(features, keep).order[0], reference(features, keep)[0]
            row["equal_to_loop"] = same(picks, wanted)
            row["shared_with_loop"] = len(set(picks.tolist()) & set(wanted.tolist())) / keep
            found[f"{name} K={keep}"] = row
    return found


def agreement(n: int, keep: int, device: str, dtype: torch.dtype, seeds: int) -> dict[str, Any]:
    """How often picks equal those of plain operations on the device, and of float64 features on the CPU."""
    found: dict[str, Any] = {}
    for name in ("mi-pruner", "divprune", "cdpruner", "mmtok", "vispruner"):
        strategy = tp.build(name)
        counts = {"plain": 0, "float64": 0, "set_float64": 0}
        for seed in range(seeds):
            signals = made(n, device, seed=seed, dtype=dtype, d=1024)
            got = strategy.select(tp.Features(**signals), keep)
            plain = plainly(lambda: strategy.select(tp.Features(**signals), keep))  # noqa: B023
            exact = strategy.select(tp.Features(**{k: v.cpu().double() for k, v in signals.items()}), keep)
            counts["plain"] += same(got.order, plain.order)
            counts["float64"] += same(got.order, exact.order)
            counts["set_float64"] += same(got.indices, exact.indices)
        found[name] = counts | {"of": seeds}
    return found


def unsynchronised(n: int, keep: int, dtype: torch.dtype) -> dict[str, Any]:
    """Which strategies select without waiting, may be captured, and replay other inputs rightly."""
    found: dict[str, Any] = {}
    for name in FIXED:
        row: dict[str, Any] = {}
        try:
            signals, others = (made(n, "cuda", seed=seed, dtype=dtype, d=1024) for seed in (1, 2))
            strategy = tp.build(name)
            features = tp.Features(**signals)
            first = strategy.select(features, keep)
            row["waits"] = waits(lambda: strategy.select(features, keep))  # noqa: B023
            if row["waits"] is not None:
                found[name] = row
                continue
            graph, selection = captured_selection(signals, strategy, keep)
            graph.replay()
            row["captured_equal"] = same(selection.order, first.order)
            want = strategy.select(tp.Features(**others), keep)
            for key, value in others.items():
                signals[key].copy_(value)
            graph.replay()
            row["replayed_equal"] = same(selection.order, want.order)
            selection.verify()
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {error}"[:300]
        found[name] = row
    return found


def profile(n: int, keep: int, dtype: torch.dtype) -> dict[str, Any]:
    """Device time of each program in one selection."""
    signals = made(n, "cuda", dtype=dtype)
    found: dict[str, Any] = {}
    for lam in (0.5, 1.0):
        strategy = tp.build("mi-pruner", lam=lam)
        graph, _ = captured_selection(signals, strategy, keep)
        graph.replay()
        found[f"lam={lam}"] = account(graph.replay, 10, 24)["top"]
    return found


def host(n: int, keep: int, device: str, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """Where the host spends its time in ``select``: microseconds a call, by function, without waiting."""
    signals = made(n, device, dtype=dtype)
    found: dict[str, Any] = {}
    for name in ("mi-pruner", "cdpruner", "vispruner"):
        strategy, features = tp.build(name), tp.Features(**signals)
        strategy.select(features, keep)
        start = time.perf_counter()
        for _ in range(repeats):
            strategy.select(features, keep)
        synchronise(torch.device(device))
        row: dict[str, Any] = {"us": round(1e6 * (time.perf_counter() - start) / repeats, 1)}
        profiler = cProfile.Profile()
        profiler.enable()
        for _ in range(repeats):
            strategy.select(features, keep)
        profiler.disable()
        synchronise(torch.device(device))
        calls = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
        costs = sorted(calls.items(), key=lambda item: -item[1][2])[:40]
        for (path, line, function), (_, count, own, total, _) in costs:
            where = f"{Path(path).parent.name}/{Path(path).name}:{line} {function}"[-90:]
            row[where] = [count / repeats, *(round(1e6 * t / repeats, 1) for t in (own, total))]
        found[name] = row
    return found


def long_cost(name: str, features: tp.Features, keep: int) -> dict[str, Any]:
    """Milliseconds of 5 calls after 2 (of one, where it takes a second), and memory above the features."""
    on_gpu = features.device.type == "cuda"
    call = partial(tp.build(name).select, features, keep)
    before = 0
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    call()
    found: dict[str, Any] = {}
    if on_gpu:
        found["above_mib"] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    once = median_ms(call, features.device.type, 1, 0)
    found["eager_ms"] = once if once > 1000 else median_ms(call, features.device.type, 5, 0)
    if on_gpu:
        found["device"] = account(call, 1, 8)
        found["waits"] = waits(call)
        if found["waits"] is None and found["eager_ms"] < MANY:
            graph, _ = captured(call)
            found["graph_ms"] = median_ms(graph.replay, "cuda", 5, 1)
    return found


def long_picks(name: str, features: tp.Features, keep: int) -> dict[str, Any]:
    """Picks against those of plain operations."""
    strategy = tp.build(name)
    objective, scorer = strategy.selector.objective, strategy.scorer  # type: ignore[attr-defined]

    def started() -> Any:
        none = features.visual.new_zeros(features.visual.shape[:2], dtype=torch.float32)
        return objective.start(features, none if scorer is None else relevance(scorer, features))  # type: ignore[arg-type]

    return apart(objective, started, features, strategy.select(features, keep).order)


def long(record: Record, device: str, dtype: torch.dtype) -> None:
    """An hour of video; what takes longest comes last."""
    (short, few), (most, many) = LONG
    sizes = {n: tp.Features(**made(n, device, dtype=dtype)) for n, _ in LONG}
    quick = ("mi-pruner", "divprune", "cdpruner")
    steps = [(long_cost, name, n, keep) for n, keep in LONG for name in quick]
    steps += [(long_picks, name, short, few) for name in quick] + [(long_cost, "mmtok", short, few)]
    steps += [(long_picks, name, most, many) for name in quick] + [(long_cost, "mmtok", most, many)]
    for what, name, n, keep in steps:
        label = f"{name} N={n} K={keep}" + (" picks" if what is long_picks else "")
        record.step(label, partial(what, name, sizes[n], keep))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("selection.json"))
    parser.add_argument("--seconds", type=float, default=600, help="begin no step after this long")
    parser.add_argument("--small", action="store_true", help="sizes for a CPU")
    parser.add_argument("--long", action="store_true", help="16,384 and 65,536 tokens alone")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16
    n = 160 if args.small else 576
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)
    record = Record(args.out, args.seconds)
    record.step("versions", lambda: versions(device))
    if args.long:
        long(record, device, dtype)
        return
    if device == "cuda":
        record.step("unsynchronised", lambda: unsynchronised(n, 64, dtype))

    def lambdas() -> dict[str, Any]:
        signals, found = made(n, device, dtype=dtype), {}
        for keep in (32,) if args.small else (32, 64, 128):
            rows = {lam: cost(tp.build("mi-pruner", lam=lam), signals, keep, device) for lam in (1.0, 0.5)}
            extra = {key: round(rows[0.5][key] - rows[1.0][key], 4) for key in rows[0.5] if key.endswith("_ms")}
            found[f"K={keep}"] = {"lam=1": rows[1.0], "lam=0.5": rows[0.5], "redundancy": extra}
        return found

    record.step("mi-pruner", lambdas)
    record.step("loops", lambda: against_loops(n, device, dtype, 3 if args.small else 10))

    def sizes() -> dict[str, Any]:
        found = {}
        cases = ((2048, 227, 1), (4096, 512, 1), (16384, 1024, 1), (576, 64, 64))
        for size, keep, batch in ((96, 24, 2),) if args.small else cases:
            signals = made(size, device, batch=batch, dtype=dtype)
            row = cost(tp.build("mi-pruner"), signals, keep, device, plain=False)
            if size * keep < 2**22:
                row |= parting(tp.build("mi-pruner"), signals, keep)
            found[f"N={size} K={keep} B={batch}"] = row
        return found

    record.step("sizes", sizes)
    if device == "cuda":
        record.step("profile", lambda: profile(n, 64, dtype))
    record.step("agreement", lambda: agreement(n, 16 if args.small else 64, device, dtype, 2 if args.small else 12))

    def others() -> dict[str, Any]:
        signals = made(n, device, dtype=dtype)
        found: dict[str, Any] = {}
        for name in FIXED:
            try:
                found[name] = cost(tp.build(name), signals, 16 if args.small else 64, device)
            except Exception as error:
                found[name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
        return found

    record.step("strategies", others)
    record.step("host", lambda: host(n, 64, device, dtype, 5 if args.small else 200))


if __name__ == "__main__":
    main()
