"""Which words a strategy reads may be its own choice; the caller's goes before it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import tokenprune as tp
from tokenprune.core.strategy import Strategy
from tokenprune.data.items import scene_items
from tokenprune.evaluation.conditions import Condition
from tokenprune.evaluation.runner import Asked
from tokenprune.hf.chat import prompt_inputs
from tokenprune.hf.stop_words import keywords
from tokenprune.zoo.tiny import picture

KEEP = 5
PARTS: dict[str, Any] = {"scorer": "pmi", "selector": {"name": "greedy", "objective": "mmr"}}


@pytest.fixture(scope="module")
def inputs(model: Any, processor: Any) -> Any:
    asked = ["what color is the dog ?", "is there a red dog ?"]
    return prompt_inputs(processor, [picture(), picture()], asked)


class Wrapped:
    """A question whose prompt says how to answer."""

    def __init__(self, question: Any) -> None:
        self.question = question

    @property
    def prompt(self) -> str:
        return f"{self.question.text} answer briefly ."

    def __getattr__(self, name: str) -> Any:
        return getattr(self.question, name)


def kept(model: Any, strategy: Any, inputs: Any, **options: Any) -> tuple[Any, Any]:
    """Tokens that count as text, and those that stay."""
    with torch.no_grad(), tp.attach(model, strategy, KEEP, **options) as run:
        model(**inputs)
    return run.history[0].text, run.selections[0].indices


@pytest.mark.parametrize("scope", ["prompt", "last-turn", "keywords", "all"])
def test_the_choice_of_a_strategy_is_that_of_its_caller(model: Any, processor: Any, inputs: Any, scope: str) -> None:
    mine, theirs = tp.build({**PARTS, "text": scope}), tp.build(PARTS)
    words, picks = kept(model, mine, inputs, processor=processor)
    same_words, same_picks = kept(model, theirs, inputs, processor=processor, text=scope)
    assert torch.equal(words, same_words)
    assert torch.equal(picks, same_picks)
    shorter = tp.prepare(model, mine, KEEP, processor=processor, **inputs)
    other = tp.prepare(model, theirs, KEEP, processor=processor, text=scope, **inputs)
    assert torch.equal(shorter["input_ids"], other["input_ids"])
    said = model.generate(**shorter, max_new_tokens=2)[:, -2:]
    compiled = tp.compile(model, mine, KEEP, processor=processor)
    assert torch.equal(compiled.generate(**inputs, max_new_tokens=2)[:, -2:], said)


def test_scopes_differ_and_the_caller_goes_first(model: Any, processor: Any, inputs: Any) -> None:
    everything = tp.build({**PARTS, "text": "all"})
    words, _ = kept(model, everything, inputs, processor=processor)
    fewer, _ = kept(model, everything, inputs, processor=processor, text="prompt")
    assert bool((words & ~fewer).any())
    assert not bool((fewer & ~words).any())
    assert torch.equal(kept(model, PARTS, inputs, processor=processor)[0], fewer)


def test_a_comparison_asks_with_the_words_of_each_row(model: Any, processor: Any, monkeypatch: Any) -> None:
    """Questions with a prompt around them: the question alone by default, the strategy's choice where it has one."""
    items = [replace(item, question=Wrapped(item.question)) for item in scene_items(["pope"], 2, 3)]
    seen: list[int] = []
    forward = tp.Strategy.select

    def watching(self: Strategy, features: tp.Features, *args: Any, **options: Any) -> Any:
        assert features.text_mask is None or features.text_mask.any()
        mask = features.text_mask
        seen.append(features.text.shape[1] * len(features.text) if mask is None else int(mask.sum()))
        return forward(self, features, *args, **options)

    monkeypatch.setattr(tp.Strategy, "select", watching)
    asked = Asked(model, processor, items, "kept", None, "run", ())
    for scope in (None, "prompt", "all"):
        strategy = tp.build({**PARTS, "text": scope})
        asked.answers(Condition(str(scope), "strategy", KEEP, 0, strategy), 1)
    question, prompt, everything = seen
    assert question < prompt < everything


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("what color is the dog ?", "color dog"),
        ("How many dogs ARE left of the tree?", "many dogs left tree"),
        ("is it the one?", "is it the one?"),  # nothing would be left
        ("wie viele Hunde?", "wie viele Hunde"),
        ("", ""),
    ],
)
def test_keywords_are_what_no_list_of_stop_words_holds(said: str, left: str) -> None:
    found = keywords(f"USER: {said}", range(6, 6 + len(said)))
    assert found == sorted(set(found))
    words: list[str] = []
    for before, here in zip([-9, *found], found, strict=False):
        words.append(f"USER: {said}"[here] if here == before + 1 else " " + f"USER: {said}"[here])
    assert "".join(words).strip() == left


def test_a_word_ends_where_characters_are_left_out() -> None:
    text = "thedog"
    assert keywords(text, range(6)) == [0, 1, 2, 3, 4, 5]
    assert keywords("the|dog", [0, 1, 2, 4, 5, 6]) == [4, 5, 6]


def test_keywords_of_a_prompt_are_tokens_of_the_question(model: Any, processor: Any, inputs: Any) -> None:
    words, _ = kept(model, {**PARTS, "text": "keywords"}, inputs, processor=processor)
    said = [processor.tokenizer.decode(ids[row]) for ids, row in zip(inputs["input_ids"], words, strict=True)]
    assert said == ["color dog", "red dog"]
