"""What an encoder works out from the sizes of pictures, kept as constants: a graph can hold those, but cannot wait.

Encoders of varying resolution ask the device for numbers (``grid_thw.tolist()``, ``repeat_interleave``, a mask's
places) that follow from the sizes alone. One run notes every operation that reads nothing but such *known* tensors,
with its result; further runs take the results and leave the operations out. What depends on pixels or weights is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode, _pop_mode_temporarily
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten

from tokenprune.core.errors import TokenPruneError
from tokenprune.hf.patching import replaced

__all__ = ["Known", "OtherCourse", "paused"]

aten = torch.ops.aten

UNWRITTEN = frozenset(
    {aten.empty.memory_format, aten.empty_strided.default, aten.empty_like.default, aten.new_empty.default}
)
"""They make room for what somebody writes, perhaps unseen (a Triton program): never constants."""

DETACH = aten.detach.default
"""The same memory again; torch does it to results that somebody holds on to, so runs differ in how often."""


class OtherCourse(TokenPruneError, RuntimeError):
    """A later run did other operations than the one that was noted."""


class Known:
    """Operations that follow from given tensors alone.

    Parameters
    ----------
    given : iterable of Tensor
        What is known: the same whenever :meth:`replayed` is used.
    told : bool, default False
        Whether what the host asks the device about other tensors (places in masks, whole numbers) is known, too:
        whoever calls has asked before, and found the same.
    """

    def __init__(self, given: Iterable[Tensor], *, told: bool = False) -> None:
        self._given, self._told = list(given), told
        self._names: list[str] = []
        self._results: dict[int, Any] = {}

    def noted(self, function: Callable[..., Any], **inputs: Tensor) -> Any:
        """Run, and note what follows from the given tensors alone."""
        noting = _Noting(self._given, told=self._told)
        with _plain_tensors(), noting, _NumbersFromHost():
            output = function(**inputs)
        self._names = noting.names
        self._results = noting.constants()
        return output

    def replayed(self, function: Callable[..., Any], **inputs: Tensor) -> Any:
        """Run without the noted operations.

        Raises
        ------
        OtherCourse
            The operations are not those of the noted run.
        """
        replaying = _Replaying(self._names, self._results)
        with _plain_tensors(), _as_ever(), replaying, _NumbersFromHost():
            output = function(**inputs)
        if replaying.count != len(self._names):
            raise OtherCourse(f"{replaying.count} operations instead of {len(self._names)}")
        return output

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor was given or is a noted result (or a view of one)."""
        held = [*self._given, *_tensors(list(self._results.values()))]
        return any(_memory(tensor) == _memory(other) for other in held)

    def __len__(self) -> int:
        """Operations that are left out."""
        return len(self._results)


class _Noting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follow what comes from where."""

    def __init__(self, given: Iterable[Tensor], *, told: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._told = told
        self.names: list[str] = []
        self._results: dict[int, Any] = {}
        self._written: set[int] = set()
        self._alive: list[Any] = []  # memory that is in use keeps its address
        self._known: set[int] = set()
        self._hold(given)

    def constants(self) -> dict[int, Any]:
        """Number of an operation -> its result, where nobody wrote to that later."""
        return {
            i: value for i, value in self._results.items() if self._written.isdisjoint(map(_memory, _tensors(value)))
        }

    def _hold(self, value: Any) -> None:
        self._alive.append(value)
        self._known.update(map(_memory, _tensors(value)))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is DETACH:
            return func(*args, **kwargs)
        args = _placed(self, func, args)
        read, written = _tensors((args, kwargs)), _written(func, args, kwargs)
        # the host's own numbers: it cannot have read any that are not known, or no graph is made
        known = func is aten.lift_fresh.default or all(_memory(t) in self._known for t in read)
        output = func(*args, **kwargs)
        known = known or (self._told and _asks(func, args, output))
        number = len(self.names)
        self.names.append(str(func))
        self._written.update(map(_memory, written))
        if not known or func in UNWRITTEN or torch.Tag.nondeterministic_seeded in func.tags:
            self._alive.append(output)
            self._known.difference_update(map(_memory, written))
            return output
        self._hold(output)
        if not written and not _looks_on(func):  # a view is made again, of what was noted
            self._results[number] = output
        return output


class _Replaying(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Give noted results."""

    def __init__(self, names: list[str], results: Mapping[int, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names, self.results, self.count = names, results, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is DETACH:
            return func(*args, **dict(kwargs or {}))
        args = _placed(self, func, args)
        here, self.count = self.count, self.count + 1
        noted = self.names[here] if here < len(self.names) else "none"
        if noted != str(func):
            raise OtherCourse(f"operation {here} is {func}, was {noted}")
        if here in self.results:
            return self.results[here]
        return func(*args, **dict(kwargs or {}))


class _NumbersFromHost(TorchFunctionMode):
    """``torch.tensor(numbers, device=...)`` as a tensor of the host that is copied, which the modes above can see."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and kwargs.get("device") is not None:
            return torch.tensor(*args, **{**kwargs, "device": "cpu"}).to(kwargs["device"], copy=True)
        return func(*args, **kwargs)


@contextmanager
def paused() -> Iterator[None]:
    """While open, nothing is noted or left out: for functions that a compiler made, which it would not run otherwise.

    They must ask the device for nothing.
    """
    with _disable_current_modes():
        if isinstance(_get_current_function_mode(), _NumbersFromHost):  # type: ignore[no-untyped-call]
            with _pop_mode_temporarily():
                yield
        else:
            yield


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """Constants must be usable outside of inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield


@contextmanager
def _as_ever() -> Iterator[None]:
    """Let nobody ask whether a stream is captured: transformers then leaves out looks whose answers are known here."""
    with replaced(vars(torch.cuda), "is_current_stream_capturing", lambda: False):
        yield


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _placed(mode: Any, func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Indexing by a mask as indexing by its places, which may be known, on the device of what is indexed."""
    if func.overloadpacket not in (aten.index, aten.index_put, aten.index_put_):
        return args
    places: list[Any] = []
    for index in args[1]:
        if isinstance(index, Tensor) and index.device != args[0].device:
            index = mode.__torch_dispatch__(aten._to_copy.default, (), (index,), {"device": args[0].device})
        if isinstance(index, Tensor) and index.dtype == torch.bool:
            found = mode.__torch_dispatch__(aten.nonzero.default, (), (index,))
            places.extend(mode.__torch_dispatch__(aten.select.int, (), (found, 1, i)) for i in range(index.ndim))
        else:
            places.append(index)
    return (args[0], places, *args[2:])


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Arguments that an operation writes to."""
    found: list[Any] = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found.append(args[i] if i < len(args) else kwargs.get(argument.name))
    return _tensors(found)


def _asks(func: Any, args: tuple[Any, ...], output: Any) -> bool:
    """Whether the host asks the device something, and the answer is no measurement: places, counts, yes or no."""
    if func is aten.nonzero.default:
        return True
    if func is aten._local_scalar_dense.default:
        return not isinstance(output, float | complex)
    if func is not aten._to_copy.default or output.device.type != "cpu" or args[0].device.type == "cpu":
        return False
    return not (output.is_floating_point() or output.is_complex())


def _looks_on(func: Any) -> bool:
    """Whether an operation returns memory that it was given."""
    return any(value.alias_info is not None for value in func._schema.returns)
