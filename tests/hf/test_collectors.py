"""Signals from elsewhere: handed in, made by collectors, or by a CLIP beside the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel
from typer.testing import CliRunner

import tokenprune as tp
from tests.support.llava import QUESTIONS, N
from tokenprune.cli import app
from tokenprune.components.salience import SignalScore
from tokenprune.core.errors import (
    FeatureError,
    MissingSignalError,
    NotCompiledWarning,
    OptionTypeError,
    UnsupportedError,
)
from tokenprune.core.features import Signal
from tokenprune.core.registry import registry
from tokenprune.hf.adapters.base import ModelAdapter
from tokenprune.hf.clip_text import clip_text
from tokenprune.hf.collectors import Collector, Units


class Loudness(Collector):
    """Norm of the first encoder layer's output."""

    signal = Signal("loudness", "b n", "norm of each patch after the first encoder layer")
    requires = frozenset({"hidden@0"})

    def collect(self, units: Units) -> Tensor:
        return units.features["hidden@0"].norm(dim=-1)


LOUD = tp.Strategy(SignalScore("loudness"), name="loud")


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package listed the collector."""
    monkeypatch.setitem(registry._local["signals"], "loudness", Loudness)


def run(model: Any, strategy: Any, keep: Any, inputs: dict[str, Tensor], **options: Any) -> tp.Run:
    with torch.no_grad(), tp.attach(model, strategy, keep, **options) as record:
        model(**inputs)
    return record


def test_tensors_are_handed_in(model: Any, prompts: Any) -> None:
    inputs = prompts(QUESTIONS)
    scores = torch.rand(3, N)
    best = scores.argsort(dim=1, descending=True)[:, :6].sort(1).values
    assert torch.equal(run(model, LOUD, 6, inputs, extra={"loudness": scores}).selections[0].indices, best)
    # one that the model has is replaced
    given = run(model, "fastervlm", 6, inputs, extra={"cls_attention": scores.unsqueeze(1)})
    assert torch.equal(given.selections[0].indices, best)
    shorter = tp.prepare(model, LOUD, 6, extra={"loudness": scores}, **inputs)
    assert shorter["input_ids"].shape[1] == inputs["input_ids"].shape[1] - N + 6


def test_collectors_are_asked_for_every_batch(model: Any, prompts: Any) -> None:
    for questions in (QUESTIONS, QUESTIONS[:1]):
        inputs = prompts(questions)
        record = run(model, LOUD, 6, inputs, extra={"loudness": Loudness()})
        with torch.no_grad():
            hidden = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[1]
        loud = hidden[:, 1:].norm(dim=-1)
        assert torch.equal(record.selections[0].indices, loud.argsort(dim=1, descending=True)[:, :6].sort(1).values)


def test_a_package_s_collector_is_found_by_name(model: Any, prompts: Any, listed: None) -> None:
    inputs = prompts(QUESTIONS)
    assert torch.equal(
        run(model, LOUD, 6, inputs).selections[0].indices,
        run(model, LOUD, 6, inputs, extra={"loudness": Loudness()}).selections[0].indices,
    )
    with pytest.warns(NotCompiledWarning, match=r"reads \['loudness'\], which a collector makes"):
        tp.compile(model, LOUD, 6)


def test_a_collector_may_refuse_a_model(model: Any, listed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_self: Collector, _adapter: ModelAdapter) -> bool:
        return False

    monkeypatch.setattr(Loudness, "offers", never)
    with pytest.raises(MissingSignalError, match=r"needs 'loudness'.*Hand it in"), tp.attach(model, LOUD, 6):
        pass


def test_what_cannot_be_right_is_refused(model: Any, prompts: Any) -> None:
    inputs = prompts(QUESTIONS)
    with pytest.raises(MissingSignalError, match="needs 'loudness', which LlavaForConditionalGeneration cannot give"):
        run(model, LOUD, 6, inputs)
    with pytest.raises(FeatureError, match=r"extra\['loudness'\] has shape \(2, 25\), and this batch has 3 units"):
        run(model, LOUD, 6, inputs, extra={"loudness": torch.rand(2, N)})
    with pytest.raises(OptionTypeError, match=r"extra\['loudness'\] must be a tensor or a Collector, got list"):
        run(model, LOUD, 6, inputs, extra={"loudness": [1.0]})
    with pytest.raises(OptionTypeError, match="taken from the prompt itself"):
        run(model, LOUD, 6, inputs, extra={"text": torch.rand(3, 2, 4)})
    with pytest.raises(OptionTypeError, match="extra must be a mapping"):
        run(model, LOUD, 6, inputs, extra=torch.rand(3, N))


def test_signals_are_listed(listed: None) -> None:
    for arguments in (["list", "signals"], ["list", "signals", "--model", "tiny"]):
        said = CliRunner().invoke(app, arguments).output
        for word in ("mean_attention", "loudness", "keys@-1"):
            assert word in said
    assert "0..2" in said
    assert "joint_text" not in said
    only = CliRunner().invoke(app, ["list", "signals", "wide*", "--json"]).output
    assert "wide_keys" in only
    assert "mean_attention" not in only


@pytest.fixture(scope="module")
def clip() -> Any:
    """A CLIP as wide as the tiny LLaVA's encoder."""
    return small_clip(32)


def small_clip(width: int) -> Any:
    sizes = {"hidden_size": width, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**sizes, "vocab_size": 2000, "max_position_embeddings": 12, "eos_token_id": 1, "bos_token_id": 0},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(0)
    return CLIPModel(config).eval()


def test_a_clip_beside_the_model_gives_its_joint_space(model: Any, processor: Any, prompts: Any, clip: Any) -> None:
    inputs, words = prompts(QUESTIONS), []

    class Spelled:
        """The tiny processor's tokenizer, which notes what it is asked."""

        def __call__(self, texts: list[str], **options: Any) -> Any:
            words.extend(texts)
            assert options["max_length"] == 12
            return processor.tokenizer(texts, **options)

    extra = clip_text(clip, Spelled(), processor)
    record = run(model, "trim", 7, inputs, processor=processor, extra=extra)
    assert words == list(QUESTIONS)
    with torch.no_grad():
        hidden = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2]
        joint = clip.visual_projection(clip.vision_model.post_layernorm(hidden[:, 1:]))
        tokens = processor.tokenizer(list(QUESTIONS), padding=True, truncation=True, max_length=12, return_tensors="pt")
        given = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        embedded = clip.get_text_features(**given)
        text = embedded if isinstance(embedded, Tensor) else embedded.pooler_output
    least = (joint @ text.unsqueeze(-1)).squeeze(-1).argsort(dim=1)[:, :6]
    picked = record.selections[0].merged
    assert picked is None or picked.source.shape == (3, 7)
    order = record.selections[0].order[:, :-1]
    assert order.sort(1).values.tolist() == least.sort(1).values.tolist()
    plain = run(model, "trim", 7, inputs, processor=processor)
    assert plain.selections[0].order.tolist() != record.selections[0].order.tolist()


def test_cdpruner_reads_the_same_side_car(model: Any, processor: Any, prompts: Any, clip: Any) -> None:
    extra = clip_text(clip, processor.tokenizer, processor)
    both = [run(model, "cdpruner", 7, prompts(QUESTIONS), processor=processor, extra=e) for e in (extra, None)]
    assert both[0].selections[0].indices.tolist() != both[1].selections[0].indices.tolist()


def test_another_clip_is_refused(model: Any, processor: Any, prompts: Any) -> None:
    extra = clip_text(small_clip(48), processor.tokenizer, processor)
    with pytest.raises(UnsupportedError, match="tower is 48 wide and the encoder of LlavaForConditionalGeneration 32"):
        run(model, "trim", 4, prompts(QUESTIONS), processor=processor, extra=extra)
