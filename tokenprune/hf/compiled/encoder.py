"""A vision encoder that does what the stock one does with fewer programs of the device, while one of ours is made.

Packed segments attend in one call (:mod:`tokenprune.hf.compiled.segments`); patches are embedded by a matrix product,
where a convolution looks at one patch a time; rotary embedding and RMS norms are one program each, and gated units
whose width no kernel likes are widened by zeros. With a compiler, layers that pack nothing are fused instead, each
kind of layer once. All stands in only inside the ``with`` block.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenprune.hf.adapters.base import ModelAdapter
from tokenprune.hf.attention_tap import PREFIX, implementation, named, watched
from tokenprune.hf.compiled import segments
from tokenprune.hf.compiled.known import paused
from tokenprune.hf.compiled.norms import fused_norm
from tokenprune.hf.patching import replaced, standing_in, turn_of
from tokenprune.kernels import usable

__all__ = ["Fused", "quick_encoder", "quicker"]

BOUNDS = "cu_seqlens"
"""Under which layers and their attention take the bounds of packed segments."""


GATED = ("gate_proj", "up_proj", "down_proj")
"""Matrices of a gated unit between the layers' attention."""

ALIGNED = 8
"""Half-precision numbers that matrix products load at once; 3,420 of Qwen2.5-VL are no multiple of it."""

RECORDER = "transformers.utils.output_capturing"
"""Whose hooks stay on modules once somebody has asked for hidden states."""


class Fused:
    """Forward functions of kinds of layers, compiled: layers of a kind share what was made for the first.

    Parameters
    ----------
    backend : str or callable, default "inductor"
        As for ``torch.compile``.
    """

    def __init__(self, backend: str | Callable[..., Any] = "inductor") -> None:
        self._backend = backend
        self._made: dict[type, Callable[..., Any]] = {}

    def forward(self, kind: type[nn.Module]) -> Callable[..., Any]:
        """That of a kind, called with a layer in front."""
        if kind not in self._made:
            self._made[kind] = torch.compile(kind.forward, backend=self._backend, dynamic=False)
        return self._made[kind]


@contextmanager
def quick_encoder(adapter: ModelAdapter, fused: Fused | None = None) -> Iterator[None]:
    """While open, the model's vision encoder takes fewer and faster programs; its numbers differ by rounding.

    Parameters
    ----------
    adapter : ModelAdapter
    fused : Fused, optional
        Where layers are to be compiled.
    """
    layers = {id(layer): layer for modality in adapter.placeholders for layer in adapter.encoder_layers(modality)}
    ours = {id(module) for module in adapter.language_model.modules()}
    rest = [module for module in adapter.core.modules() if id(module) not in ours]
    with turn_of(adapter.core), ExitStack() as stack:
        packing = [module for layer in layers.values() for module in layer.modules() if _packs(module)]
        if packing:
            segments.register()
        for config in {id(module.config): module.config for module in packing if hasattr(module, "config")}.values():
            if implementation(config) == "sdpa":
                stack.enter_context(named(config, segments.NAME, "sdpa"))
        programs = usable(*adapter.model.parameters())
        # what stands in for parts of packing layers is as fast as a compiler, and takes a second for a size of picture
        left = [layer for layer in layers.values() if not (programs and any(map(_packs, layer.modules())))]
        left = left if fused is not None else []
        compiling = {id(module) for layer in left for module in layer.modules()}
        if programs:
            for module in rest:
                if id(module) not in compiling and (quick := quicker(module)) is not None:
                    stack.enter_context(standing_in(module, "forward", quick))
        if fused is not None:
            lengths: dict[int, tuple[Tensor, tuple[int, ...]]] = {}
            for layer in left:
                if "forward" not in vars(layer):
                    stack.enter_context(standing_in(layer, "forward", _compiled(layer, fused, lengths)))
        yield


def _packs(module: nn.Module) -> bool:
    """Whether a module takes bounds of packed segments."""
    return BOUNDS in inspect.signature(type(module).forward).parameters


def _compiled(layer: Any, fused: Fused, lengths: dict[int, tuple[Tensor, tuple[int, ...]]]) -> Callable[..., Any]:
    """A layer's forward as its kind's compiled one; as it is, while somebody watches its attention.

    ``lengths`` of segments are kept for all layers, with the bounds they were read from, by the bounds' id.
    """
    kind: Any = type(layer)
    configs: list[Any] = [module.config for module in layer.modules() if hasattr(module, "config")]
    run = fused.forward(kind)

    def forward(*args: Any, **kwargs: Any) -> Any:
        bounds = kwargs.get(BOUNDS)
        apart = bounds is not None and any(implementation(config) != segments.NAME for config in configs)
        if apart or any(map(watched, layer.modules())):  # then it asks the device for lengths, or for signals
            return kind.forward(layer, *args, **kwargs)
        if bounds is not None:
            if id(bounds) not in lengths:
                lengths[id(bounds)] = (bounds, segments.lengths_of(bounds))
            kwargs["segments"] = lengths[id(bounds)][1]
        with ExitStack() as stack:
            for config in configs:
                stack.enter_context(_untapped(config))
            stack.enter_context(_unrecorded(layer))
            stack.enter_context(paused())
            return run(layer, *args, **kwargs)

    return forward


@contextmanager
def _untapped(config: Any) -> Iterator[None]:
    """Let a config name the implementation itself, for a compiler to trace: nobody watches this layer."""
    name = config._attn_implementation
    if not name.startswith(PREFIX):
        yield
        return
    config._attn_implementation = implementation(config)
    try:
        yield
    finally:
        config._attn_implementation = name


@contextmanager
def _unrecorded(layer: nn.Module) -> Iterator[None]:
    """Leave out hooks of transformers inside a layer, which record maps that sdpa does not have and break a trace."""
    with ExitStack() as stack:
        for module in layer.modules():
            hooks = module._forward_hooks
            kept = OrderedDict((i, hook) for i, hook in hooks.items() if getattr(hook, "__module__", "") != RECORDER)
            if module is not layer and len(kept) < len(hooks):
                stack.enter_context(replaced(vars(module), "_forward_hooks", kept))
        yield


def quicker(module: Any) -> Callable[..., Any] | None:
    """What does a module's work with fewer programs; None for most modules."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        return _patches(module) if _apart(module) and not _rounded(module) else None
    if (norm := fused_norm(module)) is not None:
        return norm
    if _packs(module) and all(hasattr(module, name) for name in ("qkv", "proj", "num_heads", "scaling", "config")):
        return _attention(module)
    if all(isinstance(getattr(module, name, None), nn.Linear) for name in GATED) and hasattr(module, "act_fn"):
        return _gated(module) if module.down_proj.in_features % ALIGNED else None
    return None


def _apart(convolution: nn.Conv2d | nn.Conv3d) -> bool:
    """Whether a convolution looks at patches that do not overlap."""
    padding = convolution.padding
    unpadded = padding == "valid" if isinstance(padding, str) else not any(padding)
    plain = unpadded and convolution.groups == 1 and set(convolution.dilation) == {1}
    return plain and tuple(convolution.stride) == tuple(convolution.kernel_size)


def _rounded(convolution: nn.Conv2d | nn.Conv3d) -> bool:
    """Whether a convolution's float32 is rounded to the 10 bits of TF32, which a matrix product's is not.

    Answers would then be nearer to those on a CPU, and no longer those of the model itself.
    """
    weight = convolution.weight
    return weight.is_cuda and weight.dtype == torch.float32 and torch.backends.cudnn.allow_tf32


def _patches(convolution: nn.Conv2d | nn.Conv3d) -> Callable[..., Tensor]:
    kind: Any = type(convolution)

    def forward(pixels: Tensor) -> Tensor:
        if tuple(pixels.shape[2:]) != tuple(convolution.kernel_size):
            return kind.forward(convolution, pixels)  # type: ignore[no-any-return]
        out = F.linear(pixels.flatten(1), convolution.weight.flatten(1), convolution.bias)
        return out.view(*out.shape, *(1 for _ in convolution.kernel_size))

    return forward


def _gated(mlp: Any) -> Callable[..., Tensor]:
    """Products of a width that kernels for aligned memory take: zeros are put behind weights at each run."""
    more = -mlp.down_proj.in_features % ALIGNED

    def wide(linear: nn.Linear, hidden: Tensor) -> Tensor:
        bias = None if linear.bias is None else F.pad(linear.bias, (0, more))
        return F.linear(hidden, F.pad(linear.weight, (0, 0, 0, more)), bias)

    def forward(hidden: Tensor) -> Tensor:
        inner = mlp.act_fn(wide(mlp.gate_proj, hidden)) * wide(mlp.up_proj, hidden)
        return F.linear(inner, F.pad(mlp.down_proj.weight, (0, more)), mlp.down_proj.bias)

    return forward


def _attention(attention: Any) -> Callable[..., Tensor]:
    """Attention over packed segments with rotary embedding in one program; as it is, where there is none."""
    kind = type(attention)

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        angles, bounds = kwargs.get("position_embeddings"), kwargs.get(BOUNDS)
        if args or angles is None or bounds is None or not usable(hidden_states):
            return kind.forward(attention, hidden_states, *args, **kwargs)  # type: ignore[no-any-return]
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        from tokenprune.kernels.rotary import rotate  # needs Triton

        count = len(hidden_states)
        packed = attention.qkv(hidden_states).view(count, 3, attention.num_heads, -1)
        rotate(packed, *angles)
        query, key, value = packed.permute(1, 2, 0, 3).unsqueeze(1)
        name = attention.config._attn_implementation
        attend: Any = ALL_ATTENTION_FUNCTIONS[name]
        longest = kwargs.get("max_seqlen")
        out, _ = attend(
            attention,
            query,
            key,
            value,
            attention_mask=None,
            scaling=attention.scaling,
            cu_seq_lens_q=bounds,
            cu_seq_lens_k=bounds,
            max_length_q=longest,
            max_length_k=longest,
        )
        done: Tensor = attention.proj(out.reshape(count, -1))
        return done

    return forward
