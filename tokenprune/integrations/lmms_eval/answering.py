"""From conversations to answers: prompts through the model's own processor, pruned, and what each cost."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from tokenprune.core.errors import ConfigError, TokenPruneError, TokenPruneWarning, UnsupportedError
from tokenprune.evaluation.runner import FiniteLogits
from tokenprune.hf.adapters.base import MODALITIES, ModelAdapter, Observation, adapter_for
from tokenprune.hf.attach import attach
from tokenprune.hf.cost import DecoderShape, kv_bytes, layer_average, prefill_flops
from tokenprune.hf.patching import replaced
from tokenprune.hf.prompt_text import Text
from tokenprune.hf.record import Run
from tokenprune.integrations.lmms_eval.chats import Chat
from tokenprune.integrations.lmms_eval.options import Options

__all__ = ["Answer", "Answerer", "Generation", "tell_ignored"]

_PASSED: Final = ("num_beams", "repetition_penalty", "length_penalty", "no_repeat_ngram_size")
_SAMPLING: Final = ("temperature", "top_p", "top_k")
_READ: Final = frozenset({"max_new_tokens", "max_gen_toks", "until", "do_sample", *_PASSED, *_SAMPLING})


@dataclass(frozen=True)
class Answer:
    """What a model said, and what its prompt cost.

    Attributes
    ----------
    text : str
    input_tokens, output_tokens : int
        Of the prompt as it entered the language model, visual tokens dropped in front of it left out; of the answer.
    tokens : int
        Visual tokens in the last layer.
    layer_average_tokens : float
        Visual tokens that layers process on average.
    flops, kv_bytes : int
        Of the prefill.
    """

    text: str
    input_tokens: int
    output_tokens: int
    tokens: int
    layer_average_tokens: float
    flops: int
    kv_bytes: int


@dataclass(frozen=True)
class Generation:
    """How a task wants answers to be made.

    Attributes
    ----------
    options : mapping
        Of ``generate``.
    until : tuple of str
        An answer ends before the first of these.
    ignored : tuple of str
        What the task asks for, and nobody here reads.
    """

    options: Mapping[str, Any]
    until: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: Mapping[str, Any], longest: int) -> Generation:
        """Read ``generation_kwargs`` of a task; sampling takes place where a temperature above zero is given.

        Raises
        ------
        ConfigError
            A length that is no count.
        """
        length = given.get("max_new_tokens") or given.get("max_gen_toks") or longest
        if isinstance(length, bool) or not isinstance(length, int | float) or length != int(length) or length < 1:
            raise ConfigError(f"generation_kwargs: max_new_tokens must be a count, got {length!r}")
        until = given.get("until") or ()
        until = (until,) if isinstance(until, str) else tuple(until)
        sample = bool(given.get("do_sample", True)) and float(given.get("temperature") or 0) > 0
        names = (*_PASSED, *(_SAMPLING if sample else ()))
        passed = {name: given[name] for name in names if given.get(name) is not None}
        options = {"do_sample": sample, "max_new_tokens": int(length), **passed}
        return cls(options, tuple(filter(None, until)), tuple(sorted(given.keys() - _READ)))

    def cut(self, text: str) -> str:
        """An answer up to where it ends."""
        for end in self.until:
            text = text.split(end)[0]
        return text.strip()


class Answerer:
    """A model that answers conversations, pruned as the options say.

    Parameters
    ----------
    model, processor
        As :func:`tokenprune.zoo.loading.load_model` returns them.
    options : Options
    """

    def __init__(self, model: Any, processor: Any, options: Options) -> None:
        self.model, self.processor, self.options = model, processor, options
        self.adapter: ModelAdapter = adapter_for(model)
        self.strategy, self.budget = options.built, options.budget
        self.shape = DecoderShape.of(model.config.get_text_config())

    def answers(self, chats: Sequence[Chat], generation: Generation) -> list[Answer]:
        """Answer a batch; all of them show the same kinds of things (see :attr:`Chat.shows`).

        Raises
        ------
        UnsupportedError
            The model has no videos; the strategy cannot work on it.
        TokenPruneError
            A prompt shows something and nothing was pruned.
        """
        inputs = self._inputs(chats)
        seen = Observation()
        pruned = any(chats[0].shows) and self.strategy is not None
        pruning: Any = nullcontext(Run())
        if pruned and self.strategy is not None and self.budget is not None:
            text = self._text(chats)
            pruning = attach(self.model, self.strategy, self.budget, text=text, processor=self.processor)
        watching = nullcontext() if pruned else self.adapter.observe(frozenset(), seen)
        with torch.no_grad(), pruning as run, watching:
            out = self.model.generate(**inputs, **generation.options, logits_processor=[FiniteLogits()])
        out = out[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(out, skip_special_tokens=True)
        lengths = inputs["attention_mask"].sum(1).tolist()
        layers = self._pruned(run, len(chats)) if pruned else self._whole(inputs["input_ids"], seen)
        free = run.history[0].tokens_before if pruned else [row[0] for row in layers]
        return [
            self._answer(generation.cut(text), row, visual, length - before)
            for text, row, visual, length, before in zip(texts, out, layers, lengths, free, strict=True)
        ]

    def _inputs(self, chats: Sequence[Chat]) -> dict[str, Any]:
        """What the processor makes of them, left-padded, on the model's device and in its precision."""
        videos = [clip for chat in chats for clip in chat.videos]
        if videos and getattr(self.processor, "video_processor", None) is None:
            raise UnsupportedError(
                f"the processor of {type(self.model).__name__} reads no videos: take a model that does (stock ones "
                "need torchvision: pip install 'tokenprune-vlm[models]'), or a task of pictures"
            )
        shown: dict[str, Any] = {"images": [list(chat.images) for chat in chats]} if chats[0].images else {}
        if videos:
            about = [clip.about for clip in videos]
            shown |= {"videos": [clip.frames for clip in videos], "video_metadata": about, "do_sample_frames": False}
        texts = [
            self.processor.apply_chat_template(list(chat.turns), add_generation_prompt=True, tokenize=False)
            for chat in chats
        ]
        with replaced(vars(self.processor.tokenizer), "padding_side", "left"):
            inputs = self.processor(text=texts, padding=len(texts) > 1, return_tensors="pt", **shown)
        return {
            name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else value.dtype)
            if isinstance(value, Tensor)
            else value
            for name, value in inputs.items()
        }

    def _text(self, chats: Sequence[Chat]) -> Text:
        """Which words of the prompts a strategy reads."""
        if self.options.text != "question":
            return self.options.text
        own = None if self.strategy is None else self.strategy.text
        return [list(chat.question) for chat in chats] if own is None else own

    def _pruned(self, run: Run, rows: int) -> Sequence[Sequence[int]]:
        """Visual tokens of each prompt in each layer, once it is sure that each was pruned."""
        reached = set(run.history[0].rows) if run.history else set()
        if len(reached) < rows:
            raise TokenPruneError(
                f"{rows - len(reached)} of {rows} prompts show something and were not pruned by "
                f"{self.options.label!r}: their answers would be those of the unpruned model"
            )
        return run.history[0].layer_tokens

    def _whole(self, ids: Tensor, seen: Observation) -> list[list[int]]:
        """The same where nothing is pruned; tokens that always stay count as part of the prompt."""
        found = [0] * len(ids)
        for modality in MODALITIES:
            if modality not in self.adapter.placeholders:
                continue
            blocks = iter(seen.blocks.get(modality, []))
            for row, places in enumerate(self.adapter.image_mask(ids, modality).sum(1).tolist()):
                while places > 0 and (block := next(blocks, None)) is not None:
                    places -= block.size
                    found[row] += block.free
        return [[n] * self.shape.layers for n in found]

    def _answer(self, text: str, row: Tensor, visual: Sequence[int], staying: int) -> Answer:
        tokens = [n + staying for n in visual]
        bytes_each = torch.finfo(self.model.dtype).bits // 8
        return Answer(
            text,
            tokens[0],
            self._length(row),
            visual[-1],
            layer_average(visual),
            prefill_flops(self.shape, tokens),
            kv_bytes(self.shape, tokens, bytes_each),
        )

    def _length(self, row: Tensor) -> int:
        """Tokens of an answer, its end among them, padding not."""
        ends = self.model.generation_config.eos_token_id
        ends = () if ends is None else (ends,) if isinstance(ends, int) else ends
        tokens = row.tolist()
        return next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))


def tell_ignored(task: str, generation: Generation) -> None:
    """Warn of what a task asks for and does not get."""
    if generation.ignored:
        warnings.warn(
            f"task {task!r}: generation_kwargs {', '.join(generation.ignored)} are not read here",
            TokenPruneWarning,
            stacklevel=2,
        )
