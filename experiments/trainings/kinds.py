"""What differs between families of models that are trained side by side: everything else is the same program."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.embedded import batches as plain
from experiments.embedded import network as llava_network
from experiments.embedded import package as llava_package
from experiments.embedded.batches import Shown
from experiments.trainings import llava, losses, network, qwen_folder
from experiments.trainings.network import Seen
from tokenprune.zoo import embedded_qwen

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Kind:
    """One family: its shape, its forward pass, its losses and its recipe.

    Attributes
    ----------
    model : str
        Name of the model of this kind that ships.
    build, heads_of : callable
        A stock model with fresh weights, and the linear heads that training alone reads.
    tensors : callable
        From what is shown and a device: how it lies in the encoder and in the prompt.
    patches_of : callable
        Pictures as bytes to what the encoder reads.
    visual, answer : callable
        What enters the language model, (parts, K, B, V, width), and logits of questions about it.
    losses : callable
        All losses, (losses, K), in the order of ``names``.
    names : tuple of str
    eager, compiled : callable
        The functions that do the work, as they are and compiled.
    recipe : Path
        Stages.
    slow : tuple of str
        Beginnings of the names of the encoder's parameters, which learn at half the rate in stages that answer.
    lengths : tuple of int
        Tokens of all questions about a picture, in training and in tests.
    styles : tuple of str
        Sets of scenes that it is trained on and asked about.
    budgets : tuple of int
        Visual tokens that comparisons keep.
    write_processor : callable
        Tokenizer, preparation of pictures and chat template to a folder.
    read_processor : callable
        The processor of such a folder.
    """

    model: str
    build: Callable[..., Any]
    heads_of: Callable[[Any], dict[str, nn.Linear]]
    tensors: Callable[[Shown, str], dict[str, Tensor]]
    patches_of: Callable[[Tensor, Mapping[str, Tensor], torch.dtype], Tensor]
    visual: Callable[..., Tensor]
    answer: Callable[..., Tensor]
    losses: Callable[..., Tensor]
    names: tuple[str, ...]
    eager: Callable[[], Any]
    compiled: Callable[[], Any]
    recipe: Path
    slow: tuple[str, ...]
    lengths: tuple[int, int]
    styles: tuple[str, ...]
    budgets: tuple[int, ...]
    write_processor: Callable[[Path], None]
    read_processor: Callable[[Path], Any]

    def processor(self) -> Any:
        """The processor as a folder gives it back."""
        with tempfile.TemporaryDirectory() as folder:
            self.write_processor(Path(folder))
            return self.read_processor(Path(folder))


def _qwen_tensors(shown: Shown, device: str) -> dict[str, Tensor]:
    return Seen(shown).tensors(device)


def _qwen_visual(state: Any, config: Any, patches: Tensor, seen: Mapping[str, Tensor]) -> Tensor:
    return network.encode_pictures(state, config, patches, seen)[0]


def _write_llava(folder: Path) -> None:
    llava_package.processor().save_pretrained(folder)


def _read_llava(folder: Path) -> Any:
    from transformers import LlavaProcessor

    return LlavaProcessor.from_pretrained(folder, local_files_only=True)


QWEN = Kind(
    model="embedded-qwen",
    build=network.build,
    heads_of=network.heads_of,
    tensors=_qwen_tensors,
    patches_of=network.patches_of,
    visual=_qwen_visual,
    answer=network.answer,
    losses=losses.losses,
    names=losses.LOSSES,
    eager=losses.Compiled,
    compiled=losses.Compiled.made,
    recipe=HERE / "stages.yaml",
    slow=("model.visual.patch_embed", "model.visual.pos_embed", "model.visual.blocks"),
    lengths=(187, 459),
    styles=("plain", "natural"),
    budgets=(72, 36, 18),
    write_processor=qwen_folder.write_processor,
    read_processor=embedded_qwen.read_processor,
)
LLAVA = Kind(
    model="embedded",
    build=llava_network.build,
    heads_of=llava.heads_of,
    tensors=llava.tensors,
    patches_of=llava.patches_of,
    visual=llava.visual_tokens,
    answer=llava.answer,
    losses=llava.losses,
    names=llava.LOSSES,
    eager=llava.Compiled,
    compiled=llava.Compiled.made,
    recipe=HERE.parent / "embedded" / "stages.yaml",
    slow=("model.vision_tower",),
    lengths=(plain.TRAIN_LENGTH, plain.TEST_LENGTH),
    styles=("plain",),
    budgets=(64, 32),
    write_processor=_write_llava,
    read_processor=_read_llava,
)
KINDS = {"qwen": QWEN, "llava": LLAVA}
"""By the name on the command line; a checkpoint says its own."""
