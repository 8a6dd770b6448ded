"""A checkpoint that does not fill its model is refused: it would answer, and every answer would be noise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tokenprune.core.errors import ConfigError, UnsupportedError
from tokenprune.zoo.loading import _missing, load_model
from tokenprune.zoo.tiny import tiny_llava, tiny_model, tiny_processor

KEY = "language_model.model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_llava(side=3).save_pretrained(tmp_path)
    tiny_processor(side=3).save_pretrained(tmp_path)
    return tmp_path


def weights(folder: Path, change: Any) -> None:
    file = folder / "model.safetensors"
    found = load_file(file)
    assert KEY in found
    save_file(change(found), file, {"format": "pt"})


def test_what_was_saved_can_be_loaded(saved: Path) -> None:
    model, _ = load_model(str(saved))
    want = tiny_llava(side=3).state_dict()
    assert all(torch.equal(want[name], value) for name, value in model.state_dict().items())


def test_missing_weights(saved: Path) -> None:
    weights(saved, lambda w: {k: v for k, v in w.items() if k != KEY})
    with pytest.raises(UnsupportedError, match=r"1 weights that its config asks for are not.*layers\.1\.mlp\.up_proj"):
        load_model(str(saved))


def test_weights_of_another_shape(saved: Path) -> None:
    weights(saved, lambda w: {**w, KEY: torch.zeros(3, 3)})
    with pytest.raises(UnsupportedError, match=r"1 weights are of other shapes.*layers\.1\.mlp\.up_proj"):
        load_model(str(saved))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(saved: Path, value: float) -> None:
    def spoil(w: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        w[KEY].view(-1)[-1] = value
        return w

    weights(saved, spoil)
    with pytest.raises(UnsupportedError, match=r"layers\.1\.mlp\.up_proj\.weight holds NaN or infinity"):
        load_model(str(saved))


@pytest.mark.parametrize(("more", "reason"), [(1, "are not in the checkpoint"), (-1, "does not ask for")])
def test_a_config_for_another_depth(saved: Path, more: int, reason: str) -> None:
    file = saved / "config.json"
    config = json.loads(file.read_text())
    config["text_config"]["num_hidden_layers"] += more
    for name in ("layer_types",):
        config["text_config"].pop(name, None)
    file.write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match=reason):
        load_model(str(saved))


@pytest.mark.parametrize("name", ["", " "])
def test_no_model_at_all(name: str) -> None:
    with pytest.raises(ConfigError, match="embedded"):
        load_model(name)


def test_pickles_stay_refused(saved: Path) -> None:
    state = load_file(saved / "model.safetensors")
    (saved / "model.safetensors").unlink()
    torch.save(state, saved / "pytorch_model.bin")
    with pytest.raises(UnsupportedError, match="cannot be loaded"):
        load_model(str(saved))


def test_a_processor_that_lacks_a_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    said = _missing("SomeProcessor requires the Torchvision library but it was not found in your environment. Look")
    assert said.startswith(
        "a package that its processor needs is missing: SomeProcessor requires the Torchvision library."
    )
    assert "pip install 'tokenprune-vlm[models]'" in said


def test_a_torchvision_of_another_torch_is_told_from_none(tmp_path: Path) -> None:
    """As transformers meets it: found, and broken."""
    package, facts = tmp_path / "torchvision", tmp_path / "torchvision-0.1.dist-info"
    package.mkdir()
    facts.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n")
    tiny_model("qwen2_5_vl").save_pretrained(tmp_path / "model")
    call = "import sys; from tokenprune.zoo.loading import load_model; load_model(sys.argv[1])"
    command = [sys.executable, "-c", call, str(tmp_path / "model")]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert "UnsupportedError" in done.stderr
    assert f"torchvision 0.1 does not work with torch {torch.__version__}" in done.stderr
    assert "from one index" in done.stderr
