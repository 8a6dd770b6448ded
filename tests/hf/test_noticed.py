"""Small mistakes in index arithmetic that would otherwise pass: padding, beams, positions of several axes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.support.families import batch_of, model_of
from tokenprune.components.layerwise.attention import AttentionRows
from tokenprune.core.errors import UnsupportedError
from tokenprune.core.indexing import to_batch
from tokenprune.core.registry import build
from tokenprune.core.schedule import LayerEvent
from tokenprune.core.strategy import Strategy
from tokenprune.hf.adapters import Block, Observation, adapter_for
from tokenprune.hf.attach import attach
from tokenprune.hf.batch import Batch, read_batch
from tokenprune.hf.layer_signals import Places, layer_signals
from tokenprune.hf.masks import causal_over
from tokenprune.hf.request import Request
from tokenprune.hf.splice import Layout, Span, next_position, splice


def layout(*rows: str) -> Layout:
    """Rows of letters: v for visual tokens, t for text, a dot for padding."""
    letters = [list(row) for row in rows]
    mask = torch.tensor([[c != "." for c in row] for row in letters])
    text = torch.tensor([[c == "t" for c in row] for row in letters])
    spans = tuple(
        Span(i, torch.tensor([j for j, c in enumerate(row) if c == "v"])) for i, row in enumerate(letters) if "v" in row
    )
    return Layout(mask, text, spans)


@pytest.mark.parametrize(
    "rows", [("tvvvtt", "tvvv..", "vtttt."), ("ttvvvt", "..tvvv", ".ttttv")], ids=["right", "left"]
)
def test_a_shorter_sequence_holds_what_is_left_and_nothing_twice(rows: tuple[str, ...]) -> None:
    """Kept tokens stand where their slots say; padding stays on its side and is neither text nor slot."""
    before = layout(*rows)
    plan = splice(before, [torch.tensor([len(span.positions) - 1]) for span in before.spans])
    after = plan.layout(before)
    letters = [
        [row[int(i)] for i, real in zip(index, seen, strict=True) if real]
        for row, index, seen in zip(rows, plan.index, plan.mask, strict=True)
    ]
    assert ["".join(row) for row in letters] == [row.replace("vvv", "v").replace(".", "") for row in rows]
    for span, was in zip(after.spans, before.spans, strict=True):
        assert plan.index[span.row, span.positions].tolist() == was.positions[-1:].tolist()
    assert int(after.text.sum()) == sum(row.count("t") for row in rows)
    padded = ~plan.mask
    assert not bool((after.text & padded).any())
    shorter = padded[:, 0] if rows[1][0] == "." else padded[:, -1]
    assert shorter.tolist() == [True, True, False]


def test_a_token_kept_twice_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="faithful=False"):
        splice(layout("tvvvt"), [torch.tensor([0, 0, 2])])


def test_the_next_position_follows_the_last_real_token() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert next_position(torch.tensor([[4, 5, 90], [0, 1, 2]]), mask).tolist() == [6, 3]
    axes = torch.tensor([[[3, 9, 0], [0, 0, 0]], [[1, 2, 90], [1, 7, 2]], [[1, 2, 90], [1, 2, 3]]])
    # the largest of time, height and width counts, whichever it is; a sequence's own count in front does not
    assert next_position(axes, mask).tolist() == [10, 8]
    assert next_position(torch.cat([axes[:1] + 50, axes]), mask).tolist() == [10, 8]


def test_a_count_beside_the_axes_is_made_anew() -> None:
    before = layout("tvvvt")
    plan = splice(before, [torch.tensor([1])])
    axes = torch.arange(20).view(4, 1, 5)
    positions = plan.positions(axes, "keep")
    assert positions[0].tolist() == [[0, 1, 2]]
    assert positions[1:].tolist() == axes[1:, :, [0, 2, 4]].tolist()


def test_what_follows_a_dropped_token_follows_the_last_kept_one() -> None:
    plan = splice(layout("tvvvt"), [torch.tensor([0])])
    assert plan.last_place(5).tolist() == [[0, 1, 1, 1, 2]]


def test_candidates_of_a_sample_stand_together() -> None:
    assert to_batch(torch.tensor([[1], [2]]), 4).flatten().tolist() == [1, 1, 2, 2]


def test_new_tokens_see_what_is_real_and_not_what_comes_after_them() -> None:
    real = torch.tensor([[False, True, True, True, True]])
    assert causal_over(real, new=2).int().tolist() == [[[0, 1, 1, 1, 0], [0, 1, 1, 1, 1]]]
    whole = causal_over(real)
    assert whole[0].int().tolist() == [
        [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 1]
    ]  # fmt: skip


def test_rows_of_attention_are_capped_as_the_layer_caps_them() -> None:
    draw = torch.Generator().manual_seed(0)
    query, key = torch.randn(1, 2, 4, 8, generator=draw), torch.randn(1, 1, 4, 8, generator=draw)
    places = Places(torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([[2, 3]]), torch.tensor([[3]]))
    event = LayerEvent(0, Strategy(AttentionRows()))
    found = layer_signals(places, torch.ones(1, 4, dtype=torch.bool), event, query, key, 3.0, softcap=2.0)["attention"]
    logits = 2.0 * torch.tanh(query[:, :, 3:] @ key.mT * 3.0 / 2.0)
    torch.testing.assert_close(found, logits.softmax(-1)[..., :2])


def test_pictures_with_a_token_between_them_are_two() -> None:
    adapter = adapter_for(model_of("internvl"))
    assert adapter.joins([7] * 9, (0, 3), (4, 7))
    assert not adapter.joins([7] * 9, (0, 3), (5, 8))


def units(family: str, ids: Tensor, seen: Observation) -> Batch:
    """What a batch of prompts holds, for a strategy that reads the question."""
    request = Request.of(model_of(family), "mi-pruner", 2, None, None, "all", None)
    return read_batch(request, ids, torch.ones_like(ids, dtype=torch.bool), seen)


def test_units_stand_in_the_order_of_the_prompt() -> None:
    """A video in front of a picture is the first, although pictures are looked for first."""
    adapter = adapter_for(model_of("qwen2_vl"))
    image, video = (adapter.placeholders[kind] for kind in ("image", "video"))
    word = max(image, video) + 1
    seen = Observation({"image": [Block(2)], "video": [Block(3)]})
    batch = units("qwen2_vl", torch.tensor([[word, video, video, video, word, image, image, word]]), seen)
    assert [span.positions.tolist() for span in batch.layout.spans] == [[1, 2, 3], [5, 6]]


def test_copies_of_a_prompt_share_a_decision_and_other_questions_do_not() -> None:
    """Beams repeat a prompt and not its picture; a batch may ask two things about one picture just so."""
    image = adapter_for(model_of("llava")).placeholders["image"]
    ids = torch.tensor([[5, image, image, 6], [5, image, image, 6], [5, image, image, 7]])
    batch = units("llava", ids, Observation({"image": [Block(2)]}))
    assert batch.owner == (0, 0, 1)
    assert batch.distinct == (0, 2)


@pytest.mark.filterwarnings("ignore::tokenprune.core.errors.SubstituteWarning")
def test_substituted_attention_is_a_distribution() -> None:
    """Of an encoder without [CLS]: what each patch receives, as shares of all."""
    model, inputs = model_of("qwen2_vl"), batch_of("qwen2_vl", "image", 1)
    with torch.no_grad(), attach(model, build("attention", source="cls"), keep=2) as run:
        model(**inputs)
    scores = run.history[-1].selection.scores
    assert scores is not None
    torch.testing.assert_close(scores.sum(1), torch.ones(len(scores)))
