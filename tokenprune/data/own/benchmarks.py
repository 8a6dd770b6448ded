"""Benchmarks by name, from local copies: how each is put to a model and graded, and where a copy comes from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tokenprune.core.errors import ConfigError, closest
from tokenprune.data.own.question import Prompts
from tokenprune.data.own.rows import Hub

__all__ = ["BENCHMARKS", "ROOT", "Benchmark", "find_data", "way_to"]

ROOT = "TOKENPRUNE_DATA"
"""Environment variable: the folder that holds local copies, a folder each; ``data`` by default."""

_SHORT = "{question}\nAnswer the question using a single word or phrase."
_LETTER = "{question}\nAnswer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Benchmark:
    """What is known of a benchmark.

    Attributes
    ----------
    name, title : str
    metric : str
    split : str
        The one that is evaluated.
    hub : str
        Data set of the hub from which the usual copies are made.
    subset : str
        Of that data set; "" where there is one only.
    prompts : Prompts
    columns : mapping of str to str
        Fields whose column has no usual name.
    drop : str
        Words that are taken out of questions: the template says what form the answer has.
    max_new_tokens : int
        Longest answer.
    pictures : (str, str) or None
        Subset that holds the pictures by id, and the column that names them; None where they stand with the questions.
    limit : int or None
        Questions that the paper asks, from the first on; None for all.
    questions : int
        How many the paper asks (App. D).
    answer_tokens : int
        Tokens of a usual answer: a guess, for what a run costs.
    """

    name: str
    title: str
    metric: str
    split: str
    hub: str
    subset: str = ""
    prompts: Prompts = field(default_factory=Prompts)
    columns: Mapping[str, str] = field(default_factory=dict)
    drop: str = ""
    max_new_tokens: int = 16
    limit: int | None = None
    pictures: tuple[str, str] | None = None
    questions: int = 0
    answer_tokens: int = 3


_ONE_WORD = Prompts({"open": _SHORT, "yes-no": _SHORT})

BENCHMARKS = {
    one.name: one
    for one in (
        Benchmark("pope", "POPE", "yes-no", "test", "lmms-lab/POPE", "", _ONE_WORD, questions=9000),
        Benchmark(
            "gqa",
            "GQA",
            "exact",
            "testdev",
            "lmms-lab/GQA",
            "testdev_balanced_instructions",
            _ONE_WORD,
            pictures=("testdev_balanced_images", "imageId"),
            questions=12578,
        ),
        Benchmark(
            "mme",
            "MME",
            "mme",
            "test",
            "lmms-lab/MME",
            "",
            _ONE_WORD,
            {"id": "none"},
            " Please answer yes or no.",
            questions=2374,
        ),
        Benchmark("textvqa", "TextVQA", "vqa", "validation", "lmms-lab/textvqa", "", _ONE_WORD, questions=5000),
        Benchmark(
            "scienceqa",
            "ScienceQA, questions with a picture",
            "choice",
            "test",
            "lmms-lab/ScienceQA",
            "ScienceQA-IMG",
            Prompts({"choice": _LETTER}),
            questions=2017,
        ),
        Benchmark(
            "mmvet",
            "MM-Vet",
            "mmvet",
            "test",
            "lmms-lab/MMVet",
            columns={"family": "capability"},
            max_new_tokens=1024,
            questions=218,
            answer_tokens=60,
        ),
        *(
            Benchmark(
                name,
                title,
                "judge-match",
                "test",
                "",
                max_new_tokens=1024,
                limit=1000,
                questions=1000,
                answer_tokens=20,
            )
            for name, title in (
                ("tgif-qa", "TGIF-QA, frames"),
                ("msvd-qa", "MSVD-QA"),
                ("msrvtt-qa", "MSRVTT-QA"),
            )
        ),
    )
}
"""Benchmarks of the paper."""


def find_data(given: str) -> tuple[Path | Hub, Benchmark | None]:
    """What ``--data`` names.

    Parameters
    ----------
    given : str
        A path; ``hub:OWNER/NAME``; a benchmark's name, whose copy is ``$TOKENPRUNE_DATA/NAME`` (or ``data/NAME``), and
        without one its data set of the hub; or ``NAME=PATH``.

    Raises
    ------
    ConfigError
        No such path and no such name, with the closest; or a benchmark without a local copy that is on no hub, with the
        way to one.
    """
    if given.startswith("hub:"):
        if not re.fullmatch(r"hub:[\w.-]+/[\w.-]+", given):
            raise ConfigError(f"--data {given!r}: a data set of the hub is written hub:OWNER/NAME")
        return Hub(given.removeprefix("hub:")), None
    name, equals, rest = given.partition("=")
    if equals and name in BENCHMARKS:
        return Path(rest), BENCHMARKS[name]
    if Path(given).exists() or given not in BENCHMARKS:
        path = Path(given)
        if not path.exists():
            raise ConfigError(
                f"--data {given!r}: no such file or folder, and no benchmark; {closest(given, BENCHMARKS)}"
            )
        return path, None
    one = BENCHMARKS[given]
    path = Path(os.environ.get(ROOT) or "data") / given
    if not path.exists():
        if one.hub and not os.environ.get("HF_HUB_OFFLINE"):
            return Hub(one.hub), one
        raise ConfigError(
            f"--data {given}: there is no local copy {str(path)!r}. {way_to(one)}; or name the folder that "
            f"holds it: --data {given}=PATH (split {one.split!r}), or set {ROOT} to the folder of all copies"
        )
    return path, one


def way_to(one: Benchmark) -> str:
    """How to get a local copy of a benchmark."""
    path = Path(os.environ.get(ROOT) or "data") / one.name
    if not one.hub:
        return (
            f"It is on no hub in a form that is read: put test_q.json and test_a.json, as Video-LLaVA's evaluation has "
            f"them, into it, and the videos into {str(path / 'videos')!r}"
        )
    subset = f"; of it the subset {one.subset!r}" if one.subset else ""
    return (
        f"Get one where the hub can be reached: `hf download {one.hub} --repo-type dataset --local-dir {path}`{subset}"
    )
