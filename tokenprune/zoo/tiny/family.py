"""What a tiny model of a family consists of, and what its processor would return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, BatchFeature

from tokenprune.core.errors import ConfigError, UnsupportedError, closest
from tokenprune.hf.saved_processor import MAKES_PROCESSOR
from tokenprune.zoo.tiny.words import vocabulary, word_tokenizer

__all__ = [
    "CHAT",
    "KINDS",
    "Chat",
    "Family",
    "FramesAsPictures",
    "Kind",
    "NoVideos",
    "Tensors",
    "Visual",
    "build_inputs",
    "build_model",
    "build_processor",
    "flat",
    "images_only",
    "llama",
    "padded_tiles",
    "token_types",
]

Kind = Literal["image", "two-images", "video", "image-and-video", "text"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""What a prompt may show."""

MODALITIES: Final[dict[Kind, str]] = {
    "image": "i",
    "two-images": "ii",
    "video": "v",
    "image-and-video": "iv",
    "text": "",
}

QUESTIONS: Final = (
    "what color is the dog ?",
    "how many",
    "is there a cat in the picture ?",
    "where is the red ball , left or right of the tree ?",
)


@dataclass(frozen=True)
class Chat:
    """How a family writes turns.

    Attributes
    ----------
    user, assistant : str
        What begins a turn.
    end : str
        What ends it.
    begin : str
        What begins a conversation.
    """

    user: str
    assistant: str
    end: str = ""
    begin: str = ""

    @property
    def prompt(self) -> str:
        """A user's turn and the beginning of the answer, with ``{}`` where images and the question stand."""
        return f"{self.begin} {self.user} {{}} {self.end} {self.assistant}"

    def template(self, image: str, video: str) -> str:
        """A processor's chat template, with what stands for an image and a video before they are encoded."""
        return (
            f"{self.begin} {{% for m in messages %}}"
            f"{{% if m['role'] == 'assistant' %}}{self.assistant}{{% else %}}{self.user}{{% endif %}}"
            "{% if m['content'] is string %} {{ m['content'] }}{% else %}{% for c in m['content'] %}"
            f" {{% if c['type'] == 'image' %}}{image}{{% elif c['type'] == 'video' %}}{video}"
            "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
            f" {self.end} {{% endfor %}}{{% if add_generation_prompt %}}{self.assistant}{{% endif %}}"
        )


CHAT: Final = Chat("<|im_start|> user", "<|im_start|> assistant", "<|im_end|>")

Tensors = Mapping[str, Tensor]
"""What a model gets of one image or video."""


@dataclass(frozen=True)
class Visual:
    """An image or a video.

    Attributes
    ----------
    text : str
        What stands for it in the prompt: as many placeholders as it has tokens, and the tokens around them.
    tensors : mapping of str to Tensor
        What the model gets.
    """

    text: str
    tensors: Tensors


def flat(samples: Sequence[Sequence[Tensors]]) -> dict[str, Tensor]:
    """Concatenate the visuals of all samples along the first axis."""
    visuals = [tensors for sample in samples for tensors in sample]
    names = dict.fromkeys(name for tensors in visuals for name in tensors)
    return {name: torch.cat([tensors[name] for tensors in visuals if name in tensors]) for name in names}


def padded_tiles(samples: Sequence[Sequence[Tensors]]) -> dict[str, Tensor]:
    """The same, where images (1, tiles, ...) have different numbers of tiles: black ones fill them up."""
    most = max((t["pixel_values"].shape[1] for sample in samples for t in sample if "pixel_values" in t), default=0)

    def filled(tensors: Tensors) -> Tensors:
        if "pixel_values" not in tensors:
            return tensors
        pixels = tensors["pixel_values"]
        black = pixels.new_zeros(1, most - pixels.shape[1], *pixels.shape[2:])
        return {**tensors, "pixel_values": torch.cat([pixels, black], dim=1)}

    return flat([[filled(tensors) for tensors in sample] for sample in samples])


def token_types(name: str, *groups: Sequence[str]) -> Callable[[Tensor, Mapping[str, int]], dict[str, Tensor]]:
    """What marks placeholders: ids of the first group get 1, of the second 2."""

    def mark(ids: Tensor, tokens: Mapping[str, int]) -> dict[str, Tensor]:
        types = torch.zeros_like(ids)
        for value, group in enumerate(groups, 1):
            types[torch.isin(ids, torch.tensor([tokens[token] for token in group]))] = value
        return {name: types}

    return mark


@dataclass(frozen=True)
class Family:
    """One model type.

    Attributes
    ----------
    model_type : str
    special : tuple of str
        Special tokens, placeholders first.
    config : callable
        Token -> id, to the keywords of the family's configuration.
    chat : Chat
        How it writes turns.
    image, video : callable
        Number of the image and random numbers -> the image; images of different numbers differ in size where the
        family knows several. ``video`` is None where the family knows none.
    words : tuple of str
        Words of the prompt that are not in the common vocabulary.
    named : mapping
        What special tokens are called by the family's processor.
    collate : callable
        From the visuals of each sample to the tensors of the batch.
    types : callable, optional
        Further tensors that the processor makes of ``input_ids``.
    sliding : bool
        Whether some layers of the language model see a window only.
    several_sizes : bool
        Whether images may have different numbers of tokens.
    several : callable, optional
        The same as ``image``, for one of several images of a prompt, where that differs.
    without : tuple of str
        Kinds of prompts that the family's processor does not take.
    processor : callable
        From a tokenizer with a chat template to the family's processor of images.
    marks : tuple of str
        What stands for an image and a video in a prompt before they are encoded; placeholders by default.
    """

    model_type: str
    special: tuple[str, ...]
    config: Callable[[Mapping[str, int]], dict[str, Any]]
    chat: Chat
    image: Callable[[int, torch.Generator], Visual]
    video: Callable[[int, torch.Generator], Visual] | None = None
    words: tuple[str, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)
    collate: Callable[[Sequence[Sequence[Tensors]]], dict[str, Tensor]] = flat
    types: Callable[[Tensor, Mapping[str, int]], dict[str, Tensor]] | None = None
    sliding: bool = False
    several_sizes: bool = True
    several: Callable[[int, torch.Generator], Visual] | None = None
    without: tuple[Kind, ...] = ()
    processor: Callable[[Any, str], Any] | None = None
    marks: tuple[str, str] = ("<image>", "<video>")

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of prompts that it takes."""
        known = KINDS if self.video is not None else tuple(kind for kind in KINDS if "v" not in MODALITIES[kind])
        return tuple(kind for kind in known if kind not in self.without)

    @property
    def tokens(self) -> dict[str, int]:
        """Token -> id."""
        return vocabulary(self.special, self.words)

    def tokenizer(self) -> Any:
        """The family's tokenizer."""
        return word_tokenizer(self.special, self.words, **self.named)

    def show(self, kind: Kind, sample: int, generator: torch.Generator) -> tuple[str, list[Tensors]]:
        """One prompt and its visuals' tensors."""
        texts, tensors = [], []
        image = self.image if self.several is None or MODALITIES[kind].count("i") == 1 else self.several
        for i, modality in enumerate(MODALITIES[kind]):
            make = image if modality == "i" else self.video
            assert make is not None
            visual = make(sample + i, generator)
            texts.append(visual.text)
            tensors.append(visual.tensors)
        question = QUESTIONS[sample % len(QUESTIONS)]
        return self.chat.prompt.format(" ".join([*texts, question])), tensors


def llama(tokens: Mapping[str, int], **changes: Any) -> dict[str, Any]:
    """Sizes that all tiny language models share."""
    return {
        "vocab_size": len(tokens),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "pad_token_id": tokens["<pad>"],
        "bos_token_id": tokens["<s>"],
        "eos_token_id": None,
        **changes,
    }


class NoVideos:
    """Takes the place of a video processor, which needs torchvision: images are all that is asked for."""

    def __call__(self, *_videos: Any, **_options: Any) -> Any:
        """Refuse."""
        raise UnsupportedError("tiny processors read images only; tiny_inputs makes inputs that show a video")


class FramesAsPictures(NoVideos):
    """Takes the place of a video processor that treats each frame as the family's image processor treats a picture.

    Parameters
    ----------
    image_processor : BaseImageProcessor
    """

    def __init__(self, image_processor: Any) -> None:
        self.image_processor = image_processor

    def __call__(self, videos: Any, **_options: Any) -> Any:
        """Pixels of videos of one length, (videos, frames, channels, height, width)."""
        read = [self.image_processor(images=list(video), return_tensors="pt")["pixel_values"] for video in videos]
        return BatchFeature({"pixel_values_videos": torch.stack(read)})


def images_only(kind: Any) -> Any:
    """A processor class that takes :class:`NoVideos` for a video processor."""

    def check(self: Any, name: str, argument: Any) -> Any:
        return (
            NoVideos if isinstance(argument, NoVideos) else kind.check_argument_for_proper_class(self, name, argument)
        )

    return type(kind.__name__, (kind,), {"check_argument_for_proper_class": check})


def build_processor(family: Family) -> Any:
    """The family's processor for images, with its tokenizer."""
    assert family.processor is not None
    return family.processor(family.tokenizer(), family.chat.template(*family.marks))


def build_model(family: Family, *, attention: str = "sdpa", seed: int = 0) -> Any:
    """Random weights, spread until predictions differ; the caller's random state is left as it was."""
    config = AutoConfig.for_model(family.model_type, **family.config(family.tokens))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = AutoModelForImageTextToText.from_config(config, attn_implementation=attention)
        spread(model)
    model.generation_config.pad_token_id = family.tokens["<pad>"]
    model.generation_config.eos_token_id = None
    vars(model)[MAKES_PROCESSOR] = partial(build_processor, family)
    return model.eval()


def spread(model: torch.nn.Module) -> None:
    """Give matrices a spread at which predictions differ: default weights make all tokens look alike."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)


def build_inputs(
    family: Family, kinds: Sequence[Kind], *, seed: int = 0, only: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """Inputs of a batch, left-padded: one sample a kind, with questions and images of different lengths."""
    for kind in kinds:
        if kind not in family.kinds:
            raise ConfigError(f"{family.model_type}: no prompts of kind {kind!r}; {closest(kind, family.kinds)}")
    prompts, samples = [], []
    for sample, kind in enumerate(kinds):
        if only is not None and sample not in only:
            continue
        generator = torch.Generator().manual_seed(1000 * seed + sample)
        prompt, tensors = family.show(kind, sample, generator)
        prompts.append(prompt)
        samples.append(tensors)
    encoded = family.tokenizer()(prompts, padding=True, return_tensors="pt", add_special_tokens=False)
    inputs: dict[str, Tensor] = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    if family.types is not None:
        inputs |= family.types(inputs["input_ids"], family.tokens)
    return inputs | family.collate(samples)
