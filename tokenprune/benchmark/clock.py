"""Time on the host's clock, and what a machine could do at best."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch

__all__ = ["Peaks", "Timing", "account", "captured", "laps", "machine", "peaks", "synchronise", "timed"]


@dataclass(frozen=True)
class Timing:
    """Milliseconds of repeated calls.

    Attributes
    ----------
    mean, std, median : float
    repeats : int
    """

    mean: float
    std: float
    median: float
    repeats: int

    @property
    def row(self) -> dict[str, float]:
        """For JSON."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call: Callable[[], object], device: torch.device, repeats: int = 30, warm: int = 10) -> Timing:
    """Time a call, synchronised before and after.

    Parameters
    ----------
    call : callable
    device : torch.device
    repeats, warm : int, default 30 and 10
        Calls timed, and calls before them, as in the paper (Appendix B.4).
    """
    for _ in range(warm):
        call()
    times = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        times.append(1000 * (time.perf_counter() - start))
    return _timing(times)


def laps(
    run: Callable[[Callable[[str], None]], object], device: torch.device, repeats: int = 30, warm: int = 10
) -> dict[str, Timing]:
    """Time the parts of one call where the work happens: on the device's own clock, so that parts add up to the whole.

    Parameters
    ----------
    run : callable
        Is given a function to call at the end of each part with its name; each name once.
    device : torch.device
    repeats, warm : int, default 30 and 10

    Returns
    -------
    dict of str to Timing
        Part -> milliseconds between its end and that of the part before, waiting included.
    """
    found: dict[str, list[float]] = {}
    for turn in range(warm + repeats):
        marks: list[tuple[str, Any]] = []

        def mark(name: str, marks: list[tuple[str, Any]] = marks) -> None:
            if device.type == "cuda":
                event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
                event.record()
                marks.append((name, event))
            else:
                marks.append((name, time.perf_counter()))

        synchronise(device)
        mark("")
        run(mark)
        synchronise(device)
        if turn >= warm:
            for (_, start), (name, end) in pairwise(marks):
                passed = start.elapsed_time(end) if device.type == "cuda" else 1000 * (end - start)
                found.setdefault(name, []).append(passed)
    return {name: _timing(times) for name, times in found.items()}


def captured(call: Callable[[], Any], times: int = 1) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A CUDA graph of a call, made after two calls on a stream of their own.

    Parameters
    ----------
    call : callable
    times : int, default 1
        Calls in the graph.

    Returns
    -------
    CUDAGraph, object
        The graph, and what the last call in it returned, which a replay fills anew.
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            result = call()
    return graph, result


def account(call: Callable[[], object], repeats: int = 5, named: int = 20) -> dict[str, Any]:
    """Kernels of one call on a GPU by the device's own account.

    Parameters
    ----------
    call : callable
    repeats : int, default 5
    named : int, default 20
        How many are named.

    Returns
    -------
    dict
        ``kernels``: how many; ``device_us``: microseconds of all; ``top``: name -> [how many, microseconds], those
        that take longest first.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda event: -event.device_time_total)
    return {
        "kernels": sum(event.count for event in events) / repeats,
        "device_us": round(sum(event.device_time_total for event in events) / repeats, 1),
        "top": {
            event.key[:90]: [event.count / repeats, round(event.device_time_total / repeats, 1)]
            for event in events[:named]
        },
    }


def _timing(times: list[float]) -> Timing:
    spread = statistics.stdev(times) if len(times) > 1 else 0.0
    return Timing(statistics.fmean(times), spread, statistics.median(times), len(times))


@dataclass(frozen=True)
class Peaks:
    """What a machine was measured to do: the roof over every number.

    Attributes
    ----------
    bytes_per_ms : float
        Bytes read and written a millisecond by copying a large tensor.
    flops_per_ms : float
        Floating-point operations a millisecond in a large matrix product of the model's type.
    """

    bytes_per_ms: float
    flops_per_ms: float

    def floor(self, weights: int, flops: int) -> tuple[float, str]:
        """Milliseconds that reading the weights once and doing the sums take at least, and which of the two it is."""
        reading, counting = weights / self.bytes_per_ms, flops / self.flops_per_ms
        return max(reading, counting), "weights" if reading >= counting else "FLOPs"


def peaks(device: torch.device, dtype: torch.dtype) -> Peaks:
    """Measure a copy and a matrix product."""
    large = device.type == "cuda"
    a = torch.empty(2**30 if large else 2**26, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    copying = timed(lambda: b.copy_(a), device, 10, 3).median
    side = 8192 if large else 512
    x = torch.randn(side, side, device=device).to(dtype)
    multiplying = timed(lambda: x @ x, device, 10, 3).median
    return Peaks(2 * a.numel() / copying, 2 * side**3 / multiplying)


def machine(device: torch.device) -> dict[str, Any]:
    """What ran: names and versions, nothing of the place."""
    import transformers

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
    }
    return found
