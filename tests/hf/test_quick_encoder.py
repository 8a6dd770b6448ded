"""An encoder whose parts are stood in for gives what the stock one gives, and is itself again afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tokenprune as tp
from tokenprune.core.errors import NotCompiledWarning
from tokenprune.hf.adapters import adapter_for
from tokenprune.hf.compiled import encoder, segments
from tokenprune.hf.compiled.encoder import Fused, quick_encoder
from tokenprune.hf.compiled.known import Known
from tokenprune.hf.compiled.programs import Program
from tokenprune.hf.compiled.stages import sight
from tokenprune.hf.encoded import observed, vision_in
from tokenprune.zoo.tiny import FAMILIES, tiny_inputs, tiny_model


@pytest.fixture(autouse=True)
def _compilers_start_anew() -> None:
    """Torch gives up on a function that it was asked to compile for too many shapes, of all tests together."""
    torch._dynamo.reset()


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=7), scale=st.sampled_from([None, 0.3]))
def test_segments_attend_to_themselves(lengths: list[int], scale: float | None) -> None:
    packed = torch.randn(sum(lengths), 3, 2, 8, generator=torch.Generator().manual_seed(len(lengths)))
    query, key, value = packed.permute(1, 2, 0, 3).unsqueeze(1)
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    assert segments.lengths_of(bounds) == tuple(lengths)
    apart = zip(*(x.split(lengths, 2) for x in (query, key, value)), strict=True)
    want = torch.cat([F.scaled_dot_product_attention(*one, scale=scale) for one in apart], 2).transpose(1, 2)
    got = segments.attend(query, key, value, lengths, bounds, scale)
    torch.testing.assert_close(got, want)
    module: Any = torch.nn.Module()
    by_name, weights = segments.attend_segments(module, query, key, value, None, scaling=scale, cu_seq_lens_q=bounds)
    assert weights is None
    assert torch.equal(by_name, got)


def test_without_bounds_all_is_one() -> None:
    query, key, value = torch.randn(3, 2, 2, 5, 8)
    mask = torch.rand(2, 1, 5, 5) < 0.7
    got, _ = segments.attend_segments(torch.nn.Module(), query, key, value, mask | torch.eye(5, dtype=torch.bool))
    want = F.scaled_dot_product_attention(query, key, value, attn_mask=mask | torch.eye(5, dtype=torch.bool))
    assert torch.equal(got, want.transpose(1, 2))


def seen(name: str, kind: Any) -> tuple[Any, Any, dict[str, Tensor]]:
    """A model's adapter, a function that encodes and reads signals, and pixels."""
    adapter = adapter_for(tiny_model(name))
    vision = vision_in(adapter, tiny_inputs(name, kind, 2))
    pixels = {key: value for key, value in vision.items() if isinstance(value, Tensor) and value.is_floating_point()}

    def see(**given: Tensor) -> dict[str, Tensor]:
        return sight(adapter, observed(adapter, adapter.available - {"text"}, {**vision, **given}))

    return adapter, see, pixels


def state(adapter: Any) -> list[Any]:
    """What stands in for something, and names of attention."""
    modules = list(adapter.core.modules())
    configs = {id(module.config): module.config for module in modules if hasattr(module, "config")}
    return [[set(vars(module)) for module in modules], [config._attn_implementation for config in configs.values()]]


KINDS_OF_ENCODERS = {"llava", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "internvl"}
"""A family for each; the others are slow tests."""

FAMILY_CASES = [
    pytest.param(
        name,
        [kind for kind in family.kinds if kind != "text"][-1],
        marks=() if name in KINDS_OF_ENCODERS else pytest.mark.slow,
    )
    for name, family in FAMILIES.items()
]


@pytest.mark.parametrize(("name", "kind"), FAMILY_CASES)
@torch.no_grad()
def test_every_family(name: str, kind: Any) -> None:
    adapter, see, pixels = seen(name, kind)
    want, before = see(**pixels), state(adapter)
    graphs: list[Any] = []

    def listed(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    for fused in (None, Fused(listed)):
        with quick_encoder(adapter, fused):
            got = see(**pixels)
        assert state(adapter) == before
        assert got.keys() == want.keys()
        assert all(torch.equal(got[key], value) for key, value in want.items())
    # layers of a kind share a graph for each length of segments; some read pictures and videos one after the other
    assert 0 < len(graphs) <= 4


@torch.no_grad()
def test_windows_take_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, see, pixels = seen("qwen2_5_vl", "two-images")
    calls: list[int] = []
    attend = F.scaled_dot_product_attention

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(len(args[0]))
        return attend(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    see(**pixels)
    apart = len(calls)
    calls.clear()
    with quick_encoder(adapter):
        see(**pixels)
    assert len(calls) < apart
    assert sum(calls) == apart  # as many segments


@torch.no_grad()
def test_fused_layers_are_run_beside_what_is_noted() -> None:
    adapter, see, pixels = seen("qwen2_5_vl", "video")
    vision = vision_in(adapter, tiny_inputs("qwen2_5_vl", "video", 2))
    fused = Fused("eager")

    def quick(**given: Tensor) -> dict[str, Tensor]:
        with quick_encoder(adapter, fused):
            return sight(adapter, observed(adapter, frozenset({"visual"}), {**vision, **given}))

    known = Known([value for name, value in vision.items() if name not in pixels])
    known.noted(quick, **pixels)
    other = {key: torch.randn_like(value) for key, value in pixels.items()}
    assert torch.equal(known.replayed(quick, **other)["tokens"], see(**other)["tokens"])


def test_what_a_compiler_refuses_runs_as_it_is() -> None:
    def refuse(_graph: Any, _inputs: Any) -> Any:
        raise NotImplementedError("no compiler here")

    model, inputs = tiny_model("qwen3_vl"), tiny_inputs("qwen3_vl", "image", 1)
    compiled = tp.compile(model, "mi-pruner", 0.4)
    compiled._fused = Fused(refuse)
    with pytest.warns(NotCompiledWarning, match=r"the model's own operations: .*no compiler here"):
        got = compiled.generate(**inputs, max_new_tokens=4)
    with tp.attach(model, "mi-pruner", 0.4):
        assert torch.equal(got, model.generate(**inputs, max_new_tokens=4))
    assert [built.quick for built in compiled.built] == [False] * 4


def test_the_report_says_where_faster_parts_are() -> None:
    compiled = tp.compile(tiny_model("llava"), "mi-pruner", 9)
    compiled.generate(**tiny_inputs("llava", "image", 1), max_new_tokens=2)
    assert [built.quick for built in compiled.built] == [True, False, False, False]
    assert [line.endswith("faster parts") for line in compiled.report().splitlines()] == [True, False, False, False]


def test_a_quick_way_out_of_memory_is_not_hidden() -> None:
    def full(**_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        Program(lambda x: x, {"x": torch.ones(1)}, torch.device("cpu"), quick=full)


class Gated(torch.nn.Module):
    """A gated unit as transformers has it."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.gate_proj = torch.nn.Linear(8, width, bias)
        self.up_proj = torch.nn.Linear(8, width, bias)
        self.down_proj = torch.nn.Linear(width, 8, bias)
        self.act_fn = torch.nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


@given(width=st.integers(1, 40), bias=st.booleans())
@torch.no_grad()
def test_gated_units_of_any_width(width: int, bias: bool) -> None:
    unit, x = Gated(width, bias), torch.randn(5, 8)
    quick = encoder.quicker(unit)
    assert (quick is None) == (width % encoder.ALIGNED == 0)
    if quick is not None:
        torch.testing.assert_close(quick(x), unit(x))
