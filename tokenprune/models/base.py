"""What the session has to know about a model family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.errors import MissingSignalError, UnsupportedError, closest
from tokenprune.features import Grid
from tokenprune.registry import registry

__all__ = ["ModelAdapter", "Observation", "adapter_for"]


@dataclass
class Observation:
    """What hooks saw of the vision side during one forward pass: one entry for each image, in order.

    Attributes
    ----------
    sizes : list of int
        Projected tokens of each image.
    signals : dict of str to list of Tensor
        Signal name -> one tensor for each image, shaped as in :data:`tokenprune.features.SIGNALS` without ``b``.
    """

    sizes: list[int] = field(default_factory=list)
    signals: dict[str, list[Tensor]] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget; called when the images have been used."""
        self.sizes.clear()
        self.signals.clear()

    def add(self, name: str, per_image: Iterable[Tensor]) -> None:
        """Append one tensor an image."""
        self.signals.setdefault(name, []).extend(per_image)


class ModelAdapter(ABC):
    """One model of a family. Adapters hold no state of a run.

    Parameters
    ----------
    model : PreTrainedModel
        The whole model, head included.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def core(self) -> nn.Module:
        """The module that merges image features into the embeddings and calls the language model."""
        core: nn.Module = self.model.base_model
        return core

    @property
    @abstractmethod
    def language_model(self) -> nn.Module:
        """The decoder that receives ``inputs_embeds``."""

    @property
    @abstractmethod
    def image_token_ids(self) -> tuple[int, ...]:
        """Placeholder ids that image features replace."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that are no text of anybody's: begin, end, padding, placeholders."""
        ids: set[int] = set(self.image_token_ids)
        for config in (self.model.config, self.model.config.get_text_config(), self.model.generation_config):
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                value = getattr(config, name, None)
                if value is not None:
                    ids.update(value if isinstance(value, list | tuple) else (value,))
        return frozenset(ids)

    @property
    @abstractmethod
    def available(self) -> frozenset[str]:
        """Signals this model can give before its language model runs."""

    @abstractmethod
    def observe(self, signals: frozenset[str], seen: Observation) -> AbstractContextManager[None]:
        """Hook the vision side; while open, forward passes append to ``seen`` the signals asked for."""

    @abstractmethod
    def encode(self, **inputs: Any) -> Any:
        """Run the vision side alone and return what ``forward`` accepts as ``mm_encoder_outputs["image"]``."""

    @abstractmethod
    def project(self, tokens: Tensor) -> Tensor:
        """From encoder space to projection space: (..., e) -> (..., d)."""

    def grid(self, n_tokens: int) -> Grid | None:
        """Where an image's tokens lie, or None if unknown."""
        return None

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """Embed token ids with the language model's table: (B, S) -> (B, S, d); placeholders embed as id 0."""
        ids = input_ids.masked_fill(self.image_mask(input_ids), 0)
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    def image_mask(self, input_ids: Tensor) -> Tensor:
        """Bool (B, S), True at placeholders."""
        ids = torch.tensor(self.image_token_ids, device=input_ids.device)
        return torch.isin(input_ids, ids)

    def require(self, signals: frozenset[str], who: str) -> None:
        """Raise if the model cannot give a signal; name it, and the strategies that would work."""
        missing = sorted(signals - self.available)
        if missing:
            fits = ", ".join(usable_strategies(self)) or "none"
            raise MissingSignalError(
                f"{who} needs {', '.join(map(repr, missing))}, which {type(self.model).__name__} cannot give "
                f"(it gives {', '.join(sorted(self.available))}). Strategies that work on it: {fits}"
            )


def usable_strategies(adapter: ModelAdapter) -> list[str]:
    """Names of the strategies that ship with tokenprune whose signals the model can give."""
    own = [e for e in registry.entries("strategies") if e.target.startswith("tokenprune_strategies.")]
    return [e.name for e in own if not e.clashes and registry.build(e.name).requires <= adapter.available]


def adapter_for(model: Any) -> ModelAdapter:
    """Find the adapter of a model by its ``config.model_type``.

    Raises
    ------
    UnsupportedError
        No adapter; lists the model types that have one.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    model_type = getattr(getattr(inner, "config", None), "model_type", None)
    known = [entry.name for entry in registry.entries("adapters")]
    if model_type is None:
        raise UnsupportedError(f"{type(model).__name__} is no transformers model: it has no config.model_type")
    if model_type not in known:
        raise UnsupportedError(
            f"model type {model_type!r} ({type(inner).__name__}) has no adapter; {closest(model_type, known)} "
            f"Supported: {', '.join(known)}. A package adds one through the entry-point group tokenprune.adapters."
        )
    adapter = registry.load("adapters", model_type)(inner)
    if not isinstance(adapter, ModelAdapter):
        raise UnsupportedError(f"the adapter of {model_type!r} must be a ModelAdapter, got {type(adapter).__name__}")
    return adapter
