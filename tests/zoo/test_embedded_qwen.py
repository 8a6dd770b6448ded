"""The embedded Qwen3-VL: it loads from the package, sees, and was trained by a forward pass that is the stock one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file

import tokenprune as tp
from experiments.embedded import vocabulary
from experiments.embedded.batches import (
    IGNORED,
    Album,
    Batch,
    Feeder,
    Shown,
    write_benchmark_scene,
    write_training_scene,
)
from experiments.embedded.losses import branches_of
from experiments.trainings import train
from experiments.trainings.collect import answers
from experiments.trainings.losses import LOSSES, answer_losses, losses, starved_rows
from experiments.trainings.network import (
    Seen,
    Stack,
    answer,
    build,
    encode_pictures,
    heads_of,
    patches_of,
)
from experiments.trainings.package import read_model
from experiments.trainings.step import CapturedStep, Step, adam_step
from experiments.trainings.train import CYCLE, TEST_LENGTH, TRAIN_LENGTH, recipe, shown_in, weights_by_error
from tests.support import forked
from tokenprune.core.errors import UnsupportedError
from tokenprune.data.items import notes_on
from tokenprune.data.scenes import clip, samples, scene, subfamilies
from tokenprune.data.scenes.styles import NATURAL
from tokenprune.hf.chat import prompt_inputs
from tokenprune.zoo import embedded_qwen
from tokenprune.zoo.loading import load_model

SEED = 77
SMALL = {"width": 64, "seen": 64, "depth": 3, "layers": 3}
KINDS = (Shown(), Shown(NATURAL, (448, 252)), Shown(NATURAL, (224, 336)), Shown(frames=8, size=(224, 224)))


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return load_model("embedded-qwen")


def batch_of(shown: Shown, rows: int = 2, length: int = TRAIN_LENGTH) -> dict[str, torch.Tensor]:
    batch = Batch.views(bytearray(Batch.nbytes(rows, length, shown)), rows, length, shown)
    for row in range(rows):
        write_training_scene(batch, row, "train", SEED, shown.index(row), [100] * len(subfamilies()), shown)
    return {name: torch.from_numpy(array.copy()) for name, array in batch.items()}


def models(count: int = 2) -> list[Any]:
    """Small ones whose norms do something, too."""
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        model = build(**SMALL).eval()
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
        found.append(model)
    return found


# ---- the package


def test_the_folder_is_small_and_published_with_its_numbers() -> None:
    folder = embedded_qwen.path()
    assert (folder / "model.safetensors").stat().st_size < 25e6
    card = (folder / "README.md").read_text()
    results = json.loads((folder / "scenes.json").read_text())
    for group, values in results["accuracy"].items():
        for name, value in values.items():
            assert f"| {group} | {name} | {100 * value:.1f} |" in card
    assert {f"{family}/{sub}" for family, sub in subfamilies()} == set(results["accuracy"]["plain"])
    for admitted in ("dense patch labels", "alignment loss", "wrong picture", "knows scenes and nothing else"):
        assert admitted in card


def test_it_was_trained_until_it_answers_every_kind_of_question() -> None:
    results = json.loads((embedded_qwen.path() / "scenes.json").read_text())
    plain, blind = results["accuracy"]["plain"], results["wrong image"]["plain"]
    assert sum(plain[f"pope/{how}"] for how in ("random", "popular", "adversarial")) / 3 >= 0.98
    assert min(plain.values()) >= 0.85
    assert min(results["questions"]["plain"].values()) > 500
    # with somebody else's picture: yes or no, left or right is a guess
    assert all(blind[name] < 0.65 for name in blind if name != "scienceqa/text")


def test_a_missing_model_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(embedded_qwen, "path", lambda: tmp_path)
    with pytest.raises(UnsupportedError, match="holds no weights"):
        embedded_qwen.load()


def test_there_is_nothing_to_be_told_before_it_is_asked() -> None:
    assert notes_on("embedded-qwen") == notes_on("embedded") == []


def test_tokens_follow_from_the_shape_of_a_picture(loaded: Any) -> None:
    model, processor = loaded
    for index, (width, height) in enumerate(NATURAL.sizes):
        shown = scene(SEED, index, style="natural")
        assert shown.image.size == (width, height)
        inputs = prompt_inputs(processor, [shown.image], [shown.questions[0].text])
        tokens = width * height // 28**2
        assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == tokens
        assert inputs["image_grid_thw"].tolist() == [[1, height // 14, width // 14]]


@pytest.mark.parametrize("shown", KINDS[:3], ids=str)
def test_the_processor_makes_what_training_made(loaded: Any, shown: Shown) -> None:
    processor = loaded[1]
    index = shown.index(1)
    picture = scene(SEED, index, style=shown.style.name)
    inputs = prompt_inputs(processor, [picture.image], [picture.questions[0].text])
    seen = Seen(shown)
    trained = patches_of(torch.from_numpy(picture.painting.image)[None], seen.tensors("cpu"), torch.float32)[0, 0]
    processed = inputs["pixel_values"].unflatten(1, (3, 2, -1))
    assert torch.allclose(trained.unflatten(1, (3, -1)), processed[:, :, 0], atol=1e-5)
    assert torch.equal(processed[:, :, 0], processed[:, :, 1])
    assert inputs["input_ids"][0, : seen.start].tolist() == seen.context[0].tolist()
    asked = vocabulary.encode(f"{picture.questions[0].text} ASSISTANT:")
    assert inputs["input_ids"][0, seen.start :].tolist() == asked


def test_every_word_of_every_question_is_known(loaded: Any) -> None:
    tokenizer = loaded[1].tokenizer
    asked = [sample.question for style in ("plain", "natural") for sample in samples(n=170, seed=SEED, style=style)]
    asked += [question for index in range(40) for question in clip(SEED, index).questions]
    for question in asked:
        for text in (question.text, question.answer):
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert tokenizer.unk_token_id not in ids
            assert ids == vocabulary.encode(text)


# ---- what it answers


@pytest.mark.slow
def test_it_sees_and_says_what_teacher_forcing_says(loaded: Any) -> None:
    """Of every type of question."""
    model, processor = loaded
    asked = [(i, q) for i in range(8) for q in scene(SEED, i).questions if q.subfamily != "text"]
    right = blind = 0
    for i, question in asked:
        said = []
        for picture in (scene(SEED, i).image, scene(SEED, i + 1).image):
            inputs = prompt_inputs(processor, [picture], [question.text])
            out = model.generate(**inputs)
            said.append(processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
        right += said[0] == question.answer
        blind += said[1] == question.answer
    assert len(asked) > 50
    assert right >= 0.93 * len(asked)
    assert blind <= 0.7 * len(asked)


def test_an_answer_ends_when_little_of_the_picture_is_left(loaded: Any) -> None:
    """A number's digits, a word, a letter: one word each, at any budget."""
    model, processor = loaded
    for style, index in (("plain", 3), ("natural", 4)):
        shown = scene(SEED, index, style=style)
        texts = [question.text for question in shown.questions]
        inputs = prompt_inputs(processor, [shown.image] * len(texts), texts)
        for keep in (2, 18):
            with tp.attach(model, "random", keep=keep, processor=processor):
                out = model.generate(**inputs, max_new_tokens=6)
            said = processor.tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            assert all(len(text.split()) == 1 for text in said), said


# ---- how it was trained


@torch.no_grad()
@pytest.mark.parametrize("shown", KINDS, ids=str)
def test_the_training_forward_is_the_stock_forward(shown: Shown) -> None:
    """Of each of two models at once: pictures of several shapes, clips of eight frames."""
    both, batch, seen = models(), batch_of(shown), Seen(shown)
    tensors = seen.tensors("cpu")
    stack = Stack(both, [heads_of(model) for model in both])
    patches = patches_of(batch["images"], tensors, torch.float32)
    visual, _ = encode_pictures(stack.state(stack.flat), both[0].config, patches, tensors)
    branches = branches_of(batch)
    logits = answer(stack.state(stack.flat), both[0].config, visual, branches, tensors)
    images = (batch["images"].float() - 127.5) / 127.5
    frames = images if shown.frames > 1 else images[:, None].expand(-1, 2, -1, -1, -1)
    pixels = rearrange(frames, "b (t f) (y i p) (x j q) c -> b (t y x i j) (c f p q)", f=2, i=2, j=2, p=14, q=14)
    grid = torch.tensor([[seen.steps, *seen.grid]])
    names = ("pixel_values_videos", "video_grid_thw") if shown.frames > 1 else ("pixel_values", "image_grid_thw")
    for k, model in enumerate(both):
        for number in (0, int(branches.branch[1].max())):
            own = branches.branch[1] == number
            ids = torch.cat([tensors["ids"], branches.tokens[1][own]])[None]
            types = torch.where(ids == vocabulary.IMAGE, 1, torch.where(ids == vocabulary.VIDEO, 2, 0))
            given = dict(zip(names, (pixels[1], grid), strict=True))
            stock = model(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, **given)
            assert torch.allclose(logits[k, 1][own], stock.logits[0, seen.start :], atol=1e-4)


def test_models_side_by_side_learn_what_each_learns_alone() -> None:
    both, shown = models(), Shown(NATURAL, (336, 224))
    batch, seen = batch_of(shown, rows=8), Seen(shown).tensors("cpu")
    sight = starved_rows(8, len(seen["visual"]), "cpu")
    patches = patches_of(batch["images"], seen, torch.float32)
    heads = [heads_of(model) for model in both]

    def gradient(chosen: list[int]) -> torch.Tensor:
        stack = Stack([both[k] for k in chosen], [heads[k] for k in chosen])
        flat = stack.flat.requires_grad_()
        found = losses(stack.state(flat), both[0].config, patches, batch, seen, sight)
        assert found.shape == (len(LOSSES), len(chosen))
        return torch.autograd.grad(found.sum(), flat)[0]

    together = gradient([0, 1])
    for k in (0, 1):
        assert torch.allclose(together[k], gradient([k])[0], atol=1e-4)


def test_a_step_is_adamw_with_each_models_gradient_cut_to_one() -> None:
    torch.manual_seed(0)
    flat, grad = torch.randn(2, 40), torch.randn(2, 40) * torch.tensor([[0.01], [10.0]])
    moments = (torch.zeros_like(flat), torch.zeros_like(flat))
    rate, decay = torch.full((40,), 0.01), torch.full((40,), 0.05)
    ours = flat
    theirs = [torch.nn.Parameter(row.clone()) for row in flat]
    optimizers = [torch.optim.AdamW([p], lr=0.01, betas=(0.9, 0.98), weight_decay=0.05) for p in theirs]
    for step in range(1, 4):
        ours, *found = adam_step(ours, grad, *moments, rate, decay, torch.tensor(float(step)))
        moments = (found[0], found[1])
        for parameter, optimizer, row in zip(theirs, optimizers, grad, strict=True):
            parameter.grad = row.clone()
            torch.nn.utils.clip_grad_norm_([parameter], 1.0)
            optimizer.step()
    assert torch.allclose(ours, torch.stack([p.detach() for p in theirs]), atol=1e-5)


def inputs_of_a_step(shown: Shown) -> dict[str, torch.Tensor]:
    batch, seen = batch_of(shown, rows=8), Seen(shown).tensors("cpu")
    sight, starved = starved_rows(8, len(seen["visual"]), "cpu")
    patches = patches_of(batch.pop("images"), seen, torch.float32)
    counts, rate, step = torch.ones(len(LOSSES)), torch.tensor(0.0004), torch.tensor(1.0)
    names = {"patches": patches, "sight": sight, "starved": starved, "counts": counts, "rate": rate, "step": step}
    return {**batch, **seen, **names}


def fresh_step() -> Step:
    both = models()
    torch.manual_seed(5)
    stack = Stack(both, [heads_of(model) for model in both])
    flat = stack.flat.clone()
    slowed = stack.spread({name: 0.5 * name.startswith("model.visual.blocks") for name in stack.shapes})
    zeros = [torch.zeros_like(flat) for _ in range(2)]
    return Step(stack, both[0].config, flat, *zeros, torch.zeros(flat.shape[1]), slowed, torch.float32)


def test_a_step_changes_parameters_in_place_and_the_encoder_by_less_where_it_answers() -> None:
    given, step = inputs_of_a_step(Shown(NATURAL, (336, 224))), fresh_step()
    before = step.flat.clone()
    values = step(given, True)
    assert values.shape == (len(LOSSES), 2)
    # the first step of Adam moves each parameter by its rate, whatever the gradient
    moved = (step.flat - before).abs().max(0).values
    encoder = step.slowed > 0
    assert float(moved[encoder].max()) == pytest.approx(0.0002, rel=0.01)
    assert float(moved[~encoder].max()) == pytest.approx(0.0004, rel=0.01)
    assert (step(given | {"step": torch.tensor(2.0)}, True).sum(0) < values.sum(0)).all()


def test_a_step_that_cannot_be_captured_is_launched_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: CapturedStep, one: Any, answers: bool) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(CapturedStep, "_capture", refuse)
    monkeypatch.setattr(CapturedStep, "_aside", lambda self, given, answers: self.step(given, answers))
    given, told = inputs_of_a_step(Shown(NATURAL, (336, 224))), []
    plain, captured = fresh_step(), CapturedStep(fresh_step(), told.append)
    for number in range(1, 6):
        now = given | {"step": torch.tensor(float(number))}
        assert torch.equal(captured(now, False), plain(now, False))
    assert torch.equal(captured.step.flat, plain.flat)
    assert len(told) == 1
    assert "launched one by one" in told[0]


def test_a_picture_is_shown_again_with_other_questions() -> None:
    """What is asked about it is asked about this picture, and everything is the same in another run."""
    shown = Shown()
    batch = Batch.views(bytearray(Batch.nbytes(1, TRAIN_LENGTH, shown)), 1, TRAIN_LENGTH, shown)
    runs = []
    for _ in range(2):
        album, found = Album(uses=3, kept=4), []
        for index in range(14):
            album.write(batch, 0, "train", SEED, index, [100] * 17, shown)
            found.append({name: array[0].copy() for name, array in batch.items()})
        runs.append(found)
    for one, two in zip(*runs, strict=True):
        assert all(np.array_equal(one[name], two[name]) for name in one)
    groups: dict[bytes, list[dict[str, np.ndarray]]] = {}
    for one in runs[0]:
        groups.setdefault(one["images"].tobytes(), []).append(one)
    assert len(groups) < 12
    for several in groups.values():
        assert len({one["tokens"].tobytes() for one in several}) == len(several)
        assert len({one["objects"].tobytes() + one["present"].tobytes() for one in several}) == 1
    # a scene that is new is the one of its number
    write_training_scene(batch, 0, "train", SEED, 0, [100] * 17, shown)
    assert all(np.array_equal(runs[0][0][name], array[0]) for name, array in batch.items())


def test_starved_rows_train_where_an_answer_ends_and_nothing_else() -> None:
    torch.manual_seed(0)
    targets = torch.full((2, 5), IGNORED)
    targets[:, 2], targets[:, 3] = 7, vocabulary.EOS
    logits = torch.randn(1, 2, 5, 20, requires_grad=True)
    full, end = answer_losses(logits, targets, torch.tensor([False, True]))
    expected = torch.nn.functional.cross_entropy(logits[0, 0, 2:4], targets[0, 2:4])
    assert torch.allclose(full[0], expected)
    share = logits[0, 1, 2:4].softmax(-1)[:, vocabulary.EOS]
    assert torch.allclose(end[0], -(torch.log1p(-share[0]) + share[1].log()) / 2, atol=1e-6)
    (slope,) = torch.autograd.grad(end.sum(), logits)
    assert (slope[0, 0] == 0).all()
    # which other word it is does not matter: probability moves between the end and all others as they are
    others = slope[0, 1, 2, torch.arange(20) != vocabulary.EOS]
    assert (others < 0).all()
    sight, starved = starved_rows(16, 1000, "cpu")
    assert starved.tolist() == [True] * 2 + [False] * 14
    assert sight[2:].all()
    assert (sight[:2].float().mean(1) <= 0.55).all()


def test_the_recipe_is_stretched_over_the_time_there_is() -> None:
    whole = recipe(None)
    assert sum(stage["seconds"] for stage in recipe(100.0).values()) == pytest.approx(100)
    for stage in whole.values():
        assert set(stage["losses"]) == set(LOSSES)
        if isinstance(stage.get("weights"), dict):
            assert set(stage["weights"]) == {"/".join(pair) for pair in subfamilies()}
    assert whole["finish"]["weights"] == "by error"
    assert [one for one, on in zip(CYCLE, shown_in(whole["see"]), strict=True) if on] == [Shown()] * 12
    # in the end one picture in three is a natural one, of each shape in turn
    assert sum(shown_in(whole["finish"])) == 18
    even = dict.fromkeys(("/".join(pair) for pair in subfamilies()), 1.0)
    assert weights_by_error(even | {"mme/ocr": 0.8})[-1] == 200
    del even["mme/ocr"]  # not asked by chance
    assert weights_by_error(even)[-1] == 100


def test_clips_are_left_out_until_their_stage_and_shapes_take_turns() -> None:
    cycle = (Shown(), Shown(NATURAL, (504, 224)), Shown(frames=8, size=(224, 224), rows=1))
    feeder = Feeder(1, 2, TRAIN_LENGTH, "train", SEED, weights=[100] * 17, cycle=cycle)
    feeder.shown[2] = 0
    found = []
    try:
        for _ in range(10):
            batch, slot = feeder.take()
            assert batch.images.shape == (len(batch.images), *feeder.shown_in(slot).images)
            found.append(feeder.shown_in(slot))
            feeder.release(slot)
    finally:
        feeder.close()
    # three batches may have been painted before they were told
    assert set(found[4:]) == set(cycle[:2])


def test_natural_scenes_fit_into_a_benchmark_batch() -> None:
    shown = Shown(NATURAL, (252, 448))
    batch = Batch.views(bytearray(Batch.nbytes(1, TEST_LENGTH, shown)), 1, TEST_LENGTH, shown)
    for number in range(8):
        index = shown.index(number)
        write_benchmark_scene(batch, 0, "validation", SEED, index, shown)
        assert batch.branch.max() + 1 == len(scene(SEED, index, "validation", "natural").questions)


@pytest.mark.slow
def test_a_training_goes_on_where_it_stopped_and_becomes_a_folder(tmp_path: Path) -> None:
    small = [f"{name}={number}" for name, number in SMALL.items()]
    words = ["--out", str(tmp_path), "--seeds", "3,4", "--steps", "2", "--batch", "2", "--workers", "1", "--check", "1"]
    words += ["--every", "1", "--shape", *small]
    before: dict[str, torch.Tensor] = {}
    for steps in (2, 4):
        forked.run(words, tmp_path / "told", train.main)
        assert json.loads((tmp_path / "state.json").read_text())["steps"] == steps
        state = load_file(tmp_path / "state.safetensors")
        assert set(state) == {"flat", "first", "second"}
        if before:
            # what was learnt and the optimizer's memory are still there: nothing began anew
            assert not torch.equal(before["flat"], state["flat"])
            assert (before["flat"] - state["flat"]).abs().max() < 0.01
            assert ((before["second"] > 0) <= (state["second"] > 0)).all()
        before = state
    first, second = (read_model(tmp_path / f"seed-{seed}") for seed in (3, 4))
    assert not torch.equal(first.lm_head.weight, second.lm_head.weight)


def test_answers_of_several_comparisons_are_one_table(tmp_path: Path) -> None:
    line = {"strategy": "fastv", "keep": 36, "draw": 0, "sample": "a", "correct": True, "prediction": "three four"}
    folder = tmp_path / "seed-1" / "plain"
    folder.mkdir(parents=True)
    (folder / "results.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line) + "\n")
    assert list(answers([tmp_path / "seed-1"])) == [("seed-1", "plain", "fastv", 36, 0, "a", 1, 0)]
