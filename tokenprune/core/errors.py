"""Every error and warning that tokenprune raises on purpose, and the closest-match hint they share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BudgetError",
    "CheckError",
    "ConfigError",
    "DegenerateRelevanceWarning",
    "DuplicateNameError",
    "FeatureError",
    "FeatureTypeError",
    "FontWarning",
    "JudgeError",
    "MissingSignalError",
    "NestedAttachError",
    "NonFiniteError",
    "NothingPrunedWarning",
    "OptionTypeError",
    "PluginError",
    "QuestionError",
    "QuestionWarning",
    "SecondTurnError",
    "StoppedError",
    "SubstituteWarning",
    "TokenPruneError",
    "TokenPruneWarning",
    "UnknownNameError",
    "UnknownOptionError",
    "UnreachableBudgetError",
    "UnsupportedError",
    "UnusedBudgetWarning",
    "closest",
]


class TokenPruneError(Exception):
    """Base class of every error raised on purpose."""


class CheckError(TokenPruneError, ValueError, AssertionError):
    """A part does not do what its kind promises or what it declares; the message shows the smallest instance found."""


class FeatureError(TokenPruneError, ValueError):
    """A tensor of the features has the wrong rank, size or content."""


class FeatureTypeError(TokenPruneError, TypeError):
    """A feature is not a tensor, or not of an accepted dtype."""


class NonFiniteError(FeatureError):
    """A tensor holds NaN or infinity (``argmax`` would pick the NaN and say nothing)."""


class MissingSignalError(FeatureError):
    """A component asks for a signal that the features or the model do not have."""


class BudgetError(TokenPruneError, ValueError):
    """A budget is not a count in 1..N, nor a ratio in (0, 1]."""


class UnreachableBudgetError(BudgetError):
    """No budget of a strategy lets its layers process so few visual tokens on average."""


class ConfigError(TokenPruneError, ValueError):
    """An option has a value outside its range, or two options contradict each other."""


class QuestionError(ConfigError):
    """A question given as ``text`` does not occur in the prompt, or cannot be looked for."""


class OptionTypeError(TokenPruneError, TypeError):
    """An option has a value of the wrong type."""


class UnknownNameError(TokenPruneError, ValueError):
    """No strategy, component or command has this name."""


class UnknownOptionError(TokenPruneError, TypeError):
    """A strategy or component has no option of this name."""


class DuplicateNameError(TokenPruneError, ValueError):
    """Two components claim one name."""


class PluginError(TokenPruneError, ImportError):
    """A plugin's entry point cannot be loaded; the message names its distribution."""


class UnsupportedError(TokenPruneError, ValueError):
    """The model, or this way of calling it, is not supported; the message names what is."""


class JudgeError(TokenPruneError, ValueError):
    """A judge refuses to be asked, or cannot be reached; what it said so far is kept."""


class NestedAttachError(UnsupportedError):
    """A second ``attach`` on a model that already has one (indices would be relative to one another)."""


class SecondTurnError(UnsupportedError):
    """A pruned cache was handed to a new turn of the conversation inside ``attach``."""


class StoppedError(Exception):
    """The user stopped a run (ctrl-C), which is nobody's mistake: what was done is kept, the same command goes on."""


class TokenPruneWarning(UserWarning):
    """Base class of every warning."""


class DegenerateRelevanceWarning(TokenPruneWarning):
    """The text says nothing about which visual token matters; the documented fallback was used."""


class UnusedBudgetWarning(TokenPruneWarning):
    """The strategy decides itself how many tokens stay; the budget that was given is not used."""


class SubstituteWarning(TokenPruneWarning):
    """The model lacks a signal that the strategy reads; the documented substitute was used."""


class NothingPrunedWarning(TokenPruneWarning):
    """A picture was shown and nothing was pruned: the budget is larger than the picture, or no hook saw it."""


class QuestionWarning(TokenPruneWarning):
    """Which tokens of a prompt are the user's own words is a guess; the message says what to pass to be sure."""


class FontWarning(TokenPruneWarning):
    """No font on this machine has a character: a picture shows a mark in its place."""


class NotCompiledWarning(TokenPruneWarning):
    """Something could not be compiled and runs the plain way; the message says what and why."""


def closest(name: object, known: Iterable[str], n: int = 3) -> str:
    """Return a hint naming what is most like ``name``.

    Parameters
    ----------
    name : object
        What was given; mostly a str.
    known : iterable of str
        What is accepted.
    n : int, default 3
        How many matches to name.

    Returns
    -------
    str
        ``"did you mean 'a' or 'b'?"`` or, with nothing alike, ``"known: a, b, c"``.
    """
    options = sorted(set(known))
    matches = difflib.get_close_matches(str(name), options, n=n, cutoff=0.5)
    if matches:
        return "did you mean " + " or ".join(repr(m) for m in matches) + "?"
    return "known: " + (", ".join(options) if options else "none")
