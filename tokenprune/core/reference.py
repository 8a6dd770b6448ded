"""References: a method whole, as a plain loop for one image, found by its strategy's name.

A reference is a function that a package lists in the entry-point group ``tokenprune.references`` under the name of the
strategy that does the same by parts. Its parameters are signals of one image without the batch axis (as
:data:`~tokenprune.core.features.SIGNALS` names them, or its own, which run over visual tokens first), ``keep``, and
options named as the strategy's; ``row`` tells it which image of its batch it is given, if it wants to know. It returns
the picks in order, (K,); a method that merges returns (picks, tokens), the tokens (K', width) in the order in which
they enter the language model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final, TypeVar

from torch import Tensor

from tokenprune.core.errors import PluginError, UnknownNameError, closest
from tokenprune.core.features import LAYOUTS, Features, is_signal, signal_of

__all__ = ["GROUP", "Reference", "list_references", "load_reference", "reading"]

GROUP: Final = "tokenprune.references"

Function = TypeVar("Function", bound=Callable[..., Any])


def reading(**signals: str) -> Callable[[Function], Function]:
    """Say which signals parameters stand for whose names cannot be written as one: ``keys="wide_keys@-1"``."""

    def noted(function: Function) -> Function:
        function.signals = signals  # type: ignore[attr-defined]
        return function

    return noted


@dataclass(frozen=True)
class Reference:
    """A method as one function.

    Parameters
    ----------
    name : str
        Of the strategy.
    function : callable
        Signals of one image, ``keep`` and options -> picks, or (picks, tokens).
    """

    name: str
    function: Callable[..., Tensor | tuple[Tensor, Tensor]]

    def __call__(self, features: Features, keep: int, row: int = 0, **options: Any) -> tuple[Tensor, Tensor | None]:
        """Run on one row of a batch, without its padding.

        Parameters
        ----------
        features : Features
            Signals that the function names and that are here are handed on.
        keep : int
            Tokens to keep, of the row's real ones.
        row : int, default 0
        **options
            Of the function.

        Returns
        -------
        picks : int64 Tensor, (K,)
            Positions in the batch's row, in the order picked.
        tokens : Tensor, (K', width), or None
            What enters the language model, where the method merges.
        """
        made = self.function(**self.signals(features, row), keep=keep, **options)
        picks, tokens = made if isinstance(made, tuple) else (made, None)
        return (picks if features.visual_mask is None else features.visual_mask[row].nonzero()[picks, 0]), tokens

    def signals(self, features: Features, row: int = 0) -> dict[str, Any]:
        """What the function reads of one row of a batch, by parameter: without the batch axis and without padding."""
        real = None if features.visual_mask is None else features.visual_mask[row].nonzero().flatten()
        given: dict[str, Any] = {}
        renamed: dict[str, str] = getattr(self.function, "signals", {})
        for parameter_name, parameter in inspect.signature(self.function).parameters.items():
            name = renamed.get(parameter_name, parameter_name)
            needed = (is_signal(name) or name in LAYOUTS) and parameter.default is parameter.empty
            if name == "row":
                given["row"] = row
            elif name in features or needed:
                value = features[name][row]  # raises where a signal is missing
                letters = signal_of(name).shape.split()[1:] if is_signal(name) else ["n"]
                if real is not None and "n" in letters:
                    value = value.index_select(letters.index("n"), real)
                if name == "text" and features.text_mask is not None:
                    value = value[features.text_mask[row]]
                given[parameter_name] = value
        return given


def list_references() -> list[str]:
    """Names of the strategies that have a reference; imports none."""
    return sorted({point.name for point in metadata.entry_points(group=GROUP)})


def load_reference(name: str) -> Reference:
    """Import a reference.

    Raises
    ------
    UnknownNameError
        No strategy of this name has one; with the closest that have.
    PluginError
        Importing it failed.
    """
    points = {point.value: point for point in metadata.entry_points(group=GROUP, name=name)}
    if not points:
        raise UnknownNameError(f"no reference for a strategy named {name!r}; {closest(name, list_references())}")
    if len(points) > 1:
        raise PluginError(f"the reference of {name!r} is claimed by {', '.join(sorted(points))}")
    [point] = points.values()
    try:
        return Reference(name, point.load())
    except Exception as error:
        raise PluginError(
            f"the reference of {name!r} ({point.value}) cannot be loaded: {type(error).__name__}: {error}"
        ) from error
