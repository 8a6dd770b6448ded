"""Which strategies a model can run, and why not the others."""

from __future__ import annotations

from collections.abc import Iterable

from tokenprune.core.errors import MissingSignalError, TokenPruneError
from tokenprune.core.features import is_signal, signal_of
from tokenprune.core.registry import registry
from tokenprune.core.schedule import LayerSchedule
from tokenprune.core.strategy import AnyStrategy
from tokenprune.hf.adapters.base import ModelAdapter
from tokenprune.hf.layerwise import LayerHooks
from tokenprune.hf.sources import Extra, Sources

__all__ = ["check", "refusal", "signals_for", "usable_strategies"]


def check(adapter: ModelAdapter, strategy: AnyStrategy, extra: Extra | None = None) -> None:
    """Raise if a model cannot run a strategy.

    Raises
    ------
    MissingSignalError
        It can give neither a signal that the strategy reads nor a substitute; names strategies that work.
    UnsupportedError
        Its layers are not such that tokens can go between them.
    """
    missing = sorted(Sources.of(adapter, strategy, extra).missing)
    if "frames" in missing:
        raise MissingSignalError(
            f"strategy {strategy.name!r} compares the frames of videos, which {type(adapter.model).__name__} does not "
            f"read. Strategies that work on it: {', '.join(usable_strategies(adapter)) or 'none'}"
        )
    if missing:
        fits = ", ".join(usable_strategies(adapter)) or "none"
        raise MissingSignalError(
            f"strategy {strategy.name!r} needs {', '.join(map(repr, missing))}, which {type(adapter.model).__name__} "
            f"cannot give (it gives {_offer(adapter)}). Hand it in, attach(..., extra={{name: tensor or collector}}), "
            f"or take a strategy that works on it: {fits}"
        )
    if isinstance(strategy, LayerSchedule):
        LayerHooks(strategy, adapter)


def _offer(adapter: ModelAdapter) -> str:
    """What a model gives, in words."""
    plain = ", ".join(sorted(adapter.available))
    layered = sorted(name for name in adapter.on_demand if is_signal(name) and signal_of(name).layered)
    depth = len(adapter.encoder_layers("image"))
    return f"{plain}; at any of {depth} encoder layers, as {layered[0]}@-1: {', '.join(layered)}" if layered else plain


def refusal(adapter: ModelAdapter, strategy: AnyStrategy) -> str | None:
    """Why a model cannot run a strategy; None if it can."""
    missing = Sources.of(adapter, strategy).missing
    if "frames" in missing:
        return "it compares the frames of videos, and the model reads none"
    if missing:
        return "no " + ", ".join(sorted(missing))
    try:
        check(adapter, strategy)
    except TokenPruneError as error:
        return str(error)
    return None


def signals_for(adapter: ModelAdapter, strategies: Iterable[AnyStrategy]) -> frozenset[str]:
    """What has to be read while visual inputs are encoded, so that any of some strategies can use them."""
    needed = frozenset().union(*(Sources.of(adapter, strategy).read for strategy in strategies))
    return needed - adapter.missing(needed)


def usable_strategies(adapter: ModelAdapter) -> list[str]:
    """Names of the strategies that ship with tokenprune and run on a model."""
    own = [e for e in registry.entries("strategies") if e.target.startswith("tokenprune_strategies.")]
    return [e.name for e in own if not e.clashes and refusal(adapter, registry.build(e.name)) is None]
