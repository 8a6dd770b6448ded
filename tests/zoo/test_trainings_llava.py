"""Several LLaVAs trained side by side: the forward pass is the stock one, the losses those of the model that ships."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.embedded import losses as single
from experiments.embedded.batches import TRAIN_LENGTH, Batch, Shown, write_training_scene
from experiments.embedded.losses import branches_of
from experiments.embedded.network import PREFIX, Heads, build, normalize
from experiments.embedded.vocabulary import IMAGE
from experiments.trainings import llava
from experiments.trainings.kinds import LLAVA
from experiments.trainings.network import Stack
from experiments.trainings.package import kind_of, read_model
from experiments.trainings.package import main as package
from experiments.trainings.step import WARM, CapturedStep, Step
from experiments.trainings.train import recipe
from tokenprune.data.scenes import scene, subfamilies
from tokenprune.data.scenes.styles import NATURAL
from tokenprune.hf.chat import prompt_inputs
from tokenprune.zoo import embedded

SEED = 77
SMALL = {"width": 64, "encoder_layers": 3, "decoder_layers": 2}


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    made = Batch.views(bytearray(Batch.nbytes(2, TRAIN_LENGTH)), 2, TRAIN_LENGTH)
    for row in range(2):
        write_training_scene(made, row, "train", SEED, row, [100] * len(subfamilies()))
    return {name: torch.from_numpy(array.copy()) for name, array in made.items()}


@pytest.fixture(scope="module")
def models() -> list[Any]:
    """Two small ones whose norms and biases do something, too."""
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = build(**SMALL).eval()
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
        found.append(model)
    return found


def single_heads(model: Any) -> Heads:
    """Of one model, as the trainer of the model that ships has them."""
    torch.manual_seed(9)
    return Heads(model.config.text_config.hidden_size)


def stacked(models: list[Any]) -> Stack:
    return Stack(models, [dict(single_heads(model).named_children()) for model in models])


@torch.no_grad()
def test_the_training_forward_is_the_stock_forward(models: list[Any], batch: dict[str, torch.Tensor]) -> None:
    """Of each of two models at once."""
    seen, stack = llava.tensors(Shown(), "cpu"), stacked(models)
    state = stack.state(stack.flat)
    patches = llava.patches_of(batch["images"], seen, torch.float32)
    branches = branches_of(batch)
    logits = llava.answer(
        state, models[0].config, llava.visual_tokens(state, models[0].config, patches, seen), branches, seen
    )
    pixels = normalize(batch["images"][1:], torch.float32)
    start = len(PREFIX) + 576
    for k, model in enumerate(models):
        for number in (0, int(branches.branch[1].max())):
            own = branches.branch[1] == number
            ids = torch.cat([torch.tensor([*PREFIX, *[IMAGE] * 576]), branches.tokens[1][own]])[None]
            stock = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels)
            assert torch.allclose(logits[k, 1][own], stock.logits[0, start:], atol=1e-4)


def test_losses_and_gradients_are_those_of_the_trainer_of_one_model(
    models: list[Any], batch: dict[str, torch.Tensor]
) -> None:
    seen, stack = llava.tensors(Shown(), "cpu"), stacked(models)
    flat = stack.flat.requires_grad_()
    patches = llava.patches_of(batch["images"], seen, torch.float32)
    sight = (torch.empty(0), torch.empty(0))
    found = llava.losses(stack.state(flat), models[0].config, patches, batch, seen, sight)
    assert found.shape == (len(llava.LOSSES), len(models))
    (slopes,) = torch.autograd.grad(found.sum(), flat)
    weights = single.Weights(answers=1, dense=1, present=1, place=1)
    by_name = stack.state(slopes)
    for k, model in enumerate(models):
        heads = single_heads(model)
        alone = single.losses(model, heads, batch, weights, torch.float32)
        assert tuple(alone) == llava.LOSSES
        assert torch.allclose(found[:, k], torch.stack(list(alone.values())), atol=1e-4)
        layer = model.model.language_model.layers[0].mlp.up_proj.weight
        tower = model.model.vision_tower
        cls = getattr(tower, "vision_model", tower).embeddings.class_embedding
        expected = torch.autograd.grad(sum(alone.values()), [layer, cls, heads.present.weight])
        names = (
            "model.language_model.layers.0.mlp.up_proj.weight",
            "model.vision_tower.embeddings.class_embedding",
            "heads.present.weight",
        )
        for name, slope in zip(names, expected, strict=True):
            assert torch.allclose(by_name[name][k], slope, atol=1e-4)


def test_a_step_learns_and_the_encoder_by_less_where_it_answers(
    models: list[Any], batch: dict[str, torch.Tensor]
) -> None:
    stack, seen = stacked(models), llava.tensors(Shown(), "cpu")
    zeros = [torch.zeros_like(stack.flat) for _ in range(2)]
    slowed = stack.spread({name: 0.5 * name.startswith(LLAVA.slow) for name in stack.shapes})
    none = torch.zeros(stack.flat.shape[1])
    step = Step(
        stack,
        models[0].config,
        stack.flat.clone(),
        *zeros,
        none,
        slowed,
        torch.float32,
        llava.EAGER,
        losses=llava.losses,
    )
    given = {name: tensor for name, tensor in batch.items() if name != "images"} | seen
    given["patches"] = llava.patches_of(batch["images"], seen, torch.float32)
    given |= {"sight": torch.empty(0), "starved": torch.empty(0), "counts": torch.ones(len(llava.LOSSES))}
    before, given = step.flat.clone(), given | {"rate": torch.tensor(0.0004), "step": torch.tensor(1.0)}
    values = step(given, True)
    moved = (step.flat - before).abs().max(0).values
    assert float(moved[slowed > 0].max()) == pytest.approx(0.0002, rel=0.01)
    assert float(moved[slowed == 0].max()) == pytest.approx(0.0004, rel=0.01)
    assert (step(given | {"step": torch.tensor(2.0)}, True).sum(0) < values.sum(0)).all()


def test_a_step_in_bfloat16_sees_the_same_losses(models: list[Any], batch: dict[str, torch.Tensor]) -> None:
    """As on an accelerator."""
    seen, stack = llava.tensors(Shown(), "cpu"), stacked(models)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        flat = stack.flat.clone().requires_grad_()
        patches = llava.patches_of(batch["images"], seen, dtype)
        sight = (torch.empty(0), torch.empty(0))
        state = stack.state(flat.to(dtype))
        values = llava.losses(state, models[0].config, patches, batch, seen, sight, compiled=llava.EAGER)
        (slope,) = torch.autograd.grad(values.sum(), flat)
        assert slope.isfinite().all()
        found[dtype] = values.detach()
    assert torch.allclose(found[torch.float32], found[torch.bfloat16].float(), rtol=0.03, atol=0.01)


def test_a_captured_step_says_when_it_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that compiling counts for no stage."""

    class Replayed:
        def replay(self) -> None:
            pass

    def capture(self: CapturedStep, one: Any, answers: bool) -> None:
        one.graph, one.values = Replayed(), torch.zeros(1)

    monkeypatch.setattr(CapturedStep, "_capture", capture)
    monkeypatch.setattr(CapturedStep, "_aside", lambda self, given, answers: torch.zeros(1))
    step = CapturedStep(None)  # type: ignore[arg-type]
    ready = []
    for shape in (2, 2, 2, 2, 2, 3, 2):
        step({"patches": torch.zeros(shape)}, True)
        ready.append(step.ready)
    assert ready == [False] * (WARM + 1) + [True, False, True]


def test_the_recipe_is_that_of_the_model_that_ships() -> None:
    stages = recipe(900.0, LLAVA)
    assert list(stages) == ["see", "answer", "relate", "finish"]
    assert sum(stage["seconds"] for stage in stages.values()) == pytest.approx(900)
    assert all(set(stage["losses"]) == set(llava.LOSSES) for stage in stages.values())


def test_a_llava_sees_pictures_of_one_size() -> None:
    for shown in (Shown(NATURAL, (448, 252)), Shown(frames=8, size=(224, 224))):
        with pytest.raises(ValueError, match="frames=1"):
            llava.tensors(shown, "cpu")


def test_the_processor_is_the_one_that_ships() -> None:
    found = scene(SEED, 0)
    ours, theirs = LLAVA.processor(), embedded.load()[1]
    inputs = [prompt_inputs(p, [found.image], [found.questions[0].text]) for p in (ours, theirs)]
    assert inputs[0].keys() == inputs[1].keys()
    assert all(torch.equal(inputs[0][name], inputs[1][name]) for name in inputs[0])


@pytest.mark.slow
def test_a_training_becomes_a_model_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = [f"{name}={number}" for name, number in SMALL.items()]
    words = [
        "--kind",
        "llava",
        "--out",
        str(tmp_path),
        "--seeds",
        "3,4",
        "--steps",
        "2",
        "--batch",
        "2",
        "--workers",
        "1",
    ]
    words += ["--check", "1", "--test", "2", "--every", "1", "--shape", *small]
    subprocess.run([sys.executable, "-m", "experiments.trainings.train", *words], check=True, timeout=900)
    folder = tmp_path / "seed-4"
    test = json.loads((folder / "meta.json").read_text())["progress"]["test"]
    assert set(test["accuracy"]) == {"plain"}
    assert kind_of(folder) is LLAVA
    assert not torch.equal(read_model(folder).lm_head.weight, read_model(tmp_path / "seed-3").lm_head.weight)
    monkeypatch.setattr(sys, "argv", ["package", str(folder), str(tmp_path / "model")])
    package()
    monkeypatch.setattr(embedded, "path", lambda: tmp_path / "model")
    model, processor = embedded.load()
    inputs = prompt_inputs(processor, [scene(SEED, 0).image], ["How many dogs are there in the image?"])
    assert model.generate(**inputs, max_new_tokens=2).shape[0] == 1
    # there is one place that a packaged checkpoint goes to by itself, and it is another kind's
    monkeypatch.setattr(sys, "argv", ["package", str(folder)])
    with pytest.raises(SystemExit):
        package()
