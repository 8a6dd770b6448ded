"""Which tokens of a prompt are the user's own words.

The paper scores visual tokens against the prompt "system instructions omitted". What the model receives also holds a
system text, role words, earlier answers, special tokens of the chat template, and what a processor writes around the
tiles, rows and frames of a picture; they say nothing about what is asked.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from tokenprune.core.errors import FeatureError, OptionTypeError, QuestionError, QuestionWarning, closest
from tokenprune.hf.prompt_learning import Learner, Template
from tokenprune.hf.prompt_question import locate
from tokenprune.hf.prompt_spelling import Speller, Spelling, condensed, pattern
from tokenprune.hf.prompt_turns import KNOWN, Style, Turn, adjacent, user_turns, words_of
from tokenprune.hf.stop_words import keywords

__all__ = ["TURNS", "Reading", "Scaffold", "Text", "check_text", "prompt_text"]

Text = str | Sequence[str] | Sequence[Sequence[str]] | Tensor | Callable[[Tensor], Tensor]
"""Which tokens count as text: "prompt" (all turns of the user), "last-turn" (the last of them), "keywords" (all turns
less English stop words), "all", the question itself (or several, or some for each sample), a bool mask (B, S), or a
function from ids to such a mask."""

TURNS: Final = ("prompt", "last-turn", "keywords")
"""Options that take a prompt's turns apart."""

OPTIONS: Final = (*TURNS, "all")
"""Names that :data:`Text` may be; any other string is a question."""

_WAY_OUT: Final = "pass text='<the question>', text='all', or a bool mask of the tokens that count"


@dataclass(frozen=True)
class Reading:
    """What one prompt says.

    Attributes
    ----------
    line : Spelling
        The prompt, each picture and what belongs to it condensed to one character.
    turns : tuple of tuple of int
        For each turn of the user that says something, its characters.
    doubt : str or None
        Why this may be wrong.
    """

    line: Spelling
    turns: tuple[tuple[int, ...], ...]
    doubt: str | None = None

    @property
    def words(self) -> list[int]:
        """Characters of all turns."""
        return [i for turn in self.turns for i in turn]

    @property
    def said(self) -> str:
        """All turns in a line, cut if need be."""
        turns = ("".join(self.line.text[i] for i in turn) for turn in self.turns)
        said = " / ".join(" ".join(turn.split()) for turn in turns)
        return said if len(said) <= 80 else f"{said[:40]} ... {said[-40:]}"


@dataclass(frozen=True)
class _Learned:
    """What a processor was seen to do: its turns (None where they cannot be made out), its pictures; what is unsure."""

    style: Style | None
    pictures: re.Pattern[str]
    doubt: str | None = None


@dataclass(frozen=True)
class Scaffold:
    """What a processor puts around the user's words: learned from it when it is first asked.

    Parameters
    ----------
    processor : ProcessorMixin or PreTrainedTokenizerBase
        With a chat template, or without one: turns are then read as prompts are usually written.
    image_token_ids : tuple of int
        Ids of placeholders.
    """

    processor: Any = field(repr=False)
    image_token_ids: tuple[int, ...]

    @classmethod
    def of(cls, processor: Any, image_token_ids: Sequence[int]) -> Scaffold:
        """The scaffold of a processor or tokenizer.

        Raises
        ------
        OptionTypeError
            Neither a processor with a tokenizer, nor a tokenizer.
        """
        tokenizer = getattr(processor, "tokenizer", processor)
        if not all(callable(getattr(tokenizer, name, None)) for name in ("encode", "decode", "convert_ids_to_tokens")):
            raise OptionTypeError(
                f"processor must be the model's processor or its tokenizer, got {type(processor).__name__}"
            )
        return cls(processor, tuple(image_token_ids))

    @cached_property
    def speller(self) -> Speller:
        """Between token ids and text."""
        return Speller(getattr(self.processor, "tokenizer", self.processor))

    @cached_property
    def learned(self) -> _Learned:
        """What the processor does; learned once for as long as it lives and keeps its template and vocabulary."""
        known = _LEARNED.setdefault(self.processor, {})
        key = (Template(self.processor).source, self.image_token_ids, len(self.speller.tokenizer))
        if key not in known:
            known[key] = _learn(Learner(self.processor, self.speller, self.image_token_ids))
        return known[key]

    def condense(self, line: Spelling) -> Spelling:
        """Take each picture together with all that belongs to it."""
        return condensed(line, self.learned.pictures)

    def read(self, ids: Sequence[int], real: Sequence[bool], shown: Sequence[bool], special: frozenset[int]) -> Reading:
        """Tell the user's words in one prompt from everything else.

        Parameters
        ----------
        ids : sequence of int
        real, shown : sequence of bool
            Tokens that are no padding; placeholders.
        special : frozenset of int
            Ids that the model takes for special.
        """
        line = self.condense(self.speller.spell(ids, shown, real, special))
        own = () if self.learned.style is None else (self.learned.style,)
        for loose in (False, True):
            for style in (*own, *KNOWN):
                turns = user_turns(style, line, loose=loose)
                if turns:
                    doubt = _doubt(self.learned, style, line, turns) if style in own or not own else None
                    doubt = doubt or next((turn.doubt for turn in turns if turn.doubt is not None), None)
                    return Reading(line, _said(style, line, turns), doubt)
        return Reading(line, _said(None, line, [Turn(0, len(line.text))]), _NO_TURNS)


_LEARNED: WeakKeyDictionary[Any, dict[Any, _Learned]] = WeakKeyDictionary()


def _learn(learner: Learner) -> _Learned:
    """Learn, and read conversations that the processor itself has made: what fails at that is not kept."""
    pictures = pattern(learner.pictures(), learner.labels())
    learned = learner.style()
    styles = [style for known in KNOWN for style in (known, replace(known, loose=True))]
    if learned is not None:
        styles.insert(0, learned)
    doubt = None
    for line, said in learner.conversations():
        for style in styles:
            if _reads(style, condensed(line, pictures), said):
                return _Learned(style, pictures, doubt)
        doubt = _SYSTEM if doubt is None and len(said) > 1 else _SOME_TURNS
    return _Learned(None, pictures, _NO_STYLE if doubt else None)


def _doubt(learned: _Learned, style: Style, line: Spelling, turns: Sequence[Turn]) -> str | None:
    """What is unsure about turns that were read by the processor's own style."""
    if learned.doubt == _SYSTEM and style.user and not any(adjacent(style, line, *pair) for pair in pairwise(turns)):
        return None  # a system text would be a turn that nobody answers
    return learned.doubt


def _reads(style: Style, line: Spelling, said: Sequence[str]) -> bool:
    """Whether a style finds the words in a prompt."""
    read = ["".join(line.text[i] for i in words) for words in _said(style, line, user_turns(style, line))]
    return [text.strip() for text in read] == list(said)


_SYSTEM: Final = "the chat template writes a system text as if the user had said it"
_SOME_TURNS: Final = "the chat template does not set apart what the user says in a conversation of several turns"
_NO_STYLE: Final = "the turns of the processor's chat template cannot be made out"
_NO_TURNS: Final = "no turns were found in it, neither the chat template's nor role words by hand: all of it counts"


def _said(style: Style | None, line: Spelling, turns: Sequence[Turn]) -> tuple[tuple[int, ...], ...]:
    found = (tuple(words_of(style, line, turn)) for turn in turns)
    return tuple(words for words in found if words)


def prompt_text(
    input_ids: Tensor,
    mask: Tensor,
    images: Tensor,
    special_ids: frozenset[int],
    *,
    text: Text = "prompt",
    scaffold: Scaffold | None = None,
) -> Tensor:
    """Mark the tokens that count as text.

    Parameters
    ----------
    input_ids : int64 Tensor, (B, S)
    mask, images : bool Tensor, (B, S)
        Real tokens; image placeholders.
    special_ids : frozenset of int
    text : Text, default "prompt"
        "prompt": what the user says, in all turns; "last-turn": in the last one that says something; "keywords": in all
        turns, less :data:`~tokenprune.hf.stop_words.STOP_WORDS` and punctuation, if anything is left then; "all":
        everything but placeholders and padding. Any other string is a question to be found in each prompt, a list of
        strings has one for each sample (with a single prompt: several that all count), a list of lists several for
        each. Where a question occurs among the user's words, other places do not count. A mask or list with fewer rows
        than there are copies of prompts (beams) stands for all copies.
    scaffold : Scaffold, optional
        Without one "prompt", "last-turn" and "keywords" mean what follows the first image less special tokens, or all
        of the prompt where nothing follows: with role words, since those cannot be told from others.

    Returns
    -------
    bool Tensor, (B, S)

    Raises
    ------
    QuestionError
        A question is not in the prompt, or cannot be looked for without a ``scaffold``.
    FeatureError, OptionTypeError
        A mask of another shape, a list of another length; something else.

    Warns
    -----
    QuestionWarning
        What counts in a prompt with images is a guess; says why, what counts, and what to pass instead.
    """
    if isinstance(text, Tensor) or callable(text):
        given = text if isinstance(text, Tensor) else text(input_ids)
        if isinstance(given, Tensor) and given.ndim == 2 and 0 < len(given) < len(input_ids):
            given = _for_copies(given, len(input_ids))
        if not isinstance(given, Tensor) or given.dtype != torch.bool or given.shape != input_ids.shape:
            got = f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
            raise FeatureError(f"text must be a bool mask of shape {tuple(input_ids.shape)}, got {got}")
        return given.to(mask.device) & mask & ~images
    plain = mask & ~images
    if isinstance(text, str) and text == "all":
        return plain
    check_text(text, scaffold)
    questions = None if isinstance(text, str) and text in OPTIONS else _questions(text, len(input_ids))
    if scaffold is None:
        return _after_image(input_ids, plain, images, special_ids)
    rows = zip(input_ids.tolist(), mask.tolist(), images.tolist(), strict=True)
    readings: dict[tuple[Any, ...], Reading] = {}
    marked = torch.zeros(input_ids.shape, dtype=torch.bool)
    for b, (ids, real, shown) in enumerate(rows):
        key = (tuple(ids), tuple(real))
        if key not in readings:
            readings[key] = scaffold.read(ids, real, shown, special_ids)
        reading = readings[key]
        if questions is not None:
            characters = _asked(questions[b], reading, scaffold, b, any(shown), text)
        else:
            characters = list(reading.turns[-1]) if text == "last-turn" and reading.turns else reading.words
            if text == "keywords":
                characters = keywords(reading.line.text, characters)
            if reading.doubt is not None and any(shown):
                _warn(f"the question of sample {b} is a guess: {reading.doubt}: {reading.said!r}")
        marked[b, sorted(reading.line.tokens(characters))] = True
    return marked.to(mask.device) & plain


def check_text(text: Text, reader: Any) -> None:
    """Refuse what cannot be a choice of text, whatever the prompt.

    Parameters
    ----------
    text : Text
    reader : optional
        A processor, tokenizer or scaffold; None where there is none.

    Raises
    ------
    OptionTypeError
        Not one of the forms of :data:`Text`.
    QuestionError
        A question, and nothing to look for it with.
    """
    if isinstance(text, Tensor) or callable(text) or (isinstance(text, str) and text in OPTIONS):
        return
    questions = [question for several in _questions(text, 0) for question in several]
    if any(not question.strip() for question in questions):
        raise QuestionError(f"text={text!r} holds an empty question; {_options(text)}")
    if reader is None:
        raise QuestionError(
            f"text={text!r} is a question, which is looked for in the prompt's words: pass processor= (the model's "
            f"processor or tokenizer); {_options(text)}"
        )


def _after_image(input_ids: Tensor, plain: Tensor, images: Tensor, special_ids: frozenset[int]) -> Tensor:
    """What can be told without a tokenizer: nothing about words."""
    if bool(images.any()):
        _warn(
            "no processor was given, and none lies where the model was loaded from, so role words and system text "
            "cannot be told from the question: everything that follows the first image counts"
        )
    plain = plain & ~torch.isin(input_ids, torch.tensor(sorted(special_ids), device=input_ids.device))
    after = plain & (images.cumsum(1) > 0)
    return torch.where(after.any(1, keepdim=True), after, plain)


def _warn(message: str) -> None:
    given = "pass processor=, or " if message.startswith("no processor") else ""
    warnings.warn(f"{message}. To be sure {given}{_WAY_OUT}", QuestionWarning, stacklevel=3)


def _for_copies(given: Tensor, rows: int) -> Tensor:
    """Rows for each copy of a prompt, as ``generate`` orders them."""
    return given.repeat_interleave(rows // len(given), 0) if rows % len(given) == 0 else given


def _questions(text: Any, rows: int) -> list[list[str]]:
    """The questions of each row."""
    if isinstance(text, str):
        return [[text]] * max(rows, 1)
    found: list[list[str]] = []
    for entry in text if isinstance(text, list | tuple) else [None]:
        several = [entry] if isinstance(entry, str) else entry
        if not isinstance(several, list | tuple) or not all(isinstance(one, str) for one in several):
            raise OptionTypeError(
                "text must be 'prompt', 'last-turn', 'keywords', 'all', a question, a list of questions, a bool mask "
                f"or a function, got {type(text).__name__} {text!r}"
            )
        found.append(list(several))
    if rows == 1 and len(found) > 1 and all(isinstance(entry, str) for entry in text):
        return [[question for several in found for question in several]]
    if not found or rows % len(found):
        raise FeatureError(f"text has {len(found)} questions for {rows} samples: give one for each, or a list for each")
    return [several for several in found for _ in range(rows // len(found) if rows else 1)]


def _asked(
    questions: Sequence[str], reading: Reading, scaffold: Scaffold, row: int, shows: bool, text: Any
) -> list[int]:
    """Characters of a row's questions; a sample that shows nothing may lack them."""
    characters: list[int] = []
    for question in questions:
        found = locate(question, reading.line, scaffold.speller, reading.words)
        if not found and shows:
            raise QuestionError(
                f"text: {question!r} is not in the prompt of sample {row}, in which the user says "
                f"{reading.said!r}; {_options(text)}"
            )
        characters += found
    return characters


def _options(text: Any) -> str:
    """What else could be given."""
    if not isinstance(text, str):
        return f"otherwise {_WAY_OUT}"
    near = closest(text, OPTIONS)
    return near if near.startswith("did you mean") else f"options are {', '.join(map(repr, OPTIONS))}"
