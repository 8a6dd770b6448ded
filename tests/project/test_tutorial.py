"""The notebook is the tutorial's page, cell by cell; continuous integration runs it (``make notebook``)."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from typer.testing import CliRunner

from experiments.tutorial.notebook import NOTEBOOK, PAGE, notebook, written
from tests.project.test_docs_commands import CONSOLE
from tests.project.test_docs_examples import BLOCK, blocks
from tests.support.chats import REAL
from tokenprune.cli import app

HUB = "llava-hf/llava-1.5-7b-hf"


def checkpoint(folder: Path) -> None:
    """A folder as the hub has them, but narrow: 336 pixels, patches of 14, LLaVA's kind of tokenizer."""
    real = REAL["llava"]
    tokenizer = real.tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=336, patch_size=14, projection_dim=32, **sizes),
        text_config=LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=real.template,
    ).save_pretrained(folder)


@pytest.mark.slow
def test_the_section_on_a_real_checkpoint_runs_on_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "llava")
    Path("my").mkdir()
    for name in ("kitchen.jpg", "my/kitchen.jpg"):
        Image.radial_gradient("L").convert("RGB").resize((500, 375)).save(name)
    Path("my/questions.jsonl").write_text('{"image": "kitchen.jpg", "question": "How many cups?", "answer": "3"}\n')
    page = PAGE.read_text(encoding="utf-8")
    section = page.partition("## The same on a real checkpoint")[2]
    here = {HUB: str(tmp_path / "llava"), "cuda": "cpu", "float16": "float32"}
    for written_there, instead in here.items():
        assert written_there in section
        section = section.replace(written_there, instead)

    [code] = [m["code"] for m in BLOCK.finditer(section)]
    before = "\n".join(line for _, block in blocks(page)[:1] for line in block.splitlines() if "import" in line)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(f"{before}\n{code}", str(PAGE), "exec"), {})
    assert said.getvalue() == "576 -> 64\n"

    [lines] = [m["code"].splitlines() for m in CONSOLE.finditer(section)]
    assert [line.split()[1] for line in lines] == ["doctor", "compare"]
    few = ["--strategies", "mi-pruner,fastv", "--budgets", "64"]
    doctor, compare = (
        CliRunner().invoke(app, [*shlex.split(line)[1:], *few[: 2 + 2 * n]]) for n, line in enumerate(lines)
    )
    assert doctor.exit_code == 0, doctor.output
    assert compare.exit_code == 0, compare.output
    assert re.search(r"^\s*mi-pruner\s+64\s+64\b", compare.output, re.MULTILINE)


def test_the_notebook_is_current() -> None:
    assert NOTEBOOK.read_text(encoding="utf-8") == written(PAGE.read_text(encoding="utf-8"))


def test_every_block_that_runs_is_a_cell() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [block.strip("\n") for _, block in blocks(PAGE.read_text(encoding="utf-8"))]
    assert len({cell["id"] for cell in cells}) == len(cells)


def test_links_lead_to_the_site() -> None:
    [cell] = notebook("see [parts](parts.md) and [this](a/b.md#here), or [that](https://x.org)")["cells"]
    site = "https://tokenprune.github.io/tokenprune/"
    assert cell["source"] == [f"see [parts]({site}parts/) and [this]({site}a/b/#here), or [that](https://x.org)"]
