"""Between the encoder and the first token the host waits for nothing: what a captured graph needs, found on a CPU."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import tokenprune as tp
from tests.support.waiting import watched
from tokenprune.core.errors import UnsupportedError
from tokenprune.core.features import LAYOUTS
from tokenprune.core.schedule import LayerSchedule
from tokenprune.hf.adapters import adapter_for
from tokenprune.hf.compiled import pipeline
from tokenprune.hf.compiled.stages import assemble
from tokenprune.hf.sources import usable_strategies
from tokenprune.zoo.tiny import FAMILIES, tiny_inputs, tiny_model

CASES = [
    pytest.param(name, kind, marks=() if kind in ("image", "image-and-video") else pytest.mark.slow)
    for name, family in FAMILIES.items()
    for kind in family.kinds
    if kind != "text"
]
ALLOWED = "base.py"
"""A block's fixed tokens lie on the host."""


def assembled(model: Any, strategy: str, inputs: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the stage that selects was called with; nothing where the strategy cannot be compiled."""
    calls: list[Any] = []

    def noted(*args: Any) -> Any:
        calls.append(args)
        return assemble(*args)

    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(pipeline, "assemble", noted)
        tp.compile(model, strategy, 0.4, bucket=8).generate(**inputs, max_new_tokens=1)
    return calls[-1:]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_selecting_waits_for_nothing(name: str, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of different sizes, every strategy that chooses before the language model."""
    model, inputs, seen = tiny_model(name), tiny_inputs(name, kind, 3), 0
    refused: list[tuple[frozenset[str], str]] = []
    for strategy in usable_strategies(adapter_for(model)):
        built = tp.build(strategy)
        if isinstance(built, LayerSchedule):
            continue
        try:
            calls = assembled(model, strategy, inputs, monkeypatch)
        except UnsupportedError as error:
            refused.append((built.requires, str(error)))
            continue
        for call in calls:
            with watched() as found, torch.no_grad():
                assemble(*call)
            assert [place for place in found if ALLOWED not in place] == [], strategy
            seen += 1
    # where tokens lie may be known of other units only, and an encoder of videos drops no patches; the refusal says so
    layouts = [said for needs, said in refused if needs & LAYOUTS.keys() and "pass unit=" in said]
    stages = [said for _, said in refused if "video" in kind and "drop patches of videos" in said]
    assert len(layouts) + len(stages) == len(refused), refused
    # llava_onevision adds a newline to videos after its encoder has run
    assert seen >= 9 or (name, "video" in kind) == ("llava_onevision", True)


@pytest.mark.filterwarnings("ignore::tokenprune.core.errors.SubstituteWarning")  # encoders without [CLS]
@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
@pytest.mark.parametrize("strategy", ["fastv", "dart", "sparsevlm:version=v2", "autoprune"])
def test_acting_between_layers_waits_for_nothing(name: str, strategy: str) -> None:
    compiled = tp.compile(tiny_model(name), strategy, 0.4, bucket=8)
    compiled.generate(**tiny_inputs(name, "image", 3), max_new_tokens=2)
    program = compiled._shelf[compiled._shelf.of("prefill")[-1]].program
    with watched() as found, torch.no_grad():
        program.function(**program.inputs)
    ours = ("between.py", "measured.py", "recycle.py", "density.py")
    assert [place for place in found if any(file in place for file in ours)] == []


def test_what_waits_is_found() -> None:
    x = torch.tensor([1.0, 0.0])

    def reads(f: tp.Features) -> Any:
        return bool((f.visual > 0).any()), x[x > 0], x.nonzero(), x.tolist(), torch.tensor([3])

    with watched() as found:
        reads(tp.Features(torch.ones(1, 2, 3), check=False))
    assert [place.split()[0] for place in found] == [
        "aten::_local_scalar_dense",
        "aten::index",
        "aten::nonzero",
        "tolist",
        "aten::lift_fresh",
    ]
