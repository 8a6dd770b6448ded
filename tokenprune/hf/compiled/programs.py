"""A function on tensors of fixed shapes, captured once and replayed."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tokenprune.hf.compiled.known import Known, OtherCourse

__all__ = ["Backend", "Program"]

Backend = Literal["graphs", "inductor", "none"]
"""``graphs``: CUDA graphs of the model's own operations. ``inductor``: ``torch.compile`` first, graphs of what it made.
``none``: the same functions, run as they are."""

Output = TypeVar("Output")


class Program(Generic[Output]):
    """A function whose inputs keep their shapes, dtypes and addresses.

    On a GPU it is captured in a CUDA graph at the first call, unless it waits for the device somewhere; then, and on a
    CPU, it runs as it is. Outputs keep their addresses too: the next call overwrites them.

    Parameters
    ----------
    function : callable
        From keyword tensors to anything that holds tensors. What else it reads or writes must stay where it is.
    inputs : mapping of str to Tensor
        The first call's. Copies of them are kept and filled anew by each call.
    device : torch.device
        Where it runs.
    capture : bool
        Whether to capture on a GPU.
    pool : optional
        Memory that programs share which run one after another.
    fixed : container of str
        Inputs that another program writes, always in the same place: they are read there.
    given : iterable of Tensor, optional
        What else the function reads that follows from the shape alone (sizes of pictures): a graph holds the results
        of operations that read nothing else as constants, and is tried on other numbers before it is used.
    quick : callable, optional
        Does the same in less time, up to rounding. It is run instead, unless it fails, cannot be captured where the
        function can, or its graph gives other numbers than the function does.
    told : bool, default False
        Whether what the function asks the device follows from the shape as well: inputs that are zero in whole rows
        stay so.

    Attributes
    ----------
    captured : bool
    why : str or None
        Why it was not captured, on a GPU.
    slow : str or None
        Why ``quick`` is not used.
    seconds : float
        Time to compile, try and capture.
    """

    def __init__(
        self,
        function: Callable[..., Output],
        inputs: Mapping[str, Tensor],
        device: torch.device,
        *,
        capture: bool = True,
        pool: Any = None,
        fixed: Container[str] = (),
        given: Iterable[Tensor] | None = None,
        quick: Callable[..., Output] | None = None,
        told: bool = False,
    ) -> None:
        start = time.perf_counter()
        self.function, self.stock = function, function
        self.known = None if given is None else Known(given, told=told)
        self.inputs = {
            name: value if name in fixed else value.to(device, copy=True).contiguous() for name, value in inputs.items()
        }
        self.graph: torch.cuda.CUDAGraph | None = None
        self.why: str | None = None
        self.slow: str | None = None
        capture = capture and device.type == "cuda"
        if quick is None or not self._made_quickly(quick, capture, pool):
            self._make(capture, pool)
        self.seconds = time.perf_counter() - start

    def _make(self, capture: bool, pool: Any) -> None:
        self.why = None
        if capture:
            self._capture(pool)
        else:
            self.output = self.function(**self.inputs)

    def _made_quickly(self, quick: Callable[..., Output], capture: bool, pool: Any) -> bool:
        """Whether the quick way is taken."""
        self.function = quick
        try:
            self._make(capture, pool)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler, or a model that is not built as expected
            self.slow = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        else:
            self.slow = self.why
        if self.slow is not None:
            self.function = self.stock
        return self.slow is None

    @property
    def captured(self) -> bool:
        """Whether calls replay a graph."""
        return self.graph is not None

    def _capture(self, pool: Any) -> None:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.output = self.function(**self.inputs)  # compiles, fills tables, allocates work space
            if self.known is not None:
                self.known.noted(self.function, **self.inputs)
            torch.cuda.synchronize()
            try:
                with _no_waiting():
                    self._shorter()
            except OtherCourse as error:
                self.why = f"it does not do the same twice: {error}"
            except RuntimeError as error:
                if "synchroniz" not in str(error):
                    raise
                self.why = f"it waits for the device in {_place(error)}"
        torch.cuda.current_stream().wait_stream(side)
        if self.why is not None:
            return
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=pool):
                self.output = self._shorter()
        except RuntimeError as error:  # not all that waits is found beforehand
            torch.cuda.synchronize()
            self.why = f"it cannot be captured: {str(error).splitlines()[0]}"
            self.output = self.function(**self.inputs)
            return
        graph.replay()
        if self.known is not None and not self._holds_elsewhere(graph):
            self.why = "what it works out from sizes depends on more than sizes"
            self.output = self.function(**self.inputs)
            return
        self.graph = graph

    def _shorter(self) -> Output:
        """The function without what is known."""
        if self.known is None:
            return self.function(**self.inputs)
        output: Output = self.known.replayed(self.function, **self.inputs)
        return output

    def _holds_elsewhere(self, graph: torch.cuda.CUDAGraph) -> bool:
        """Whether the graph gives what the function gives on other numbers."""
        before = {name: value.clone() for name, value in self.inputs.items() if value.is_floating_point()}
        for name, value in before.items():
            self.inputs[name].copy_(_other(value))
        want = self.stock(**self.inputs)
        graph.replay()
        alike = all(map(_alike, _numbers(self.output), _numbers(want)))
        for name, value in before.items():
            self.inputs[name].copy_(value)
        graph.replay()
        return alike

    def __call__(self, **inputs: Tensor) -> Output:
        """Run on other numbers; arguments left out keep those of the call before."""
        for name, value in inputs.items():
            if value is not self.inputs[name]:
                self.inputs[name].copy_(value, non_blocking=True)
        if self.graph is None:
            self.output = self.function(**self.inputs)
        else:
            self.graph.replay()
        return self.output


def _numbers(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def _other(value: Tensor) -> Tensor:
    """Other numbers for pictures of the same sizes; a tile that is all zero is padding, and stays so."""
    if value.ndim <= 2:
        return value.flatten().flip(0).view_as(value)
    return value.flip(tuple(range(min(2, value.ndim - 1), value.ndim)))


def _alike(got: Tensor, want: Tensor) -> bool:
    """Up to the rounding of sums in another order."""
    if got.shape != want.shape:
        return False
    got, want = got.float(), want.float()
    largest = float(want.nan_to_num().abs().max()) if want.numel() else 0.0
    return torch.allclose(got, want, rtol=0.02, atol=0.02 * largest, equal_nan=True)


def _place(error: BaseException) -> str:
    """Where an error was raised: file and line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{'/'.join(frame.filename.rsplit('/', 2)[-2:])}:{frame.lineno}"


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Raise where an operation waits for the device."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
