"""See the queries and keys of an attention module without changing how it attends.

Transformers looks attention functions up by the name in a config. Inside :func:`tapped` that name stands for a wrapper
of the implementation that was there: it hands queries and keys to whoever waits at the module, then attends as ever.
Nothing is switched to eager attention, and nothing outlives the ``with`` block but a name in a table.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from tokenprune.hf.patching import Hook, replaced

__all__ = ["PREFIX", "Tap", "implementation", "named", "tapped", "watched"]

Tap = Callable[[Tensor, Tensor, float, Mapping[str, Any]], None]
"""Takes queries (B, H, M, k) and keys (B, G, M, k) as they meet, the factor on logits, and further arguments."""

PREFIX = "tokenprune_"
"""Before the name of the attention implementation that is wrapped."""

_HANDLE = "_tokenprune_tap"
"""Attribute of an attention module under which a tap waits."""

_HELD: dict[int, int] = {}
"""How many hold a config's name exchanged, by its id: models and threads may share one, and leave in any order."""

_COUNTING = threading.Lock()

_INSTEAD = "_tokenprune_attend"
"""Attribute of an attention module under which a function stands that attends in the implementation's place."""


def implementation(config: Any) -> str:
    """Name of a config's attention implementation, wrapped or not."""
    return str(config._attn_implementation).removeprefix(PREFIX)


@contextmanager
def tapped(
    config: Any, taps: Mapping[nn.Module, Tap], instead: Mapping[nn.Module, Callable[..., Any]] | None = None
) -> Iterator[None]:
    """Let taps see what their attention modules attend with.

    Parameters
    ----------
    config : PretrainedConfig
        The one in which the modules look up their implementation.
    taps : mapping of Module to Tap
        Attention modules of interest.
    instead : mapping of Module to callable, optional
        What attends in the place of the implementation; called as it is, less the module. Not for "eager" nor flash.
    """
    # imported here: it takes seconds, and strategies on tensors need none of it
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    base = implementation(config)
    name = PREFIX + base
    AttentionInterface.register(name, partial(_attend, base))
    # to implementations without a mask function transformers gives no mask: the wrapper has to lack one too
    if (mask := ALL_MASK_ATTENTION_FUNCTIONS.get(base)) is not None:
        AttentionMaskInterface.register(name, partial(_mask, mask) if base == "sdpa" else mask)
    with ExitStack() as stack:
        for module, tap in taps.items():
            stack.enter_context(replaced(vars(module), _HANDLE, Hook(tap)))
        for module, attend in (instead or {}).items():
            stack.enter_context(replaced(vars(module), _INSTEAD, attend))
        stack.enter_context(named(config, name, base))
        yield


def watched(module: nn.Module) -> bool:
    """Whether somebody waits at an attention module, or attends in its place."""
    return _HANDLE in vars(module) or _INSTEAD in vars(module)


@contextmanager
def named(config: Any, name: str, base: str) -> Iterator[None]:
    """While anybody is inside, a config names the wrapper; the last to leave puts the implementation's name back."""
    with _COUNTING:
        _HELD[id(config)] = _HELD.get(id(config), 0) + 1
        config._attn_implementation = name
    try:
        yield
    finally:
        with _COUNTING:
            _HELD[id(config)] -= 1
            if not _HELD[id(config)]:
                del _HELD[id(config)]
                config._attn_implementation = base


def _mask(make: Callable[..., Any], **what: Any) -> Any:
    """No mask where there is nothing to hide but what comes later: sdpa then takes its faster kernels.

    Transformers does the same, but makes a mask in a stream that is captured.
    """
    nothing = what.get("attention_mask") is None and what.get("local_size") is None
    if nothing and what.get("allow_is_causal_skip") and what.get("q_length") == what.get("kv_length"):
        return None
    return make(**what)


def _attend(base: str, module: nn.Module, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
    tap = vars(module).get(_HANDLE)
    if tap is not None:
        scaling = kwargs.get("scaling")
        rest = dict(zip(("value", "attention_mask"), args, strict=False))
        seen = {"attention_mask": None, **kwargs, **rest}
        tap(query, key, query.shape[-1] ** -0.5 if scaling is None else scaling, seen)
    if (other := vars(module).get(_INSTEAD)) is not None:
        return other(query, key, *args, **kwargs)
    if base == "eager":
        return vars(sys.modules[type(module).__module__])["eager_attention_forward"](
            module, query, key, *args, **kwargs
        )
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    attend = ALL_ATTENTION_FUNCTIONS[base]
    if "flash" not in base:
        return attend(module, query, key, *args, **kwargs)
    config: Any = module.config
    name = config._attn_implementation
    # flash attention looks its kernel up under the name in the config
    config._attn_implementation = base
    try:
        return attend(module, query, key, *args, **kwargs)
    finally:
        config._attn_implementation = name
