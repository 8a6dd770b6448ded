"""Words that go before the language model reads the prompt: dropping them is masking them out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokenprune as tp
from tokenprune.components.speaking import Speaking
from tokenprune.core.errors import ConfigError, OptionTypeError, TokenPruneError
from tokenprune.hf.encoded import takes_encoded
from tokenprune.zoo.tiny import tiny_inputs, tiny_model

pytestmark = pytest.mark.skipif(not takes_encoded(tiny_model("llava")), reason="needs transformers >= 5.18")

OPTIONS: dict[str, Any] = {"text": "all"}


def logits(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Of the token that follows each prompt; rows are padded on the left."""
    with torch.no_grad():
        found: torch.Tensor = model(**inputs).logits[:, -1]
    return found


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl"])
@pytest.mark.parametrize("kind", ["image", "two-images"])
def test_all_words_is_the_prompt_as_it_is(name: str, kind: Any) -> None:
    model, inputs = tiny_model(name), tiny_inputs(name, kind, 2)
    plain = tp.prepare(model, "mi-pruner", 0.5, **OPTIONS, **inputs)
    whole = tp.prepare(model, "mi-pruner", 0.5, words=1.0, **OPTIONS, **inputs)
    for key in ("input_ids", "attention_mask", "position_ids"):
        assert torch.equal(plain[key], whole[key])
    assert torch.equal(logits(model, plain), logits(model, whole))


@pytest.mark.parametrize("by", ["information", "norm"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_dropping_words_is_masking_them_out(share: float, by: str) -> None:
    """With every visual token kept, in the places where they stood."""
    model, inputs = tiny_model("llava"), tiny_inputs("llava", "image", 3)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    # the words of the last place have to stay, or there is nothing to compare: the template's end is none of them
    chosen = torch.zeros_like(mask, dtype=torch.bool)
    image = ids == model.config.image_token_id
    for row in range(len(ids)):
        after = (mask[row].bool() & ~image[row]).nonzero().flatten()
        chosen[row, after[2:-2]] = True
    words = {"name": "speaking", "share": share, "by": by}
    shorter = tp.prepare(model, "mi-pruner", 1.0, text=chosen, words=words, **inputs)
    gone = []
    for row in range(len(ids)):
        left = shorter["position_ids"][row][shorter["attention_mask"][row].bool()]
        places = (mask[row].cumsum(0) - 1)[mask[row].bool()]
        real = mask[row].nonzero().flatten()
        gone.append(real[~torch.isin(places, left)])
        expected = int(chosen[row].sum()) - max(1, int(torch.ceil(share * chosen[row].sum() - 1e-6)))
        assert len(gone[row]) == expected
        assert bool(chosen[row, gone[row]].all())
    masked = mask.clone()
    for row, places in enumerate(gone):
        masked[row, places] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    expected_logits = logits(model, {**inputs, "attention_mask": masked, "position_ids": positions})
    torch.testing.assert_close(logits(model, shorter), expected_logits, atol=1e-4, rtol=1e-4)
    said = model.generate(**shorter, max_new_tokens=3)
    assert said.shape[1] == shorter["input_ids"].shape[1] + 3


def test_words_are_chosen_as_the_scorer_chooses_them() -> None:
    model, inputs = tiny_model("llava"), tiny_inputs("llava", "image", 1)
    half = tp.prepare(model, "mi-pruner", 1.0, words=0.5, **OPTIONS, **inputs)
    same = tp.prepare(model, "mi-pruner", 1.0, words=Speaking(share=0.5), **OPTIONS, **inputs)
    assert torch.equal(half["input_ids"], same["input_ids"])
    assert half["input_ids"].shape[1] < inputs["input_ids"].shape[1]
    images = (half["input_ids"] == model.config.image_token_id).sum()
    assert images == (inputs["input_ids"] == model.config.image_token_id).sum()


@pytest.mark.parametrize(
    ("strategy", "words", "error", "says"),
    [
        ("mi-pruner", 0.0, ConfigError, "share"),
        ("mi-pruner", "half", OptionTypeError, "words"),
        ("mi-pruner", {"name": "pmi"}, OptionTypeError, "speaking"),
        ("mi-pruner", {"name": "speakin"}, TokenPruneError, "speaking"),
        ("divprune", 0.5, ConfigError, "reads no text"),
    ],
)
def test_what_names_no_words_is_refused(strategy: str, words: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        tp.prepare(tiny_model("llava"), strategy, 4, words=words, **OPTIONS, **tiny_inputs("llava", "image", 1))
