"""Exactly the user's words count in every kind of prompt, with tokenizers and templates in the style of each family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from experiments.compatibility.questions import PAGE, RESULTS, counted, table
from experiments.marked import between
from tests.support.chats import REAL, Real, real_processor
from tokenprune.diagnostics.asked import BY_HAND, CHATS, KINDS, LONG
from tokenprune.diagnostics.questions import READERS, Reading, emitted, miscounted, read_questions
from tokenprune.hf.prompt_spelling import Speller


def readings(real: Real) -> list[Reading]:
    processor = real_processor(real.model_type)
    placeholders = processor.tokenizer.convert_tokens_to_ids(list(real.placeholders))
    return list(read_questions(processor, placeholders))


@pytest.mark.parametrize("family", REAL)
def test_exactly_the_users_words_count(family: str) -> None:
    found = readings(REAL[family])
    assert [(one.name, one.reader, one.wrong) for one in found if one.wrong] == []
    by = {reader: {one.name for one in found if one.reader == reader} for reader in READERS}
    assert len(set(map(frozenset, by.values()))) == 1
    always = {name for name, asked in CHATS.items() if asked.kind not in ("options of processors", "video")}
    assert always | set(BY_HAND) <= by["processor"]
    assert {one.kind for one in found} <= set(KINDS)
    guesses = {one.name for one in found if one.warned}
    assert guesses == ({"system, question first"} if family == "gemma3" else set())


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_long_ones_are_long(family: str) -> None:
    assert len(REAL[family].tokenizer()(LONG)["input_ids"]) > 2000


def test_options_of_processors_are_tried_where_they_are() -> None:
    kinds = {family: {one.name for one in readings(REAL[family])} for family in ("qwen2_vl", "internvl", "gemma3")}
    options = {name for name, asked in CHATS.items() if asked.kind == "options of processors"}
    assert {family: names & options for family, names in kinds.items()} == {
        "qwen2_vl": {"numbered pictures"},
        "internvl": {"pictures not cut"},
        "gemma3": {"pan and scan"},
    }


def test_a_reading_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were everything to count, every prompt would be wrong."""
    from tokenprune.diagnostics import questions

    def everything(ids: Any, mask: Any, shown: Any, special: Any, **_: Any) -> Any:
        return mask & ~shown

    monkeypatch.setattr(questions, "prompt_text", everything)
    assert all(one.wrong for one in readings(REAL["llava"]))


def test_what_is_wrong_with_tokens_is_said() -> None:
    real, processor = REAL["llava"], real_processor("llava")
    inputs = emitted(processor, CHATS["plain"])
    ids, speller = inputs["input_ids"][0], Speller(processor.tokenizer)
    (said,) = CHATS["plain"].said
    words = torch.zeros_like(ids, dtype=torch.bool)
    spelled = [speller.piece(int(i)) for i in ids]
    first = next(i for i, piece in enumerate(spelled) if piece == b"What")
    last = next(i for i, piece in enumerate(spelled) if piece.endswith(b"?"))
    words[first : last + 1] = True
    assert miscounted(speller, ids, words, [said]) is None
    for place, why in ((first, "counts, said is"), (last, "'?' is missing")):
        less = words.clone()
        less[place] = False
        assert why in (miscounted(speller, ids, less, [said]) or "")
    for place in (first - 1, last + 1):
        more = words.clone()
        more[place] = True
        assert miscounted(speller, ids, more, [said]) is not None
    assert miscounted(speller, ids, torch.zeros_like(words), [said]) is not None
    assert real.begin


def test_tokens_that_are_half_the_users_count() -> None:
    speller = Speller(REAL["qwen2_vl"].tokenizer())
    ids = torch.tensor(speller.tokenizer("What")["input_ids"])
    assert [speller.piece(int(i)) for i in ids] == [b"What"]
    for said, right in (("What", True), ("Wha", True), ("hat", True), ("What?", False), ("why", False)):
        assert (miscounted(speller, ids, torch.tensor([True]), [said]) is None) == right, said


def test_counts_and_the_page() -> None:
    made = counted(
        [
            Reading("plain", "a", "processor", None, None),
            Reading("plain", "b", "processor", "'x' counts", "a guess"),
            Reading("video", "c", "tokenizer", None, None),
        ]
    )
    assert made["plain"] == {"right": 1, "of": 2, "warned": 1, "wrong": ["b, by the processor: 'x' counts"]}
    rows = table({"checkpoints": {"mine": made}, "environment": {"transformers": "5"}}).splitlines()
    assert rows[2].startswith("| mine | 1 / 2 (1 warn) | - ")
    assert "| 1 / 1 | - |" in rows[2]
    assert rows[-1] == "Measured with transformers 5."


def test_the_page_is_what_was_measured() -> None:
    import json

    report = json.loads(RESULTS.read_text(encoding="utf-8"))
    marked = between("questions").search(PAGE.read_text(encoding="utf-8"))
    assert marked is not None
    assert table(report) in marked[0], "run python -m experiments.compatibility.questions page"
    assert set(report["readers"]) == set(READERS)
    assert {kind for found in report["checkpoints"].values() for kind in found} == set(KINDS)
