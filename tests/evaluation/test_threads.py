"""Comparisons at the same time: on one model they take turns, and models that share a config do not mind each other."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch

import tokenprune as tp
from tokenprune.data.images import picture
from tokenprune.data.items import scene_items
from tokenprune.evaluation.compare import compare
from tokenprune.hf.attention_tap import tapped
from tokenprune.hf.chat import prompt_inputs
from tokenprune.zoo.tiny import tiny_llava, tiny_processor


def in_threads(*jobs: Any) -> None:
    errors: list[BaseException] = []

    def guarded(job: Any) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def replaced_parts(model: Any) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if "forward" in vars(module) or "_tokenprune" in str(vars(module).keys())
    ]


def test_two_threads_compare_on_one_model(tmp_path: Path) -> None:
    model, processor, items = tiny_llava(side=4), tiny_processor(side=4), scene_items(["pope"], 4, seed=1)
    options: dict[str, Any] = {"strategies": ["divprune", "fastv"], "budgets": (4,), "note": lambda text: None}
    before = replaced_parts(model)
    alone = compare(model, processor, items, tmp_path / "alone", {}, **options)
    found: dict[int, Any] = {}

    def job(number: int) -> Any:
        return lambda: found.setdefault(number, compare(model, processor, items, tmp_path / str(number), {}, **options))

    in_threads(*(job(number) for number in range(3)))
    assert found == dict.fromkeys(range(3), alone)
    assert replaced_parts(model) == before
    assert model.config.get_text_config()._attn_implementation == "sdpa"


def test_models_that_share_a_config_may_leave_in_any_order() -> None:
    config = tiny_llava(side=2).config.get_text_config()
    before = config._attn_implementation
    first, second = tapped(config, {}), tapped(config, {})
    first.__enter__()
    second.__enter__()
    assert config._attn_implementation == f"tokenprune_{before}"
    first.__exit__(None, None, None)
    assert config._attn_implementation == f"tokenprune_{before}", "the second is still inside"
    second.__exit__(None, None, None)
    assert config._attn_implementation == before


def test_two_models_of_one_config_in_two_threads() -> None:
    one, other = tiny_llava(side=4), tiny_llava(side=4)
    shared = one.config.get_text_config()
    for module in other.model.language_model.modules():
        if hasattr(module, "config"):
            module.config = shared
    inputs = prompt_inputs(tiny_processor(side=4), [picture()], ["what color is the dog ?"])

    def answer(model: Any) -> torch.Tensor:
        with torch.no_grad(), tp.attach(model, "fastv", 4, processor=tiny_processor(side=4)):
            logits: torch.Tensor = model(**inputs).logits[:, -1]
        return logits

    want = answer(one)
    found: list[bool] = []

    def often(model: Any) -> Any:
        return lambda: found.extend(torch.equal(answer(model), want) for _ in range(10))

    in_threads(often(one), often(other))
    assert found == [True] * 20
    assert shared._attn_implementation == "sdpa"
