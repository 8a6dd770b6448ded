"""Patches that leave the encoder while it runs: counts, batches, and what is left as a whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import tokenprune as tp
from tests.support.llava import QUESTIONS
from tokenprune.components.flow import InformationFlow
from tokenprune.core.encoder_kinds import EncoderStage, EncoderView
from tokenprune.core.errors import MissingSignalError, OptionTypeError, UnsupportedError
from tokenprune.hf.adapters import adapter_for
from tokenprune.hf.adapters.base import Observation
from tokenprune.hf.request import Request
from tokenprune.zoo.tiny import tiny_inputs, tiny_llava, tiny_model

SIDE = 5
N = SIDE**2


def deep(attention: str = "sdpa") -> Any:
    """Eight encoder layers whose attention is not flat, so that patches go at every event."""
    model = tiny_llava(side=SIDE, layers=3, encoder_layers=8, attention=attention)
    for layer in model.model.vision_tower.encoder.layers:
        torch.nn.init.normal_(layer.self_attn.q_proj.weight, std=2.0, generator=torch.Generator().manual_seed(1))
    return model


def kept(model: Any, inputs: dict[str, Any], keep: Any, strategy: Any = "flowcut") -> list[list[int]]:
    with torch.no_grad(), tp.attach(model, strategy, keep) as run:
        logits = model(**inputs).logits
    assert logits.isfinite().all()
    assert run.history[0].layer_tokens == tuple((len(row),) * 3 for row in rows(run))
    return rows(run)


def rows(run: tp.Run) -> list[list[int]]:
    selection = run.selections[0]
    return [selection.row(b) for b in range(len(selection.counts))]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_neighbours_in_a_batch_do_not_matter(prompts: Any, attention: str) -> None:
    model, inputs = deep(attention), prompts(QUESTIONS)
    together = kept(model, inputs, 7)
    assert len({tuple(row) for row in together}) > 1
    for b, row in enumerate(together):
        alone = {
            **inputs,
            **{name: inputs[name][b : b + 1] for name in ("input_ids", "attention_mask", "pixel_values")},
        }
        assert kept(model, alone, 7) == [row]


def test_the_published_code_lets_one_picture_decide_for_all(prompts: Any) -> None:
    model, inputs = deep(), prompts(QUESTIONS)
    adapter, counts = adapter_for(model), {}
    for faithful in (False, True):
        request = Request.of(model, tp.build("flowcut", faithful=faithful), 7, None, None, "prompt", None)
        stage = request.stage
        assert stage is not None
        with torch.no_grad(), adapter.observe(request.signals, Observation(), stage):
            model(**inputs)
        counts[faithful] = [(kept >= 0).sum(1).tolist() for _, kept in stage.history]
        assert [layer for layer, _ in stage.history] == [1, 3, 5]
        assert counts[faithful][-1] == [7] * len(QUESTIONS)
    assert all(len(set(event)) == 1 for event in counts[True])
    assert counts[True] != counts[False]


def test_every_picture_may_have_its_own_budget(prompts: Any) -> None:
    sizes = [len(row) for row in kept(deep(), prompts(QUESTIONS), [1, N, 8])]
    assert sizes == [1, N, 8]


def test_what_is_left_is_what_the_rest_of_the_encoder_saw(prompts: Any) -> None:
    """Masked out by hand from the layer after the cut on, patches leave the others as the stage does."""

    class OneCut(EncoderStage):
        def score(self, view: EncoderView, before: Any) -> torch.Tensor:
            return view.attention.mean(1)

        def counts(self, view: EncoderView) -> tuple[int, ...] | None:
            return view.keep if view.layer == 2 else None

    model, inputs = deep(), prompts(QUESTIONS[:1])
    strategy = replace(tp.build("flowcut"), stage=OneCut())  # type: ignore[type-var]
    (row,) = kept(model, inputs, 7, strategy)
    layers = model.model.vision_tower.encoder.layers
    hidden = torch.full((N + 1,), torch.finfo(torch.float32).min)
    hidden[[0, *(i + 1 for i in row)]] = 0

    def masked(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args[:1], {**kwargs, "attention_mask": hidden.expand(1, 1, N + 1, -1)}

    with torch.no_grad(), tp.attach(model, strategy, 7) as run:
        model.model.multi_modal_projector.register_forward_hook(lambda _m, _a, out: seen.append(out))
        seen: list[torch.Tensor] = []
        model(**inputs)
        thinned = seen[0][0, row]
    assert rows(run) == [row]
    handles = [layer.register_forward_pre_hook(masked, with_kwargs=True) for layer in layers[3:]]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(seen[1][0, row], thinned)


def test_prepare_generates_the_same(prompts: Any) -> None:
    model, inputs = deep(), prompts(QUESTIONS)
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    with tp.attach(model, "flowcut", 7):
        attached = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    shorter = tp.prepare(model, "flowcut", 7, **inputs)
    assert torch.equal(model.generate(**shorter, **options)[:, shorter["input_ids"].shape[1] :], attached)


def test_an_encoder_of_images_beside_one_of_videos() -> None:
    """Video-LLaVA: pictures lose patches on their way, neighbours play no part; of videos it is refused."""
    model, inputs = tiny_model("video_llava"), tiny_inputs("video_llava", "image", 3)
    keep = [2, 16, 5]
    together = kept_of(model, inputs, keep)
    assert [len(row) for row in together] == keep
    for b, count in enumerate(keep):
        alone = tiny_inputs("video_llava", "image", 3, only=[b])
        assert kept_of(model, alone, count) == [together[b]]
    with (
        pytest.raises(UnsupportedError, match="cannot drop patches of videos inside the encoder"),
        torch.no_grad(),
        tp.attach(model, "flowcut", 4),
    ):
        model(**tiny_inputs("video_llava", "video", 1))


def kept_of(model: Any, inputs: Any, keep: Any) -> list[list[int]]:
    with torch.no_grad(), tp.attach(model, "flowcut", keep) as run:
        assert model(**inputs).logits.isfinite().all()
    return rows(run)


def test_what_it_cannot_do_is_refused(prompts: Any) -> None:
    with (
        pytest.raises(MissingSignalError, match="'survivors', which Qwen2VL"),
        tp.attach(tiny_model("qwen2_vl"), "flowcut", 4),
    ):
        pass
    with (
        pytest.raises(UnsupportedError, match="unit='sample' is not possible"),
        tp.attach(deep(), "flowcut", 4, unit="sample"),
    ):
        pass
    with pytest.raises(OptionTypeError, match=r"Strategy\.stage must be a EncoderStage"):
        tp.Strategy(tp.build("fastervlm").scorer, stage="flow")  # type: ignore[union-attr, arg-type]


def test_entropy_sets_the_pace() -> None:
    """All attention on one patch: everything above the budget, over the root of the layers left, may go."""
    sharp = torch.zeros(1, 1, 100)
    sharp[..., 3] = 1
    flat = torch.full((1, 1, 100), 0.01)

    def view(attention: torch.Tensor, layer: int) -> EncoderView:
        values = torch.ones(1, 1, 101, 2)
        return EncoderView(attention, values, torch.ones(1, 100, dtype=torch.bool), (100,), (20,), layer, 22)

    flow = InformationFlow()
    assert flow.counts(view(sharp, 17)) == (100 - 40,)  # (100 - 20) / sqrt(4)
    assert flow.counts(view(flat, 17)) == (100,)
    assert flow.counts(view(sharp, 18)) is None
    assert flow.counts(view(flat, 21)) == (20,)
