"""What ``--model_args`` says, checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

from tokenprune.core.budget import Budget, Unit
from tokenprune.core.errors import ConfigError, OptionTypeError, UnknownOptionError, closest
from tokenprune.core.registry import build
from tokenprune.core.strategy import AnyStrategy

__all__ = ["FULL", "Options", "TextChoice"]

TextChoice = Literal["question", "prompt", "all"]

FULL: Final = "full"
"""What the unpruned model is called, as in a comparison."""


@dataclass(frozen=True)
class Options:
    """How a model is loaded, pruned and asked.

    Attributes
    ----------
    pretrained : str
        "embedded", "tiny:MODEL_TYPE", a folder or a hub id; the harness names its folder after it.
    strategy : str, optional
        With options as in ``mi-pruner:lam=0.7``. Without one nothing is pruned.
    keep : int or float, optional
        Tokens, or a share of them, that each unit keeps; pictures with fewer keep what they have.
    unit : str
        What a budget applies to: image, tile, frame or sample.
    text : str
        Which words a strategy reads: the ``question`` (the task's own words before and behind it left out), the whole
        ``prompt`` of the user, or ``all``, role words and system text included.
    device, dtype : str
    batch_size : int
    max_new_tokens : int
        Longest answer, where the task names none.
    num_frames : int
        Frames of a video, evenly spread.
    journal : Path, optional
        Folder of answers; a run that was stopped goes on there.
    """

    pretrained: str = "embedded"
    strategy: str | None = None
    keep: int | float | None = None
    unit: Unit = "image"
    text: TextChoice = "question"
    device: str | None = None
    dtype: str = "float32"
    batch_size: int = 1
    max_new_tokens: int = 128
    num_frames: int = 8
    journal: Path | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_new_tokens", "num_frames"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be a count of at least 1, got {value!r}")
        for name, known in (("unit", get_args(Unit)), ("text", get_args(TextChoice))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name}: no {getattr(self, name)!r}; {closest(getattr(self, name), known)}")
        if (self.strategy is None) != (self.keep is None):
            there, lacking = ("strategy", "keep") if self.keep is None else ("keep", "strategy")
            raise ConfigError(
                f"{there}={getattr(self, there)!r} without {lacking}=: give both, as in "
                "strategy=mi-pruner:lam=0.7,keep=64, or neither for the unpruned model"
            )
        if self.keep is not None:
            self.budget  # noqa: B018 - raises where it is none

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Read what the harness passes on: names and values, numbers already told from words; None is not given.

        Raises
        ------
        UnknownOptionError
            No such option; with the closest.
        ConfigError, OptionTypeError, BudgetError
            A value that cannot be.
        """
        known = {field.name for field in fields(cls)}
        found = {}
        for name, value in given.items():
            if name not in known:
                raise UnknownOptionError(f"--model_args: no option {name!r}; {closest(name, known)}")
            if value is not None and value != "None":
                found[name] = value
        if "batch_size" in found:
            found["batch_size"] = _count("batch_size", found["batch_size"])
        for name in ("pretrained", "strategy", "unit", "text", "device", "dtype", "journal"):
            # the harness takes "7" for a number and "true" for a truth
            if name in found and not isinstance(found[name], str | Path):
                raise OptionTypeError(f"{name}= must be text, got {type(found[name]).__name__} {found[name]!r}")
        if "journal" in found:
            found["journal"] = Path(found["journal"])
        return cls(**found)

    @property
    def label(self) -> str:
        """Name of the row of a table."""
        return FULL if self.strategy is None else self.strategy

    @property
    def built(self) -> AnyStrategy | None:
        """The strategy; None where nothing is pruned."""
        return None if self.strategy is None else build(self.strategy)

    @property
    def budget(self) -> Budget | None:
        """What each unit keeps."""
        return None if self.keep is None else Budget(self.keep, self.unit, clip=True)

    @property
    def decisive(self) -> dict[str, Any]:
        """What decides an answer of whatever strategy, for the record of a run; the processors' part is elsewhere."""
        return {name: getattr(self, name) for name in ("pretrained", "dtype", "unit", "text", "num_frames")}


def _count(name: str, value: Any) -> int:
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} must be a count, got {value!r}: how many questions fit is for you to say")
    return value
