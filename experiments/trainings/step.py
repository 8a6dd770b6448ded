"""One step of all models: forward, backward and optimizer, in place.

A step of small models is a thousand small operations, and launching them one by one takes longer than they do. On an
accelerator it is captured once for each shape of its inputs, as one graph that is launched at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from experiments.trainings.losses import EAGER, losses
from experiments.trainings.network import Stack

Given = Mapping[str, Tensor]
"""Inputs of a step by name: ``patches``, tensors of a batch without its pictures, those of
:meth:`~experiments.trainings.network.Seen.tensors`, ``sight`` and ``starved``, the losses' weights ``counts``, the
learning rate ``rate`` and the step's number ``step``."""


def adam_step(
    flat: Tensor, grad: Tensor, first: Tensor, second: Tensor, rate: Tensor, decay: Tensor, step: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of AdamW for each model, its gradient cut to norm one: new parameters and moments.

    Parameters
    ----------
    flat, grad, first, second : Tensor of shape (K, all)
    rate, decay : Tensor of shape (all,)
        Learning rate and weight decay of each parameter.
    step : Tensor
        Number of this step, from one.
    """
    norm = grad.float().square().sum(1, keepdim=True).sqrt()
    grad = grad.float() * (1 / (norm + 1e-6)).clamp_max(1)
    first = first + (grad - first) * 0.1
    second = second + (grad.square() - second) * 0.02
    moved = (first / (1 - 0.9**step)) / ((second / (1 - 0.98**step)).sqrt() + 1e-8)
    return flat - rate * (moved + decay * flat), first, second


@dataclass
class Step:
    """All models' parameters, and what one step does to them.

    Attributes
    ----------
    stack : Stack
        Shapes of the parameters.
    config : PretrainedConfig
    flat : Tensor of shape (K, all)
        Parameters; changed in place.
    first, second : Tensor of shape (K, all)
        Moments; changed in place.
    decay, slowed : Tensor of shape (all,)
        Weight decay, and the share of the learning rate that is taken away in steps that answer.
    dtype : torch.dtype
        Of the computation.
    compiled : Compiled
        Of the models' kind.
    adam : callable
        :func:`adam_step`, or it compiled.
    losses : callable
        All losses of the models' kind, (losses, K).
    """

    stack: Stack
    config: Any
    flat: Tensor
    first: Tensor
    second: Tensor
    decay: Tensor
    slowed: Tensor
    dtype: torch.dtype
    compiled: Any = EAGER
    adam: Callable[..., tuple[Tensor, Tensor, Tensor]] = adam_step
    losses: Callable[..., Tensor] = losses

    def __call__(self, given: Given, answers: bool) -> Tensor:
        """Do one step; returns the losses (losses, K)."""
        flat = self.flat.detach().requires_grad_()
        state = self.stack.state(flat.to(self.dtype))
        sight = (given["sight"], given["starved"])
        values = self.losses(state, self.config, given["patches"], given, given, sight, answers, self.compiled)
        (grad,) = torch.autograd.grad((values.sum(1) * given["counts"]).sum(), flat)
        with torch.no_grad():
            rate = given["rate"] * (1 - self.slowed if answers else torch.ones_like(self.slowed))
            found = self.adam(flat.detach(), grad, self.first, self.second, rate, self.decay, given["step"])
            for kept, new in zip((self.flat, self.first, self.second), found, strict=True):
                kept.copy_(new)
        return values.detach()


@dataclass
class _Graph:
    """What is captured for inputs of one shape."""

    given: dict[str, Tensor]
    launched: int = 0
    graph: Any = None
    values: Tensor | None = None


WARM = 3
"""Steps of a shape that are launched before one is captured: what is compiled or allocated once must be by then."""


@dataclass
class CapturedStep:
    """The same step, captured once for each shape of its inputs; every call is one step of the training.

    Attributes
    ----------
    step : Step
        On an accelerator.
    log : callable
        Told what was captured, and where that failed: the step is then launched as it is.
    ready : bool
        Whether the last call was done as later ones of its shape are: nothing was compiled or captured in it.
    """

    step: Step
    log: Callable[[str], None] = lambda text: None
    ready: bool = True
    _made: dict[Any, _Graph] = field(default_factory=dict)
    _pool: Any = None
    _stream: Any = None
    _failed: bool = False

    def __call__(self, given: Given, answers: bool) -> Tensor:
        """Do one step; returns the losses (losses, K)."""
        self.ready = self._failed
        if self._failed:
            return self.step(given, answers)
        key = (answers, *((name, tensor.shape, tensor.dtype) for name, tensor in given.items()))
        if key not in self._made:
            self._made[key] = _Graph({name: tensor.clone() for name, tensor in given.items()})
        one = self._made[key]
        for name, tensor in given.items():
            one.given[name].copy_(tensor)
        if one.graph is None and one.launched < WARM:
            one.launched += 1
            return self._aside(one.given, answers)
        self.ready = one.graph is not None
        if one.graph is None:
            try:
                self._capture(one, answers)
            except RuntimeError as error:
                self._failed = True
                self._made.clear()
                self.log(f"not captured, launched one by one: {error}")
                return self.step(given, answers)
        one.graph.replay()
        assert one.values is not None
        return one.values.clone()

    def _aside(self, given: Given, answers: bool) -> Tensor:
        # what is captured later must have run on another stream than the default one
        self._stream = self._stream or torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            values = self.step(given, answers)
        torch.cuda.current_stream().wait_stream(self._stream)
        return values

    def _capture(self, one: _Graph, answers: bool) -> None:
        torch.cuda.synchronize()
        # graphs are never launched at the same time, so that they can share their memory
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="relaxed"):
            one.values = self.step(one.given, answers)
        one.graph = graph
        used = torch.cuda.memory_reserved() / 2**30
        self.log(f"captured a step of {tuple(one.given['patches'].shape)}, answers {answers}; {used:.1f} GiB reserved")
