"""What a folder of the embedded Qwen3-VL holds besides weights: tokenizer, preparation of pictures, chat template."""

from __future__ import annotations

from pathlib import Path

from transformers import Qwen2VLImageProcessorPil

from experiments.embedded.network import PATCH
from experiments.embedded.vocabulary import tokenizer
from experiments.trainings.network import MERGE, TEMPORAL

TOKEN = (PATCH * MERGE) ** 2
"""Pixels of a token."""
FEWEST, MOST = 64, 144
"""Tokens of a picture; others are scaled."""

TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<vision_start><image><vision_end> "
    "{% elif c['type'] == 'video' %}<vision_start><video><vision_end> "
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


CLIPS_TEMPLATE = TEMPLATE.replace("<vision_start><video><vision_end>", "<video>")
"""The same for processors that put the marks around each pair of frames themselves."""


def write_processor(folder: Path, template: str = TEMPLATE) -> None:
    """Tokenizer, preparation of pictures, chat template."""
    pictures = Qwen2VLImageProcessorPil(
        size={"shortest_edge": FEWEST * TOKEN, "longest_edge": MOST * TOKEN},
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=TEMPORAL,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    pictures.save_pretrained(folder)
    tokenizer(clips=True).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template)
