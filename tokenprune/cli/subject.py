"""IMAGE and QUESTION on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from tokenprune.data.items import Item, Question

__all__ = ["found", "is_scene", "subject"]

_STYLES = {"scene": "plain", "natural": "natural"}
"""What begins the name of a painted scene, and the set that it is of."""


def is_scene(image: str) -> bool:
    """Whether IMAGE names a painted scene: scene:SEED/INDEX, or natural:SEED/INDEX."""
    return image.partition(":")[0] in _STYLES and ":" in image


def found(items: Sequence[Item], name: str) -> tuple[Image.Image, Question, Sequence[Question]]:
    """Picture and question of an id, and what else is asked about the picture."""
    from tokenprune.core.errors import ConfigError, closest

    by_id = {item.id: item for item in items}
    if name not in by_id:
        raise ConfigError(f"IMAGE {name!r}: no question of --data has this id; {closest(name, by_id)}")
    item = by_id[name]
    picture = item.image()
    if not hasattr(picture, "convert"):
        what = f"{len(picture)} pictures" if isinstance(picture, tuple) else "a video"
        raise ConfigError(f"IMAGE {name!r}: this question is about {what}, and one picture is drawn")
    others = [other.question for other in items if other.image_id == item.image_id and other is not item]
    return picture, item.question, others


def subject(image: str, question: str | None) -> tuple[Image.Image, str | Question, Sequence[Question]]:
    """Picture, question, and what else could be asked."""
    from tokenprune.core.errors import ConfigError
    from tokenprune.data.images import open_image

    if not is_scene(image):
        if not (question or "").strip():
            raise ConfigError("QUESTION is missing: what shall be asked about the picture?")
        return open_image(image), str(question), ()
    from tokenprune.data.scenes import QUESTION_FAMILIES, scene

    kind, _, place = image.partition(":")
    seed, _, index = place.partition("/")
    if not (seed.isdecimal() and index.isdecimal()):
        raise ConfigError(f"IMAGE {image!r}: a scene is {kind}:SEED/INDEX with two numbers, e.g. {kind}:0/3")
    found = scene(int(seed), int(index), style=_STYLES[kind])
    if question is None:
        asked: str | Question = found.questions[0]
    else:
        known: dict[str, Question] = {}
        for one in found.questions:
            for name in (one.family, f"{one.family}/{one.subfamily}", one.text):
                known.setdefault(name, one)
        if question not in known and question.partition("/")[0] in QUESTION_FAMILIES:
            types = ", ".join(f"{q.family}/{q.subfamily}" for q in found.questions)
            raise ConfigError(f"QUESTION {question!r}: this scene knows none of that type; it knows {types}")
        asked = known.get(question, question)
    return found.image, asked, [q for q in found.questions if q != asked]
