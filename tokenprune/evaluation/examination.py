"""Check on any model that pruning takes place and keeps its laws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tokenprune.benchmark.cost import layer_average
from tokenprune.errors import ConfigError
from tokenprune.models.base import adapter_for
from tokenprune.patching import replaced
from tokenprune.prompt import Scaffold, Text, prompt_text
from tokenprune.registry import build
from tokenprune.run import Prefill
from tokenprune.schedule import LayerSchedule
from tokenprune.session import attach
from tokenprune.strategy import AnyStrategy, Positions

__all__ = ["Examination", "Law", "examine", "mask_out", "prompt_inputs", "words_of"]


ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.3}
"""Difference that counts as rounding, as a share of the logits' standard deviation."""


@dataclass(frozen=True)
class Law:
    """Largest difference of logits that ought to be equal, as a share of their spread; whether it is rounding."""

    error: float
    holds: bool


@dataclass(frozen=True)
class Examination:
    """What one strategy did to one prompt.

    Attributes
    ----------
    strategy : str
    tokens_before, tokens_after : int
        Visual tokens: in the prompt, and in the last layer.
    layer_tokens : tuple of int
        Visual tokens that each decoder layer processed.
    sequence_before, sequence_after : int
        Tokens that enter the language model.
    change : float
        Largest change of the next token's logits by pruning.
    laws : dict of str to Law
        "keep all = plain" (where a budget of all tokens changes nothing), "drop = mask out" (where nothing is merged,
        nor renumbered between layers; from the layer on after which tokens are dropped), "hooks gone".
    """

    strategy: str
    tokens_before: int
    tokens_after: int
    layer_tokens: tuple[int, ...]
    sequence_before: int
    sequence_after: int
    change: float
    laws: Mapping[str, Law]

    @property
    def healthy(self) -> bool:
        """Tokens were dropped, and every law holds."""
        return self.tokens_after < self.tokens_before and all(law.holds for law in self.laws.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        laws = {name: {"error": law.error, "holds": law.holds} for name, law in self.laws.items()}
        average = layer_average(self.layer_tokens)
        return {**self.__dict__, "layer_average_tokens": average, "laws": laws, "healthy": self.healthy}


def prompt_inputs(processor: Any, images: Sequence[Image.Image], questions: Sequence[str]) -> Any:
    """Model inputs for one question about each picture, by the processor's chat template, left-padded.

    Raises
    ------
    ConfigError
        A question holds what stands for a picture in a prompt.
    """
    texts = []
    for question in questions:
        if (mark := next((mark for mark in _marks(processor) if mark in question), None)) is not None:
            raise ConfigError(f"question {question!r}: {mark!r} stands for a picture in prompts of this model; drop it")
        content = [{"type": "image"}, {"type": "text", "text": question}]
        message = [{"role": "user", "content": content}]
        texts.append(processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
    with replaced(vars(processor.tokenizer), "padding_side", "left"):
        # one list a prompt: some processors take a flat list for the images of the first one
        return processor(images=[[image] for image in images], text=texts, padding=len(texts) > 1, return_tensors="pt")


def words_of(
    model: Any, processor: Any, inputs: Mapping[str, Any], text: Text = "prompt"
) -> list[tuple[bool, list[str]]]:
    """The first prompt in stretches of tokens that count as its text, and that do not.

    Parameters
    ----------
    model : PreTrainedModel
    processor : ProcessorMixin or PreTrainedTokenizerBase
    inputs : mapping
        What the processor returned.
    text : Text, default "prompt"
        As in :func:`~tokenprune.attach`.

    Returns
    -------
    list of (bool, list of str)
        In the order of the prompt: whether a stretch counts, and its tokens, decoded; a run of placeholders is one.
    """
    adapter = adapter_for(model)
    scaffold = Scaffold.of(processor, adapter.image_token_ids)
    ids, mask = inputs["input_ids"][:1], inputs["attention_mask"][:1].bool()
    shown = adapter.image_mask(ids)
    counts = prompt_text(ids, mask, shown, adapter.special_ids, text=text, scaffold=scaffold)
    tokens: list[tuple[bool, str]] = []
    row = zip(*(value[0].tolist() for value in (ids, shown, counts, mask)), strict=True)
    for (placed, counted, real), run in groupby(row, key=lambda token: token[1:]):
        decoded = [scaffold.speller.piece(token[0]).decode(errors="replace") for token in run]
        if real:
            tokens += [(counted, f"<{len(decoded)} visual tokens>")] if placed else [(counted, one) for one in decoded]
    return [(counted, [one for _, one in run]) for counted, run in groupby(tokens, key=lambda token: token[0])]


def _marks(processor: Any) -> list[str]:
    """What a processor puts visual tokens in for, wherever it stands in the text."""
    names = ("image_token", "video_token", "boi_token")
    return [str(mark) for name in names if (mark := getattr(processor, name, None))]


def mask_out(model: Any, inputs: Mapping[str, Any], prefill: Prefill, positions: Positions = "keep") -> Tensor:
    """Logits of the last token of the whole prompt, with the dropped tokens masked instead of dropped: (B, vocab).

    Where a strategy renumbers ("compact"), masked tokens take no position of their own. Between layers, tokens are
    masked from the layer on after which they were dropped; nothing may have been dropped before the first layer then.
    """
    ids = inputs["input_ids"]
    mask = inputs["attention_mask"]
    if not prefill.stages:
        mask = torch.zeros_like(ids).scatter_(1, prefill.splice.index, prefill.splice.mask.long())
    adapter = adapter_for(model)
    place = (mask.cumsum(1) - 1).clamp_min(0)
    if positions == "keep" or adapter.multi_axis:
        place = adapter.position_ids(inputs, inputs["attention_mask"].bool())
    with ExitStack() as stack:
        layers: Any = adapter.language_model.layers
        for number, seen in _seen_by_layer(inputs, prefill, len(layers)).items():
            hook = partial(_with_mask, seen)
            stack.callback(layers[number].register_forward_pre_hook(hook, with_kwargs=True).remove)
        logits: Tensor = model(**{**inputs, "attention_mask": mask, "position_ids": place}).logits[:, -1]
    return logits


def _seen_by_layer(inputs: Mapping[str, Any], prefill: Prefill, n_layers: int) -> dict[int, Tensor]:
    """Tokens that layers after an event may see, bool (B, S), by layer."""
    seen = inputs["attention_mask"].bool()
    found: dict[int, Tensor] = {}
    present = list(prefill.places)
    for stage in prefill.stages:
        seen = seen.clone()
        for unit, row in enumerate(prefill.rows):
            seen[row, present[unit]] = False
            present[unit] = present[unit][stage.selection.row(unit)]
            seen[row, present[unit]] = True
        found.update(dict.fromkeys(range(stage.layer + 1, n_layers), seen))
    return found


def _with_mask(seen: Tensor, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Give a layer a causal mask over the tokens seen; what is masked is finite, because whole rows may be."""
    hidden = args[0] if args else kwargs["hidden_states"]
    length = hidden.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril() & seen.unsqueeze(1)
    mask = hidden.new_zeros(causal.shape).masked_fill(~causal, torch.finfo(hidden.dtype).min).unsqueeze(1)
    return args, {**kwargs, "attention_mask": mask}


@torch.no_grad()
def examine(model: Any, processor: Any, strategy: Any, keep: Any, inputs: Mapping[str, Any]) -> Examination:
    """Run one prompt plainly, with everything kept, pruned, and with the dropped tokens masked out."""
    built = build(strategy)
    inputs = dict(inputs)
    positions = adapter_for(model).position_ids(inputs, inputs["attention_mask"].bool())
    plain = model(**inputs).logits[:, -1]
    hooks = _hooks(model)
    laws: dict[str, Law] = {}
    if built.neutral:
        with attach(model, built, 1.0, processor=processor):
            laws["keep all = plain"] = _law(model(**inputs).logits[:, -1], plain)
    with attach(model, built, keep, processor=processor) as run:
        pruned = model(**inputs, position_ids=positions).logits[:, -1]
    prefill = run.history[-1]
    if _only_drops(built, model) and prefill.sequence_before <= _window(model):
        laws["drop = mask out"] = _law(pruned, mask_out(model, inputs, prefill, built.positions))
    laws["hooks gone"] = Law(0.0, _hooks(model) == hooks)
    return Examination(
        built.name,
        sum(prefill.tokens_before),
        sum(prefill.tokens_after),
        tuple(map(sum, zip(*prefill.layer_tokens, strict=True))),
        prefill.sequence_before,
        prefill.sequence_after,
        float((pruned - plain).abs().max()),
        laws,
    )


def _only_drops(strategy: AnyStrategy, model: Any) -> bool:
    """Whether masking tokens out does the same; masks between layers need an attention that takes any mask."""
    if strategy.merges or not isinstance(strategy, LayerSchedule):
        return not strategy.merges
    takes_masks = model.config.get_text_config()._attn_implementation in ("sdpa", "eager")
    return strategy.before is None and strategy.positions == "keep" and takes_masks


def _window(model: Any) -> float:
    """Tokens that every layer looks back at: windows count what is left, so longer prompts see more when pruned."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    window: int | None = getattr(config, "sliding_window", None)
    return float("inf") if not kinds or window is None else window


def _law(a: Tensor, b: Tensor) -> Law:
    error = float((a.float() - b.float()).abs().max() / b.float().std().clamp_min(1e-12))
    return Law(error, error <= ROUNDING[a.dtype])


def _hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
