"""Every family from the command line: ``--model tiny:MODEL_TYPE``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.chats import real_processor
from tokenprune.cli import main
from tokenprune.core.errors import UnknownNameError
from tokenprune.core.registry import list_strategies
from tokenprune.diagnostics.matrix import matrix
from tokenprune.hf.adapters import adapter_for
from tokenprune.hf.sources import usable_strategies
from tokenprune.zoo.loading import load_model
from tokenprune.zoo.tiny import FAMILIES, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::tokenprune.core.errors.SubstituteWarning")
STRATEGIES = ("mi-pruner", "attention", "sparsevlm", "mi-attention")
"""Before the language model, from the encoder's attention, between layers, and merging."""


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["tokenprune", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.mark.parametrize("family", FAMILIES)
def test_doctor_and_list(family: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"tiny:{family}"
    code, out, err = run(capsys, monkeypatch, "list", "strategies", "--model", name, "--json")
    assert code == 0, err
    listed = [row["name"] for row in json.loads(out)]
    assert listed == usable_strategies(adapter_for(load_model(name)[0]))
    asked = [strategy for strategy in STRATEGIES if strategy in listed]
    assert asked == list(STRATEGIES) or family == "gemma3"
    options = [word for strategy in asked for word in ("--strategy", strategy)]
    code, out, err = run(capsys, monkeypatch, "doctor", "--model", name, *options, "--json")
    assert code == 0, out + err
    found = json.loads(out)["diagnoses"]
    assert [f["strategy"] for f in found] == asked
    assert all(f["healthy"] and 0 < f["tokens_after"] < f["tokens_before"] for f in found)
    # Gemma's windows are narrower than the prompt, and then the law is about something else
    assert ("drop = mask out" in found[0]["laws"]) == (family != "gemma3")


VIDEO = ("dycoke", "evs", "fastvid", "holitom", "prunevid", "vidcom2")


@pytest.mark.parametrize("family", ["video_llava", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_what_compares_frames_is_shown_a_video(
    family: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [word for strategy in VIDEO for word in ("--strategy", strategy)]
    code, out, err = run(capsys, monkeypatch, "doctor", "--model", f"tiny:{family}", *options, "--json")
    assert code == 0, out + err
    found = json.loads(out)["diagnoses"]
    assert [f["strategy"] for f in found] == list(VIDEO)
    assert all(f["healthy"] and 0 < f["tokens_after"] < f["tokens_before"] for f in found)
    laws = {f["strategy"]: set(f["laws"]) for f in found}
    assert laws["evs"] == laws["vidcom2"] == laws["dycoke"] == {"keep all = plain", "drop = mask out", "hooks gone"}


def test_models_without_videos_say_why(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = run(capsys, monkeypatch, "doctor", "--model", "tiny:llava", "--strategy", "evs")
    assert code != 0
    assert "'evs' compares the frames of videos, which LlavaForConditionalGeneration does not read" in err


def test_the_usual_budget_is_a_quarter_of_small_images(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {}
    for name in ("tiny:video_llava", "tiny:qwen2_vl"):
        code, out, _ = run(capsys, monkeypatch, "doctor", "--model", name, "--strategy", "similarity", "--json")
        assert code == 0
        (found,) = json.loads(out)["diagnoses"]
        kept[name] = (found["tokens_before"], found["tokens_after"])
    assert kept == {"tiny:video_llava": (16, 4), "tiny:qwen2_vl": (144, 64)}


def test_strategies_by_families(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("visionzip", "evs")
    code, out, err = run(
        capsys, monkeypatch, "doctor", "--families", *(w for n in names for w in ("--strategy", n)), "--json"
    )
    assert code == 0, err
    cells = json.loads(out)
    assert [(c["strategy"], c["family"]) for c in cells] == [(n, f) for f in FAMILIES for n in names]
    assert {c["family"] for c in cells if c["strategy"] == "visionzip" and not c["refused"]} == {
        "llava",
        "llava_next",
        "video_llava",
    }
    assert all("frames" in c["refused"] or c["unit"] != "tile" for c in cells if c["strategy"] == "evs")
    assert all(c["refused"] or c["laws"]["hooks gone"] == 0 for c in cells)
    code, out, err = run(capsys, monkeypatch, "doctor", "--families", "--strategy", "visionzip")
    assert code == 0
    assert "visionzip: - no encoder_cls" in out


@pytest.mark.slow
def test_every_strategy_on_every_family_keeps_its_laws() -> None:
    broken = [cell for cell in matrix(list(FAMILIES), list_strategies()) if cell.wrong]
    assert not broken


def test_an_unknown_family_names_its_neighbours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownNameError, match="qwen2_5_vl"):
        load_model("tiny:qwen2.5_vl")
    code, _, err = run(capsys, monkeypatch, "doctor", "--model", "tiny:intern_vl")
    assert code == 2
    assert "internvl" in err


def test_doctor_reads_prompts_of_many_kinds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    processor, model = real_processor("llava"), tiny_model("llava")
    model.config.image_token_id = processor.tokenizer.convert_tokens_to_ids("<image>")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    words = ("doctor", "--model", str(tmp_path), "--questions")
    code, out, err = run(capsys, monkeypatch, *words)
    assert code == 0, err
    said = {kind.strip(): count for line in out.splitlines()[3:-1] for kind, count in [line.split("│")[1:3]]}
    for kind, count in said.items():
        right, _, of = count.partition(" of ")
        assert int(right) == int(of) > 0, kind
    assert {"plain", "system text", "by hand"} <= said.keys()
    code, out, err = run(capsys, monkeypatch, *words, "--json")
    assert code == 0, err
    assert all(one["wrong"] is None for one in json.loads(out))
    code, out, err = run(capsys, monkeypatch, "doctor", "--model", "tiny", "--questions")
    assert (code, out) == (1, "")
    assert "too few words" in err
