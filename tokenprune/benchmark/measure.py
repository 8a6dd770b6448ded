"""One row of a benchmark: a strategy, a budget, a batch, and a way to run it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from tokenprune.benchmark.clock import Peaks, Timing, laps, synchronise, timed
from tokenprune.benchmark.geometry import asked
from tokenprune.core.budget import Budget
from tokenprune.core.features import Features
from tokenprune.core.reference import load_reference
from tokenprune.core.schedule import LayerSchedule
from tokenprune.core.strategy import AnyStrategy
from tokenprune.hf.adapters import adapter_for
from tokenprune.hf.adapters.base import ModelAdapter
from tokenprune.hf.attach import attach
from tokenprune.hf.batch import read_batch
from tokenprune.hf.collect import collect, embedded
from tokenprune.hf.compiled import Compiled
from tokenprune.hf.compiled.programs import Backend
from tokenprune.hf.cost import DecoderShape, kv_bytes, layer_average, prefill_flops
from tokenprune.hf.encoded import observed
from tokenprune.hf.prompt_text import Text
from tokenprune.hf.request import Request

__all__ = ["DECODED", "Bench", "Way"]

Way = Literal["plain", "compiled", "loop"]
"""``plain``: a stock model inside :func:`~tokenprune.attach`. ``compiled``: :func:`~tokenprune.compile`. ``loop``: the
selection alone, as its reference's Python loop (:mod:`tokenprune.core.reference`)."""

DECODED = 8
"""Tokens decoded to find the time of one."""


@dataclass(frozen=True)
class Bench:
    """A model, prompts for it, and how to measure.

    Parameters
    ----------
    model : PreTrainedModel
    inputs : dict of str to Tensor
        Prompts that all show the same kind of thing, left-padded to one length.
    peaks : Peaks
    repeats, warm : int
    backend : str
        Of the compiled way.
    bucket : int
        Of the compiled way.
    text : Text, optional
        What counts as the question; by default all behind what is shown, as ids are no words.
    processor : ProcessorMixin, optional
        Where the text needs one to be found.
    decoded : int, default 8
        Tokens decoded to find the time of one; 0 for none, which spares a compiler the program.
    """

    model: Any
    inputs: dict[str, Tensor]
    peaks: Peaks
    repeats: int = 30
    warm: int = 10
    backend: Backend = "graphs"
    bucket: int = 32
    text: Text | None = None
    processor: Any = None
    decoded: int = DECODED
    adapter: ModelAdapter = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "adapter", adapter_for(self.model))

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        device: torch.device = self.model.device
        return device

    def measure(self, strategy: AnyStrategy | None, keep: int | None, way: Way) -> dict[str, Any]:
        """Costs of one strategy at one budget; of the unpruned model for None."""
        with torch.no_grad():
            made = {"plain": self._plain, "compiled": self._compiled, "loop": self._loop}[way](strategy, keep)
            return {**self._sizes(strategy, keep), **made}

    @property
    def _own(self) -> bool:
        """Whether prompts are somebody's questions."""
        return self.text is not None

    @property
    def _text(self) -> Text:
        return asked(self.model) if self.text is None else self.text

    def _time(self, call: Any, repeats: int | None = None) -> Timing:
        return timed(call, self.device, self.repeats if repeats is None else repeats, self.warm)

    def _request(self, strategy: AnyStrategy, keep: int | None) -> Request:
        # pictures of one's own may have fewer tokens than a budget, those of a geometry are known
        budget = Budget(1.0 if keep is None else keep, clip=self._own)
        return Request.of(self.model, strategy, budget, None, None, strategy.text or self._text, self.processor)

    def _quiet(self) -> dict[str, Any]:
        """Random weights must not say that they saw an image."""
        return {"do_sample": False, "suppress_tokens": list(self.adapter.image_token_ids)}

    def _plain(self, strategy: AnyStrategy | None, keep: int | None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if strategy is None:
            found["encode_ms"] = self._time(lambda: observed(self.adapter, frozenset({"visual"}), self.inputs)).row
            found |= self._stock_attention()
            return found | self._prefill(self.inputs["input_ids"].shape[1]) | self._generation()
        request = self._request(strategy, keep)
        found["encode_ms"] = self._time(lambda: observed(self.adapter, request.signals, self.inputs, request.stage)).row
        if not isinstance(strategy, LayerSchedule):
            features = self._features(request)
            found["select_ms"] = self._time(lambda: strategy.select(features, request.budget)).row
        with attach(
            self.model, strategy, request.budget, text=strategy.text or self._text, processor=self.processor
        ) as run:
            found |= self._generation()
        if not isinstance(strategy, LayerSchedule):
            found |= self._prefill(run.history[-1].sequence_after)
        return found

    def _stock_attention(self) -> dict[str, Any]:
        """The encoder as salience methods usually run it: eager attention that returns every layer's map."""
        pixels = self.inputs.get("pixel_values")
        if pixels is None or not hasattr(self.adapter, "tower"):
            return {}
        tower = self.adapter.tower("image")
        before = tower.config._attn_implementation
        tower.config._attn_implementation = "eager"
        try:
            maps = self._time(lambda: tower(pixels, output_attentions=True, output_hidden_states=True)).row
        finally:
            tower.config._attn_implementation = before
        alone = self._time(lambda: tower(pixels, output_hidden_states=True)).row
        return {"encode_maps_ms": maps, "tower_ms": alone}

    def _prefill(self, length: int) -> dict[str, Any]:
        """The language model alone, on as many tokens; what is in them does not change the time."""
        head = self.model.get_output_embeddings()
        rows, width = len(self.inputs["input_ids"]), self.model.get_input_embeddings().weight.shape[1]
        embeds = torch.randn(rows, length, width, device=self.device, dtype=head.weight.dtype)

        def read() -> Tensor:
            hidden = self.adapter.language_model(inputs_embeds=embeds, use_cache=True).last_hidden_state
            logits: Tensor = head(hidden[:, -1:])
            return logits

        return {"prefill_ms": self._time(read).row}

    def _generation(self) -> dict[str, Any]:
        """Time to the first token, time of each one more, and peak memory."""

        def answer(new: int, **more: Any) -> None:
            self.model.generate(**self.inputs, max_new_tokens=new, min_new_tokens=new, **self._quiet(), **more)

        answer(1)
        before = peak = 0
        if self.device.type == "cuda":
            synchronise(self.device)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            answer(1)
            peak = torch.cuda.max_memory_allocated()
        first = self._time(lambda: answer(1))
        found: dict[str, Any] = {"first_token_ms": first.row}
        if self.decoded:

            def longer(mark: Callable[[str], None]) -> None:
                heard: list[Any] = []

                def count(ids: Tensor, _scores: Any, **_more: Any) -> Tensor:
                    if not heard:
                        mark("read")
                    heard.append(None)
                    return ids.new_zeros(len(ids), dtype=torch.bool)

                answer(1 + self.decoded, stopping_criteria=[count])
                mark("said")

            found |= self._token(longer, max(2, self.repeats // 10))
        if peak:
            found |= self._memory(peak - before)
        return found

    def _token(self, answer: Callable[[Callable[[str], None]], object], repeats: int) -> dict[str, float]:
        """Time of a token after the first: from there to the last by the device's clock.

        The difference between a long and a short answer would be small beside a prefill that varies.
        """
        said = laps(answer, self.device, repeats, 1)["said"]
        return {"token_ms": round(said.median / self.decoded, 4)}

    def _memory(self, more: int) -> dict[str, float]:
        """Bytes above the weights; what else lies on the device (programs of other rows) is not this row's."""
        weights = sum(_bytes(x) for x in (*self.model.parameters(), *self.model.buffers()))
        return {
            "memory_gib": round((weights + more) / 2**30, 3),
            "memory_above_weights_gib": round(more / 2**30, 3),
        }

    def _reserved(self) -> int:
        """Bytes that are taken on the device: tensors, and what graphs hold on to."""
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    def _features(self, request: Request) -> Features:
        """What the strategy is given for these prompts."""
        ids = self.inputs["input_ids"]
        encoded = observed(self.adapter, request.signals, self.inputs, request.stage)
        batch = read_batch(request, ids, self.inputs["attention_mask"].bool(), encoded.seen)
        return collect(request, ids, embedded(self.adapter, ids, encoded), batch, encoded.seen)

    def _loop(self, strategy: AnyStrategy | None, keep: int | None) -> dict[str, Any]:
        assert strategy is not None
        assert keep is not None
        features, reference = self._features(self._request(strategy, keep)), load_reference(strategy.name)
        rows = [reference.signals(features, row) for row in range(features.batch)]
        repeats = max(3, self.repeats // 3)
        timing = self._time(lambda: [reference.function(**row, keep=keep) for row in rows], repeats)
        return {"select_ms": timing.row}

    def _compiled(self, strategy: AnyStrategy | None, keep: int | None) -> dict[str, Any]:
        from tokenprune.core.registry import build

        # everything kept: no selection runs, whatever the strategy
        request = self._request(build("similarity") if strategy is None else strategy, keep)
        cuda = self.device.type == "cuda"
        before = self._reserved() if cuda else 0
        start = time.perf_counter()
        compiled = Compiled(request, self.backend, self.bucket)
        inputs = {k: v if v.is_floating_point() else v.cpu() for k, v in self.inputs.items()}
        compiled.generate(**inputs, max_new_tokens=1 + self.decoded)
        built = time.perf_counter() - start
        memory = self._memory(self._reserved() - before) if cuda else {}
        seen = compiled.encode(**inputs)
        prompt = compiled.select(seen, **inputs)
        assert prompt is not None

        def first(mark: Callable[[str], None] = lambda _: None) -> list[int]:
            found = compiled.encode(**inputs)
            mark("encode")
            shorter = compiled.select(found, **inputs)
            mark("select")
            assert shorter is not None
            logits = compiled.prefill(shorter, 1 + self.decoded)
            mark("prefill")
            best = [int(i) for i in logits.argmax(-1).tolist()]
            mark("read")
            return best

        encode = self._time(lambda: compiled.encode(**inputs))
        select = self._time(lambda: compiled.select(seen, **inputs))
        chosen = self._time(lambda: compiled.replay("select"))
        prefill = self._time(lambda: compiled.prefill(prompt, 1 + self.decoded))
        token = self._time(first)
        parts = laps(first, self.device, self.repeats, self.warm)
        # where the device is done with the encoder before the host knows the prompt's plan, it waits
        waiting = max(0.0, parts["select"].median - chosen.median)
        if self.decoded:

            def answer(mark: Callable[[str], None]) -> None:
                read = compiled.read(prompt, 1 + self.decoded)
                mark("read")
                compiled.say(prompt, read, 1 + self.decoded)
                mark("said")

            memory |= self._token(answer, max(2, self.repeats // 3))
        return {
            "encode_ms": encode.row,
            "select_ms": chosen.row,
            "layout_ms": select.row,
            "prefill_ms": prefill.row,
            "first_token_ms": token.row,
            "parts_ms": {name: timing.row for name, timing in parts.items()},
            "host_ms": round(waiting + parts["read"].median, 4),
            **memory,
            "build_s": round(built, 2),
            "captured": {b.stage: b.captured for b in compiled.built},
            "sequence": prompt.embeds.shape[1],
        }

    def _sizes(self, strategy: AnyStrategy | None, keep: int | None) -> dict[str, Any]:
        """Tokens, FLOPs, cache bytes, and the time below which nothing can get."""
        ids, mask = self.inputs["input_ids"], self.inputs["attention_mask"].bool()
        visual = self.adapter.image_mask(ids).sum(1).tolist()
        text = [real - shown for real, shown in zip(mask.sum(1).tolist(), visual, strict=True)]
        shape = DecoderShape.of(self.model.config.get_text_config())
        units = [[n] for n in visual]
        if strategy is not None:
            seen = observed(self.adapter, frozenset({"visual"}), self.inputs).seen
            spans = read_batch(self._request(strategy, keep), ids, mask, seen).layout.spans
            units = [[len(span.positions) for span in spans if span.row == row] for row in range(len(ids))]
        # visual tokens after each layer, of each prompt; what is in no unit stays
        left = [
            [
                shown - sum(mine) + sum(each)
                for each in zip(*(self._layers(strategy, keep, n) for n in mine), strict=True)
            ]
            for shown, mine in zip(visual, units, strict=True)
        ]
        tokens = [[said + n for n in layers] for said, layers in zip(text, left, strict=True)]
        head: Tensor = self.model.get_output_embeddings().weight
        weights = sum(_bytes(p) for p in self.adapter.language_model.get_submodule("layers").parameters())
        rows = len(ids)
        flops = sum(prefill_flops(shape, mine) for mine in tokens) + rows * 2 * head.numel()
        prefill, by = self.peaks.floor(weights + _bytes(head), flops)
        return {
            "visual_tokens": _mean(visual),
            "text_tokens": _mean(text),
            "layer_average": round(sum(map(layer_average, left)) / rows, 2),
            "prefill_gflops": round(flops / 1e9, 2),
            "kv_mib": round(sum(kv_bytes(shape, mine, head.element_size()) for mine in tokens) / 2**20, 3),
            "prefill_floor_ms": round(prefill, 4),
            "prefill_floor_by": by,
            "token_floor_ms": round((weights + _bytes(head)) / self.peaks.bytes_per_ms, 4),
        }

    def _layers(self, strategy: AnyStrategy | None, keep: int | None, n: int) -> Sequence[int]:
        """Tokens of a unit of ``n`` after each layer."""
        layers = DecoderShape.of(self.model.config.get_text_config()).layers
        if strategy is None:
            return [n] * layers
        asked_for = 1.0 if keep is None else min(keep, n) if self._own else keep
        return strategy.tokens_per_layer(n, layers, asked_for)


def _mean(counts: Sequence[int]) -> float:
    """A mean, whole where it is."""
    mean = sum(counts) / len(counts)
    return int(mean) if mean == int(mean) else round(mean, 2)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
