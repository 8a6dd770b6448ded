"""Where signals that a strategy reads come from: model, collector, or the caller; so which strategies a model runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from tokenprune.core.errors import FeatureError, MissingSignalError, OptionTypeError, PluginError, TokenPruneError
from tokenprune.core.features import LAYOUTS, SIGNALS, Features, Signal, is_signal, signal_of
from tokenprune.core.registry import registry
from tokenprune.core.schedule import LayerSchedule
from tokenprune.core.strategy import AnyStrategy
from tokenprune.hf.adapters.base import FROM_PIXELS, ModelAdapter
from tokenprune.hf.collectors import Collector, Units
from tokenprune.hf.layerwise import LayerHooks

__all__ = ["Extra", "Offer", "Sources", "check", "offers", "refusal", "signals_for", "usable_strategies"]

Extra = Mapping[str, Tensor | Collector]
"""Signals handed in: tensors with a row for each unit, or what makes them."""


@dataclass(frozen=True)
class Sources:
    """Who gives what to one strategy on one model.

    Attributes
    ----------
    read : frozenset of str
        Signals to take from the model, substitutes among them.
    substitutes : dict
        Signals that the model lacks, and what stands in for each.
    missing : frozenset of str
        Signals that nobody gives.
    given : dict of str to Tensor
        Handed in.
    collectors : dict of str to Collector
        Asked for each batch.
    """

    read: frozenset[str]
    substitutes: Mapping[str, str] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()
    given: Mapping[str, Tensor] = field(default_factory=dict)
    collectors: Mapping[str, Collector] = field(default_factory=dict)

    @classmethod
    def of(cls, adapter: ModelAdapter, strategy: AnyStrategy, extra: Extra | None = None) -> Sources:
        """Find them out. What is handed in goes before what the model has, and that before collectors of packages."""
        handed = _checked(extra)
        tensors = {name: value for name, value in handed.items() if isinstance(value, Tensor)}
        makers = {name: value for name, value in handed.items() if isinstance(value, Collector)}
        # names that no extra nor the model has are looked for among packages, and only those that would be read loaded
        listed = {entry.name for entry in registry.entries("signals") if not entry.clashes} - handed.keys()
        for name in sorted(strategy.reads(adapter.available | FROM_PIXELS | handed.keys() | listed) & listed):
            maker = None if adapter.gives(name) else _loaded(name)
            if maker is not None and maker.offers(adapter) and not adapter.missing(maker.requires):
                makers[name] = maker
        reads = strategy.reads(adapter.available | FROM_PIXELS | handed.keys() | makers.keys())
        makers = {name: maker for name, maker in makers.items() if name in reads}
        needs = frozenset(reads - tensors.keys() - makers.keys()).union(*(maker.requires for maker in makers.values()))
        substitutes = adapter.substitutes(needs)
        missing = adapter.missing(needs - adapter.layouts) - substitutes.keys()
        read = needs - substitutes.keys() | set(substitutes.values())
        return cls(read, substitutes, missing, tensors, makers)

    def complete(self, features: Features, units: Units | None) -> Features:
        """Add what is handed in and what collectors make.

        Raises
        ------
        FeatureError
            Not a row for each unit, or a collector returned something else than a tensor.
        """
        if not self.given and not self.collectors:
            return features
        assert units is not None
        made: dict[str, Tensor] = {**self.given}
        for name, maker in self.collectors.items():
            value = maker.collect(units)
            if not isinstance(value, Tensor):
                raise FeatureError(
                    f"{type(maker).__name__} must return {name!r} as a tensor, got {type(value).__name__}"
                )
            made[name] = value
        for name, value in made.items():
            if value.ndim < 1 or value.shape[0] != features.batch:
                raise FeatureError(
                    f"extra[{name!r}] has shape {tuple(value.shape)}, and this batch has {features.batch} units: give "
                    "a row for each unit (image by default), in the order of the prompts"
                )
        made = {name: value.detach().to(features.device) for name, value in made.items()}
        known = {name: value for name, value in made.items() if is_signal(name)}
        own = {name: features[name] for name in features if not is_signal(name)}
        own |= {name: value for name, value in made.items() if not is_signal(name)}
        return features.replace(**known, extra=own)


def _checked(extra: Extra | None) -> Extra:
    if extra is None:
        return {}
    if not isinstance(extra, Mapping):
        raise OptionTypeError(f"extra must be a mapping of names to tensors or collectors, got {type(extra).__name__}")
    for name, value in extra.items():
        if not isinstance(value, Tensor | Collector):
            raise OptionTypeError(f"extra[{name!r}] must be a tensor or a Collector, got {type(value).__name__}")
        if name in ("visual", "text") or name in LAYOUTS:
            raise OptionTypeError(f"extra[{name!r}]: that is taken from the prompt itself and cannot be handed in")
    return extra


def _loaded(name: str) -> Collector:
    maker = registry.load("signals", name)
    maker = maker() if callable(maker) and not isinstance(maker, Collector) else maker
    if not isinstance(maker, Collector):
        raise PluginError(f"the signal {name!r} must be made by a tokenprune.hf.collectors.Collector, got {maker!r}")
    return maker


@dataclass(frozen=True)
class Offer:
    """A signal that a model has, or that there is."""

    signal: Signal
    layers: str
    origin: str


def offers(adapter: ModelAdapter | None = None) -> list[Offer]:
    """Signals that a model has before its language model runs; without a model all that there are by name."""
    depth = 0 if adapter is None else len(adapter.encoder_layers("image"))
    layers = f"0..{depth - 1}" if adapter is not None else "any"
    found = [
        Offer(signal, layers if signal.layered and (adapter is None or name in adapter.on_demand) else "", "built-in")
        for name, signal in SIGNALS.items()
        if adapter is None or adapter.gives(name)
    ]
    layouts = LAYOUTS.keys() if adapter is None else adapter.layouts
    found += [Offer(signal, "", "built-in") for name, signal in LAYOUTS.items() if name in layouts]
    known = {offer.signal.name for offer in found}
    for entry in registry.entries("signals"):
        if entry.clashes or (adapter is not None and entry.name in known):
            continue
        maker = _loaded(entry.name)
        if adapter is None or (maker.offers(adapter) and not adapter.missing(maker.requires)):
            found.append(Offer(maker.signal, "", entry.origin))
    return found


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
    own = [entry.name for entry in registry.entries("strategies") if entry.ships]
    return [name for name in own if refusal(adapter, registry.build(name)) is None]
