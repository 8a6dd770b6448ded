"""Questions about an arrangement, and their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenprune.data.scenes.atlas import CATEGORIES
from tokenprune.data.scenes.draws import Draws
from tokenprune.data.scenes.placement import Arrangement, Box, SceneObject, Sign
from tokenprune.data.scenes.styles import UNIT
from tokenprune.data.scenes.world import (
    COLORS,
    IN_THEME,
    KINDS,
    NAMES,
    NUMBERS,
    POPULAR,
    WORDS,
    plural,
)

__all__ = ["Question", "ask"]

LETTERS = ("A", "B", "C", "D")
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
_COUNT_WEIGHTS = (25, 38, 22, 15)


@dataclass(frozen=True)
class Question:
    """A question about one picture.

    Attributes
    ----------
    text : str
    answer : str
        A word, a number in digits, "Yes" or "No", or the letter of an option.
    family, subfamily : str
        As in ``QUESTION_FAMILIES``.
    choices : tuple of str
        All possible answers: ("Yes", "No"), or letters; empty for an open question.
    boxes : tuple of boxes, or None
        Left, top, right, bottom of what the question is about, in pixels; empty where that is nowhere in the picture,
        None where it is not in one picture.
    """

    text: str
    answer: str
    family: str
    subfamily: str
    choices: tuple[str, ...] = ()
    boxes: tuple[Box, ...] | None = ()

    @property
    def binary(self) -> bool:
        """Whether the answer is yes or no."""
        return self.choices == ("Yes", "No")

    @property
    def answers(self) -> tuple[str, ...]:
        """All right answers."""
        return (self.answer,)

    @property
    def prompt(self) -> str:
        """What is shown to a model: nothing but the text."""
        return self.text

    @property
    def metric(self) -> str:
        """Name of the metric that grades answers."""
        return "words"


@dataclass(frozen=True)
class _Draft:
    text: str
    answer: str
    about: Sequence[SceneObject | Sign] = ()
    choices: tuple[str, ...] = ()


def _yes_no(text: str, yes: bool, about: Sequence[SceneObject | Sign]) -> _Draft:
    return _Draft(text, "Yes" if yes else "No", about, ("Yes", "No"))


def _options(draws: Draws, text: str, right: str, wrong: Sequence[str], about: Sequence[SceneObject]) -> _Draft:
    options = [right, *wrong]
    draws.shuffle(options)
    listed = " ".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    return _Draft(f"{text} {listed}", LETTERS[options.index(right)], about, LETTERS)


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _absent(arrangement: Arrangement, draws: Draws, how: str) -> int | None:
    """Draw a category that the picture does not show: any, a common one, or one that goes with what is there."""
    pool: Sequence[int] = range(len(CATEGORIES))
    if how == "popular":
        pool = POPULAR
    elif how == "adversarial":
        seen = {CATEGORIES[c].theme for c in arrangement.counts} | {arrangement.theme}
        pool = IN_THEME[draws.pick(sorted(seen))][0]
    pool = [c for c in pool if c not in arrangement.counts]
    return draws.pick(pool) if pool else None


def _presence(arrangement: Arrangement, draws: Draws, how: str) -> _Draft | None:
    where = draws.pick(("image", "picture"))
    if draws.chance(50):
        category: int | None = draws.pick(sorted(arrangement.counts))
    else:
        category = _absent(arrangement, draws, how)
    if category is None:
        return None
    there = arrangement.of(category)
    return _yes_no(f"Is there {_article(NAMES[category])} in the {where}?", bool(there), there)


def _tinted(arrangement: Arrangement) -> list[SceneObject]:
    return [o for o in arrangement.single() if o.color is not None]


def _colored(arrangement: Arrangement, draws: Draws) -> tuple[SceneObject | Sign, str, str] | None:
    """Draw something with one colour: the thing, its name, its colour."""
    if len(arrangement.signs) == 1 and draws.chance(12):
        return arrangement.signs[0], "sign", arrangement.signs[0].color
    things = _tinted(arrangement)
    if not things:
        return None
    thing = draws.pick(things)
    return thing, thing.name, str(thing.color)


def _color(arrangement: Arrangement, draws: Draws) -> _Draft | None:
    drawn = _colored(arrangement, draws)
    if drawn is None:
        return None
    thing, name, color = drawn
    text = draws.pick(("What color is the {}?", "What is the color of the {}?")).format(name)
    return _Draft(text, color, (thing,))


def _is_color(arrangement: Arrangement, draws: Draws) -> _Draft | None:
    drawn = _colored(arrangement, draws)
    if drawn is None:
        return None
    thing, name, color = drawn
    yes = draws.chance(50)
    said = color if yes else draws.pick([c for c in COLORS if c != color])
    return _yes_no(f"Is the {name} {said}?", yes, (thing,))


def _object(arrangement: Arrangement, draws: Draws) -> _Draft | None:
    colors = [o.color for o in arrangement.objects]
    doubtful = {c for o in arrangement.objects if o.color is None for c in CATEGORIES[o.category].colors}
    doubtful |= {sign.color for sign in arrangement.signs}
    things = [o for o in arrangement.objects if o.color and colors.count(o.color) == 1 and o.color not in doubtful]
    if not things:
        return None
    thing = draws.pick(things)
    text = draws.pick(("What is the {} object?", "Which object is {}?")).format(thing.color)
    return _Draft(text, thing.name, (thing,))


def _counted(arrangement: Arrangement, draws: Draws) -> tuple[int, int] | None:
    """Draw a category and how many of it there are; several are more likely than one."""
    able = [(c, n) for c, n in sorted(arrangement.counts.items()) if n <= len(NUMBERS) and plural(NAMES[c])]
    several = [pair for pair in able if pair[1] > 1]
    if several and draws.chance(75):
        able = several
    return draws.pick(able) if able else None


def _count(arrangement: Arrangement, draws: Draws) -> _Draft | None:
    drawn = _counted(arrangement, draws)
    if drawn is None:
        return None
    category, number = drawn
    text = f"How many {plural(NAMES[category])} are there in the image?"
    return _Draft(text, NUMBERS[number - 1], arrangement.of(category))


def _is_count(arrangement: Arrangement, draws: Draws) -> _Draft | None:
    drawn = _counted(arrangement, draws)
    if drawn is None:
        return None
    category, number = drawn
    yes = draws.chance(50)
    said = number
    if not yes:
        # false numbers are as common as true ones, or the question alone would tell
        others = [n for n in range(1, len(NUMBERS) + 1) if n != number]
        said = draws.weighted(others, [_COUNT_WEIGHTS[n - 1] for n in others])
    name = NAMES[category]
    if said == 1:
        return _yes_no(f"Is there only one {name} in the image?", yes, arrangement.of(category))
    return _yes_no(f"Are there {NUMBERS[said - 1]} {plural(name)} in the image?", yes, arrangement.of(category))


def _related(arrangement: Arrangement, draws: Draws) -> tuple[SceneObject, SceneObject, str] | None:
    """Draw two things and where the first is, seen from the second: clearly so, by an eighth of the picture."""
    things = arrangement.single()
    if len(things) < 2:
        return None
    margins = [side * UNIT * 12 // 100 for side in arrangement.size]
    for _ in range(6):
        first, second = draws.sample(things, 2)
        dx, dy = first.x - second.x, first.y - second.y
        clear = [abs(dx) > margins[0], abs(dy) > margins[1]]
        if not any(clear):
            continue
        sideways = draws.chance(50) if all(clear) else clear[0]
        if sideways:
            return first, second, "left" if dx < 0 else "right"
        return first, second, "above" if dy < 0 else "below"
    return None


def _relation(arrangement: Arrangement, draws: Draws) -> _Draft | None:
    drawn = _related(arrangement, draws)
    if drawn is None:
        return None
    first, second, side = drawn
    between = "to the left or right of" if side in ("left", "right") else "above or below"
    return _Draft(f"Is the {first.name} {between} the {second.name}?", side, (first, second))


def _position(arrangement: Arrangement, draws: Draws) -> _Draft | None:
    drawn = _related(arrangement, draws)
    if drawn is None:
        return None
    first, second, side = drawn
    yes = draws.chance(50)
    said = side if yes else _OPPOSITE[side]
    said = f"to the {said} of" if said in ("left", "right") else said
    return _yes_no(f"Is the {first.name} {said} the {second.name}?", yes, (first, second))


def _where(arrangement: Arrangement, draws: Draws) -> _Draft | None:
    middle, half = (side * UNIT // 2 for side in arrangement.size)
    across, down = (side * UNIT * 7 // 100 for side in arrangement.size)
    things = [o for o in arrangement.single() if abs(o.x - middle) > across and abs(o.y - half) > down]
    if not things:
        return None
    thing = draws.pick(things)
    if draws.chance(50):
        text = f"Which side of the image is the {thing.name} on, left or right?"
        return _Draft(text, "left" if thing.x < middle else "right", (thing,))
    text = f"Which half of the image is the {thing.name} in, top or bottom?"
    return _Draft(text, "top" if thing.y < half else "bottom", (thing,))


def _named_sign(arrangement: Arrangement, draws: Draws, sign: Sign) -> str:
    return f"the {sign.color} sign" if len(arrangement.signs) > 1 or draws.chance(30) else "the sign"


def _read(arrangement: Arrangement, draws: Draws, number: bool) -> _Draft | None:
    signs = [sign for sign in arrangement.signs if sign.is_number == number]
    if not signs:
        return None
    sign = draws.pick(signs)
    which = _named_sign(arrangement, draws, sign)
    kind = "number" if number else "word"
    return _Draft(draws.pick((f"What {kind} is on {which}?", f"What does {which} say?")), sign.text, (sign,))


def _is_read(arrangement: Arrangement, draws: Draws) -> _Draft | None:
    if not arrangement.signs:
        return None
    sign = draws.pick(arrangement.signs)
    which = _named_sign(arrangement, draws, sign)
    yes = draws.chance(50)
    said = sign.text
    if not yes and sign.is_number:
        place = draws.below(len(said))
        others = [d for d in ("123456789" if place == 0 else "0123456789") if d != said[place]]
        said = said[:place] + draws.pick(others) + said[place + 1 :]
    elif not yes:
        said = draws.pick([word for word in WORDS if word != said])
    return _yes_no(f"Is the {'number' if sign.is_number else 'word'} on {which} {said}?", yes, (sign,))


def _choose_seen(arrangement: Arrangement, draws: Draws) -> _Draft | None:
    if draws.chance(50):
        category = draws.pick(sorted(arrangement.counts))
        wrong: list[int] = []
        while len(wrong) < 3:
            other = _absent(arrangement, draws, "random" if draws.chance(60) else "adversarial")
            if other is not None and other not in wrong:
                wrong.append(other)
        names = [NAMES[c] for c in wrong]
        return _options(draws, "Which object is in the image?", NAMES[category], names, arrangement.of(category))
    things = _tinted(arrangement)
    if not things:
        return None
    thing = draws.pick(things)
    wrong_colors = draws.sample([c for c in COLORS if c != thing.color], 3)
    return _options(draws, f"What color is the {thing.name}?", str(thing.color), wrong_colors, (thing,))


def _choose_known(arrangement: Arrangement, draws: Draws) -> _Draft | None:
    kind = draws.pick(KINDS)
    right = draws.pick([c.name for c in CATEGORIES if c.kind == kind])
    wrong = draws.sample([c.name for c in CATEGORIES if c.kind != kind], 3)
    return _options(draws, f"Which one is {_article(kind)}?", right, wrong, ())


_ASK: dict[tuple[str, str], Callable[[Arrangement, Draws], _Draft | None]] = {
    ("pope", "random"): lambda arrangement, draws: _presence(arrangement, draws, "random"),
    ("pope", "popular"): lambda arrangement, draws: _presence(arrangement, draws, "popular"),
    ("pope", "adversarial"): lambda arrangement, draws: _presence(arrangement, draws, "adversarial"),
    ("gqa", "color"): _color,
    ("gqa", "object"): _object,
    ("gqa", "count"): _count,
    ("gqa", "relation"): _relation,
    ("gqa", "where"): _where,
    ("textvqa", "word"): lambda arrangement, draws: _read(arrangement, draws, number=False),
    ("textvqa", "number"): lambda arrangement, draws: _read(arrangement, draws, number=True),
    ("scienceqa", "image"): _choose_seen,
    ("scienceqa", "text"): _choose_known,
    ("mme", "existence"): lambda arrangement, draws: _presence(arrangement, draws, "random"),
    ("mme", "color"): _is_color,
    ("mme", "count"): _is_count,
    ("mme", "position"): _position,
    ("mme", "ocr"): _is_read,
}


def ask(family: str, subfamily: str, arrangement: Arrangement, draws: Draws) -> Question | None:
    """Ask a question of one sub-family.

    Returns
    -------
    Question or None
        None where the arrangement does not allow one: no sign to read, no object that is the only one of its kind.
    """
    draft = _ASK[family, subfamily](arrangement, draws)
    if draft is None:
        return None
    boxes = tuple(thing.box for thing in draft.about)
    return Question(draft.text, draft.answer, family, subfamily, draft.choices, boxes)
