"""Questions about clips in the manner of three sets of videos: what happens, who or what, how many and where.

Words alone give none of the answers away. (They do in the older :attr:`~tokenprune.data.scenes.video.Clip.questions`
of the sub-family "event": of its options, the right one alone has both the name and the event that others repeat.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from tokenprune.core.errors import BudgetError
from tokenprune.data.scenes.draws import Draws, key_number
from tokenprune.data.scenes.placement import Arrangement, SceneObject
from tokenprune.data.scenes.questions import LETTERS, Question, ask
from tokenprune.data.scenes.scene import Sample, named_subfamilies, spread_questions
from tokenprune.data.scenes.styles import UNIT
from tokenprune.data.scenes.video import EVENTS, Clip, clip
from tokenprune.data.scenes.world import NAMES, NUMBERS, plural

__all__ = ["CLIP_FAMILIES", "CLIP_SUBFAMILIES", "ask_clip", "clip_questions", "clip_samples", "stays"]

CLIP_FAMILIES: dict[str, tuple[str, ...]] = {
    "tgif": ("event", "action", "direction"),
    "msvd": ("actor", "color"),
    "msrvtt": ("count", "where"),
}
"""Families of questions, named after the sets whose question types they copy, and their sub-families."""
PER_CLIP = 2
"""Questions that a sample asks about one clip at most: a model sees the clip anew for each."""
CLIP_SUBFAMILIES = tuple((family, sub) for family, subs in CLIP_FAMILIES.items() for sub in subs)


def stays(shown: Clip) -> Arrangement:
    """Everything in a clip but the one thing that appears, disappears or moves."""
    least = min(shown.arrangements, key=lambda arrangement: len(arrangement.objects))
    return replace(least, objects=tuple(thing for thing in least.objects if thing.name != shown.actor))


def _actor(shown: Clip) -> list[SceneObject]:
    """The actor in each frame that it is in."""
    return [a.objects[-1] for a, box in zip(shown.arrangements, shown.boxes, strict=True) if box is not None]


def _seen(shown: Clip) -> tuple[tuple[int, int, int, int], ...]:
    return tuple(box for box in shown.boxes if box is not None)


def _event(shown: Clip, draws: Draws) -> Question:
    """Two things and two events make four options, which are alike."""
    others = sorted({thing.name for thing in stays(shown).objects}) or [n for n in NAMES if n != shown.actor]
    things, events = (
        [shown.actor, draws.pick(others)],
        [shown.event, draws.pick([e for e in EVENTS if e != shown.event])],
    )
    options = [f"the {thing} {event}" for thing in things for event in events]
    right = options[0]
    draws.shuffle(options)
    listed = " ".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    text = f"What happens in the video? {listed}"
    return Question(text, LETTERS[options.index(right)], "tgif", "event", LETTERS, _seen(shown))


def _action(shown: Clip, draws: Draws) -> Question:
    return Question(f"What happens to the {shown.actor} in the video?", shown.event, "tgif", "action", (), _seen(shown))


def _direction(shown: Clip, draws: Draws) -> Question | None:
    _, _, way = shown.event.partition(" ")
    if not way:
        return None
    text = f"Which way does the {shown.actor} move, left, right, up or down?"
    return Question(text, way, "tgif", "direction", (), _seen(shown))


def _who(shown: Clip, draws: Draws) -> Question:
    text = f"Which object {shown.event.split()[0]} in the video?"
    return Question(text, shown.actor, "msvd", "actor", (), _seen(shown))


def _color(shown: Clip, draws: Draws) -> Question | None:
    color = _actor(shown)[0].color
    if color is None:
        return None
    return Question(f"What color is the {shown.actor} in the video?", color, "msvd", "color", (), _seen(shown))


def _count(shown: Clip, draws: Draws) -> Question | None:
    """Ask about what there is more than one of; else mostly nothing, or "one" would be a good guess."""
    still = stays(shown)
    able = [(c, n) for c, n in sorted(still.counts.items()) if n <= len(NUMBERS) and plural(NAMES[c])]
    several = [pair for pair in able if pair[1] > 1]
    if not able or not (several or draws.chance(40)):
        return None
    category, number = draws.pick(several or able)
    boxes = tuple(thing.box for thing in still.of(category))
    text = f"How many {plural(NAMES[category])} are there in the video?"
    return Question(text, NUMBERS[number - 1], "msrvtt", "count", (), boxes)


def _where(shown: Clip, draws: Draws) -> Question | None:
    """Ask where something is that keeps to one half, mostly the actor: what only some frames show."""
    still, places = stays(shown), _actor(shown)
    common = set.intersection(*(set(_placed(place, still.size)) for place in places))
    if common and draws.chance(75):
        text, answer = draws.pick(sorted(common))
        return Question(text, answer, "msrvtt", "where", (), _seen(shown))
    found = ask("gqa", "where", still, draws)
    if found is None:
        return None
    return replace(found, text=found.text.replace("of the image", "of the video"), family="msrvtt", subfamily="where")


def _placed(thing: SceneObject, size: tuple[int, int]) -> list[tuple[str, str]]:
    """What can be asked about where a thing clearly is, and the answers."""
    found = []
    for axis, (text, sides) in enumerate(
        (
            (f"Which side of the video is the {thing.name} on, left or right?", ("left", "right")),
            (f"Which half of the video is the {thing.name} in, top or bottom?", ("top", "bottom")),
        )
    ):
        place, side = (thing.x, thing.y)[axis], size[axis] * UNIT
        if abs(place - side // 2) > side * 7 // 100:
            found.append((text, sides[place > side // 2]))
    return found


_ASK: dict[tuple[str, str], Callable[[Clip, Draws], Question | None]] = {
    ("tgif", "event"): _event,
    ("tgif", "action"): _action,
    ("tgif", "direction"): _direction,
    ("msvd", "actor"): _who,
    ("msvd", "color"): _color,
    ("msrvtt", "count"): _count,
    ("msrvtt", "where"): _where,
}


def ask_clip(family: str, subfamily: str, shown: Clip, draws: Draws) -> Question | None:
    """Ask a question of one sub-family.

    Returns
    -------
    Question or None
        None where the clip does not allow one: nothing moves, nothing can be counted, nothing keeps to one half.
    """
    return _ASK[family, subfamily](shown, draws)


def clip_samples(
    families: Iterable[str] | None = None, n: int = 200, seed: int = 0, split: str = "test"
) -> list[Sample]:
    """Questions about clips spread evenly over sub-families; ``scene`` of a sample is the index of its clip.

    Parameters
    ----------
    families : iterable of str, optional
        Each "tgif" (all its sub-families) or "tgif/event"; default all.
    n : int, default 200
        How many questions. Sub-families differ by at most one question.
    seed : int, default 0
    split : str, default "test"

    Raises
    ------
    UnknownNameError
        Unknown family.
    BudgetError
        ``n`` is below one, or ``families`` is empty.
    """
    wanted = named_subfamilies(CLIP_FAMILIES, families)
    if n < 1 or not wanted:
        raise BudgetError(f"n={n} questions, of {len(wanted)} sub-families: each is at least 1")

    def asked(index: int) -> tuple[Question, ...]:
        # what they are about is in several frames, and nowhere in one picture
        return tuple(replace(question, boxes=None) for question in clip_questions(clip(seed, index, split)))

    return spread_questions(wanted, n, PER_CLIP, asked, f"clips-{split}-{seed}")


def clip_questions(shown: Clip) -> tuple[Question, ...]:
    """What is asked about a clip: one question of each sub-family that it allows; boxes are of all frames."""
    found = []
    for family, sub in CLIP_SUBFAMILIES:
        draws = Draws(key_number(shown.split, shown.seed, shown.index, f"video/{family}/{sub}"))
        question = ask_clip(family, sub, shown, draws)
        if question is not None:
            found.append(question)
    return tuple(found)
