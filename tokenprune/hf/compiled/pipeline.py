"""A model, a strategy and a budget, ready to answer: graphs of fixed shapes from pixels to tokens."""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections import deque
from collections.abc import Callable, Container, Hashable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from tokenprune.core.budget import Budget, Keep, Unit
from tokenprune.core.errors import ConfigError, NotCompiledWarning, OptionTypeError, UnsupportedError, closest
from tokenprune.core.schedule import LayerSchedule
from tokenprune.core.strategy import AnyStrategy, Positions
from tokenprune.hf.adapters.base import Observation
from tokenprune.hf.attach import attach
from tokenprune.hf.attention_tap import implementation
from tokenprune.hf.compiled.adaptive import adaptive, settled
from tokenprune.hf.compiled.between import Between, decoding, read_prompt_between
from tokenprune.hf.compiled.encoder import Fused, quick_encoder
from tokenprune.hf.compiled.greedy import beyond, copies_of, cut, ends_of, new_tokens, not_greedy
from tokenprune.hf.compiled.measured import Counting, Rooms, measure_prompt, read_counted, unknown
from tokenprune.hf.compiled.norms import fused_norms
from tokenprune.hf.compiled.plan import Plan, plan_prompts, round_up, sizes_only
from tokenprune.hf.compiled.programs import Backend, Program
from tokenprune.hf.compiled.shelf import Entry, Key, Shelf
from tokenprune.hf.compiled.stages import Prompt, Read, Step, assemble, decode_step, next_logits, read_prompt, sight
from tokenprune.hf.encoded import observed, pixels_in, vision_in
from tokenprune.hf.masks import SLIDING, narrow_layers, window_of
from tokenprune.hf.patching import cache_argument
from tokenprune.hf.prompt_text import Text
from tokenprune.hf.request import Request
from tokenprune.kernels import usable

if TYPE_CHECKING:
    from tokenprune.hf.compiled.cache import FixedCache

__all__ = ["Built", "Compiled", "Decoder", "Seen", "compile"]


@dataclass(frozen=True)
class Built:
    """One program that was made.

    Attributes
    ----------
    stage : str
        "encode", "select", "prefill" or "decode".
    shape : str
        For which shapes.
    seconds : float
        Time to compile, try and capture.
    captured : bool
        Whether it replays a CUDA graph.
    why : str or None
        Why not, on a GPU.
    quick : bool
        Whether faster parts stand in for those of the model; else it is the model's own operations, or a compiler's.
    """

    stage: str
    shape: str
    seconds: float
    captured: bool
    why: str | None
    quick: bool = False


@dataclass(frozen=True)
class Seen:
    """Encoded visual inputs: what they gave, on the device; their sizes, on the host; which program made them."""

    given: dict[str, Tensor]
    sizes: Observation
    key: Key

    @property
    def whole(self) -> bool:
        """Whether every placeholder has its token here; some models add tokens later, when they build the prompt."""
        return len(self.given["tokens"]) == sum(b.size for blocks in self.sizes.blocks.values() for b in blocks)


@dataclass(frozen=True)
class Decoder:
    """A cache, where decoding stands in it, and the first layers of stretches that saw the same tokens."""

    cache: FixedCache
    step: Step
    firsts: tuple[int, ...]

    @property
    def mark(self) -> Key:
        """What programs that write to it need."""
        return ("cache", len(self.step.token), self.cache.capacity, self.firsts)


def compile(
    model: Any,
    strategy: AnyStrategy | str | Mapping[str, Any],
    keep: Keep | Budget,
    *,
    unit: Unit | None = None,
    positions: Positions | None = None,
    text: Text | None = None,
    processor: Any = None,
    backend: Backend = "graphs",
    bucket: int = 32,
    programs: int = 64,
) -> Compiled:
    """Make encoder, selection, prefill and decoding run as CUDA graphs of fixed shapes.

    A fixed budget makes every image as long as every other. What is left to vary is the question's length, which is
    rounded up; the first question of a length is slow, those that follow replay graphs. Answers are the tokens of
    :func:`tokenprune.attach` with ``model.generate`` and the same seed, up to the rounding of other kernels. The model
    itself is not changed and may be used beside.

    Parameters
    ----------
    model : PreTrainedModel
        Its weights must stay where they are.
    strategy, keep, unit, positions, text, processor
        As in :func:`tokenprune.attach`.
    backend : str, default "graphs"
        "graphs" replays the model's own operations; seconds to make. "inductor" compiles the language model, and
        layers of encoders that pack no patches, with ``torch.compile`` first; about a minute for a length, faster
        afterwards, and kept on disk between processes.
        "none" runs the same functions as they are. On a CPU there are no graphs.
    bucket : int, default 32
        Lengths are rounded up to multiples of this.
    programs : int, default 64
        How many programs of a stage are kept, each for one shape (one size of pictures); the one used longest ago goes.

    Returns
    -------
    Compiled

    Raises
    ------
    ConfigError, OptionTypeError
        An unknown backend, or a number that is not positive. Otherwise as :func:`tokenprune.attach`.

    Warns
    -----
    NotCompiledWarning
        How much the strategy keeps follows from what it measures, or the language model's attention is neither "sdpa"
        nor "eager": ``generate`` then attaches and runs the plain way.
    """
    if backend not in get_args(Backend):
        raise ConfigError(f"backend: no {backend!r}; {closest(backend, get_args(Backend))}")
    for name, value in (("bucket", bucket), ("programs", programs)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise OptionTypeError(f"{name} must be an int, got {type(value).__name__} {value!r}")
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    request = Request.of(model, strategy, keep, unit, positions, text, processor)
    return Compiled(request, backend, bucket, processor, programs=programs)


class Compiled:
    """What :func:`compile` returns. Keeps a program for each of the shapes it met last."""

    def __init__(
        self, request: Request, backend: Backend, bucket: int, processor: Any = None, *, programs: int = 64
    ) -> None:
        self.request, self.backend, self.bucket, self.processor = request, backend, bucket, processor
        self._built: deque[Built] = deque(maxlen=1000)
        self._shelf = Shelf(programs)
        self._decoders: dict[tuple[int, int, tuple[int, ...]], Decoder] = {}
        self._pool: Any = None
        self._fused = Fused() if backend == "inductor" else None
        # replays write where the last ones did: one answer at a time, whoever asks
        self._turn = threading.RLock()
        self.obstacle = _obstacle(request)
        if self.obstacle is not None:
            _warn(f"{self.obstacle}: generate attaches and runs the plain way")

    @property
    def built(self) -> list[Built]:
        """The programs made last, a thousand at most."""
        return list(self._built)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        device: torch.device = self.request.adapter.model.device
        return device

    def generate(self, *, max_new_tokens: int | None = None, streamer: Any = None, **inputs: Any) -> Tensor:
        """Answer, greedily unless options or the generation config ask for more; calls from several threads wait.

        Parameters
        ----------
        max_new_tokens : int, optional
            As in ``model.generate``: by default what the generation config says, or 20.
        streamer : BaseStreamer, optional
            As in ``model.generate``: is given the prompt, then each token when it is there. The host waits for every
            token then; what ``put`` raises ends the answer.
        **inputs
            What the processor returned. Token ids are best left on the CPU: the host reads them. And options of
            ``model.generate``: sampling, penalties, beams, several sequences, processors of logits and stopping
            criteria run in the loop of transformers, around the same programs. What asks for more of a model than
            logits (hidden states, another cache, an assistant) runs the plain way, with a warning.

        Returns
        -------
        int64 Tensor, (B, S + new)
            What ``model.generate`` returns: the prompt as it was given, and the new tokens; a row for each sequence.
        """
        # programs made in inference mode could not be used outside of it
        with self._turn, torch.inference_mode(False), torch.no_grad():
            return self._generate(max_new_tokens, streamer, **inputs)

    def _generate(self, max_new_tokens: int | None, streamer: Any, **inputs: Any) -> Tensor:
        config = self.request.adapter.model.generation_config
        ids = inputs.get("input_ids")
        if not isinstance(ids, Tensor):
            raise UnsupportedError("generate needs input_ids, as the processor returns them")
        tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        options = {name: value for name, value in inputs.items() if name not in tensors and value is not None}
        reason = self.obstacle or beyond(config, options)
        if reason is None and not pixels_in(inputs):
            reason = "the prompts show nothing"
        if reason is not None:
            if self.obstacle is None:
                _warn(f"{reason}: this call runs the plain way")
            return self._plainly(max_new_tokens, streamer, inputs)
        new = new_tokens(config, max_new_tokens, options.get("max_length"), ids.shape[1])
        # to the host before the encoder starts: the copy would wait for it
        tensors = {name: value if value.is_floating_point() else value.cpu() for name, value in tensors.items()}
        seen = self.encode(**tensors)
        if not seen.whole:
            self.obstacle = "this model adds visual tokens after its encoder has run"
            _warn(f"{self.obstacle}: generate attaches and runs the plain way")
            return self._plainly(max_new_tokens, streamer, inputs)
        prompt = self.select(seen, **tensors)
        if prompt is None:
            _warn("the prompts show nothing: this call runs the plain way")
            return self._plainly(max_new_tokens, streamer, inputs)
        if not_greedy(config, options):
            options |= {
                "max_new_tokens": max_new_tokens,
                "streamer": streamer,
                "attention_mask": inputs.get("attention_mask"),
            }
            return self._looped(prompt, ids, new, options)
        if streamer is not None:
            streamer.put(ids.cpu())
        said = self.decode(prompt, new, None if streamer is None else streamer.put)
        if streamer is not None:
            streamer.end()
        return torch.cat([ids.to(self.device), said], 1)

    def _plainly(self, max_new_tokens: int | None, streamer: Any, inputs: Mapping[str, Any]) -> Tensor:
        request, model = self.request, self.request.adapter.model
        asked = {"max_new_tokens": max_new_tokens, "streamer": streamer}
        more = {name: value for name, value in asked.items() if value is not None}
        there = self.device.type != "meta"  # where weights are offloaded, whoever offloads them moves inputs too
        moved = {k: v.to(self.device) if isinstance(v, Tensor) and there else v for k, v in inputs.items()}
        with attach(
            model,
            request.strategy,
            request.budget,
            positions=None if request.adapter.multi_axis else request.positions,
            text=request.text,
            processor=self.processor,
        ):
            out: Tensor = model.generate(**moved, **more)
        return out

    @torch.no_grad()
    def encode(self, **inputs: Any) -> Seen:
        """Encode the visual inputs among the processor's outputs. The next call overwrites what this one returns."""
        adapter = self.request.adapter
        vision = vision_in(adapter, inputs)
        pixels = {k: v for k, v in vision.items() if isinstance(v, Tensor) and v.is_floating_point()}
        rest = {k: v for k, v in vision.items() if k not in pixels}
        shapes = tuple((name, tuple(value.shape), value.dtype) for name, value in sorted(pixels.items()))
        told = adapter.told(vision)
        key = ("encode", shapes, _contents(rest), told)
        if key in self._shelf:
            entry = self._shelf[key]
            return Seen(entry.program(**pixels), entry.notes["sizes"], key)
        on_device = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in rest.items()}
        sizes: list[Observation] = []

        def see(**given: Tensor) -> dict[str, Tensor]:
            encoded = observed(adapter, self.request.signals, {**on_device, **given})
            if not sizes:
                sizes.append(sizes_only(encoded.seen))
            return sight(adapter, encoded)

        def see_quickly(**given: Tensor) -> dict[str, Tensor]:
            with quick_encoder(adapter, self._fused):
                return see(**given)

        given = [value for value in on_device.values() if isinstance(value, Tensor)]
        shape = ", ".join(f"{name} {shape}" for name, shape, _ in shapes)
        entry = self._build(key, see, pixels, shape, given=given, quick=see_quickly, told=told is not None)
        entry.notes["sizes"] = sizes[0]
        return Seen(entry.program.output, sizes[0], key)

    @torch.no_grad()
    def select(self, seen: Seen, **inputs: Any) -> Prompt | None:
        """Choose visual tokens and lay the shorter prompts out; None where no prompt shows anything.

        The next call of the same shapes overwrites what this one returns.
        """
        on_host = {k: v.cpu() if isinstance(v, Tensor) and not v.is_floating_point() else v for k, v in inputs.items()}
        known = self._shelf[seen.key].notes
        counted = ("slots", tuple(on_host["input_ids"].shape))
        plan = plan_prompts(self.request, on_host, seen.sizes, known.get(counted), self.bucket)
        if plan is None:
            return None
        request = self.request
        if adaptive(request.strategy) is not None:
            # lengths are read back once a batch, and are then those of a fixed budget
            request = settled(request, plan, seen.sizes, self._given(plan, seen))
            plan = plan_prompts(request, on_host, seen.sizes, None, self.bucket)
            assert plan is not None
        key = ("select", seen.key, plan.key, request.budget.keep)
        if key not in self._shelf:
            # how many tokens a unit becomes is the strategy's business: ask it once
            wide, entered = self._kept(request, plan, seen)
            if wide != max(request.budget.counts(plan.sizes)):
                known[counted] = wide
                plan = plan_prompts(request, on_host, seen.sizes, wide, self.bucket)
                assert plan is not None
                key = ("select", seen.key, plan.key, request.budget.keep)
        given = {**plan.tensors, **seen.given}
        if key in self._shelf:
            entry = self._shelf[key]
            return self._going_on(entry.program(**given), entry)
        final = plan

        def lay_out(**given: Tensor) -> Prompt:
            return assemble(request, final, seen.sizes, given)

        batch, width = plan.tensors["stay_ids"].shape
        stable = seen.given if self._shelf[seen.key].program.captured else ()
        shape = f"{batch} prompts, {width} tokens stay"
        entry = self._build(key, lay_out, given, shape, stable, needs=[seen.key])
        if isinstance(self.request.strategy, LayerSchedule):
            keep = self.request.budget.counts(plan.sizes)
            entry.notes["between"] = Between.of(self.request, keep, entered, width)
        return self._going_on(entry.program.output, entry)

    @staticmethod
    def _going_on(prompt: Prompt, entry: Entry) -> Prompt:
        """With what the host knows of acts between layers."""
        return prompt if prompt.units is None else replace(prompt, between=entry.notes["between"])

    def _given(self, plan: Plan, seen: Seen) -> dict[str, Tensor]:
        """What a plan and encoded pictures hold, on the device."""
        return {name: value.to(self.device) for name, value in {**plan.tensors, **seen.given}.items()}

    def _kept(self, request: Request, plan: Plan, seen: Seen) -> tuple[int, tuple[int, ...]]:
        """Places that units need, and tokens of each that enter the language model."""
        selection = assemble(request, plan, seen.sizes, self._given(plan, seen)).selection
        if selection is None:
            return max(plan.sizes), plan.sizes
        return selection.sequence.shape[1], tuple((selection.sequence >= 0).sum(1).tolist())

    @torch.no_grad()
    def prefill(self, prompt: Prompt, room: int = 1) -> Tensor:
        """Read prompts: logits of the next token, (B, V).

        Parameters
        ----------
        prompt : Prompt
        room : int, default 1
            How many tokens are to follow.
        """
        return self.read(prompt, room).logits

    @torch.no_grad()
    def read(self, prompt: Prompt, room: int) -> Read:
        """As :meth:`prefill`, with where tokens stand in the cache, for :meth:`say`."""
        decoder, between = self._decoder(prompt, room), prompt.between
        if between is not None and (counting := Counting.of(between)) is not None:
            return self._read_counted(prompt, decoder, counting)
        shapes = tuple(sorted((name, tuple(value.shape)) for name, value in prompt.tensors.items()))
        owners = None if between is None or prompt.units is None else (between.key, prompt.units.owners)
        key = ("prefill", shapes, decoder.mark, owners)
        if key in self._shelf:
            read: Read = self._shelf[key].program(**prompt.tensors)
            return read
        if between is None:
            traced = self.backend == "inductor"
            run = self._compiled(read_prompt(self.request.adapter, decoder.cache, traced=traced))
        else:
            assert prompt.units is not None
            run = self._quick(read_prompt_between(self.request, decoder.cache, between, prompt.units.owners))
        batch, length = prompt.embeds.shape[:2]
        entry = self._build(key, run, prompt.tensors, f"{batch} x {length} tokens", needs=[decoder.mark])
        made: Read = entry.program.output
        return made

    def _read_counted(self, prompt: Prompt, decoder: Decoder, counting: Counting) -> Read:
        """Read prompts of which as many tokens stay as what is measured says: the host looks once."""
        assert prompt.units is not None
        owners, given = prompt.units.owners, prompt.tensors
        shapes = tuple(sorted((name, tuple(value.shape)) for name, value in given.items()))
        kind = (shapes, decoder.mark, counting.between.key, owners)
        batch, length = prompt.embeds.shape[:2]
        first = ("prefill", *kind, "measured")
        if first in self._shelf:
            entry = self._shelf[first]
            begun = entry.program(**given)
        else:
            measure = self._quick(measure_prompt(self.request, decoder.cache, counting, owners))
            shape = f"{batch} x {length} tokens, measured"
            entry = self._build(first, measure, given, shape, needs=[decoder.mark])
            entry.notes["rooms"] = counting.rooms().rounded(counting.context.present)
            begun = entry.program.output
        counts, needed = counting.counts({name: value.cpu() for name, value in begun.measured.items()})
        rooms: Rooms = entry.notes["rooms"]
        if not rooms.hold(needed):
            rooms = rooms.with_room_for(needed).rounded(counting.context.present)
            entry.notes["rooms"] = rooms
        key = ("prefill", *kind, rooms)
        # what the first program was given and has found lies where it lies
        stays = {**entry.program.inputs, **(begun.tensors if entry.program.captured else {})}
        told = {**begun.tensors, **stays, "counts": counts}
        if key in self._shelf:
            read: Read = self._shelf[key].program(**told)
            return read
        run = self._quick(read_counted(self.request, decoder.cache, counting, rooms, owners, begun))
        needs = [decoder.mark, first]
        made: Read = self._build(key, run, told, f"{batch} x {length} tokens", stays, needs=needs).program.output
        return made

    @torch.no_grad()
    def decode(self, prompt: Prompt, max_new_tokens: int, heard: Callable[[Tensor], object] | None = None) -> Tensor:
        """Read prompts and answer greedily: int64 (B, new), padded behind each row's end.

        ``heard`` is called with each step's tokens, (B,), on the host.
        """
        return self.say(prompt, self.read(prompt, max_new_tokens), max_new_tokens, heard)

    @torch.no_grad()
    def say(
        self, prompt: Prompt, read: Read, max_new_tokens: int, heard: Callable[[Tensor], object] | None = None
    ) -> Tensor:
        """Answer prompts that were :meth:`read` last, with room for as many tokens; otherwise as :meth:`decode`."""
        model = self.request.adapter.model
        ends = ends_of(model.generation_config)
        pad = model.generation_config.pad_token_id
        pad = (ends[0] if ends else 0) if pad is None else pad
        stop = torch.tensor(ends, dtype=torch.int64, device=self.device)
        decoder = self._decoder(prompt, max_new_tokens)
        step, cache = decoder.step, decoder.cache
        step.begin(read)
        cache.place.fill_(prompt.mask.shape[1])
        tokens = [step.take(read.logits, stop, pad)]
        while True:
            if heard is not None:
                heard(tokens[-1].squeeze(1).cpu())
            if len(tokens) >= max_new_tokens:
                break
            # the host looks every few steps whether all rows have ended; always, where somebody listens
            if ends and (heard is not None or len(tokens) % LOOK == 0) and bool(step.done.all()):
                break
            key = ("decode", decoder.mark, tuple(ends), pad)
            if key not in self._shelf:
                step_of = decode_step(self.request.adapter, cache, step, stop, pad, self._hooked(decoder))
                self._begin_decoding(key, decoder, step_of)
            tokens.append(self._shelf[key].program().clone())
        return cut(torch.cat(tokens, 1), stop)

    def _looped(self, prompt: Prompt, ids: Tensor, new: int, options: Mapping[str, Any]) -> Tensor:
        """Answer in the loop of transformers, around the programs: pictures are encoded, pruned and read once."""
        from tokenprune.hf.compiled.loop import Loop  # transformers takes seconds to import

        model = self.request.adapter.model
        copies = copies_of(model.generation_config, options)
        read = self.read(prompt, new if copies == 1 else 1).repeated(copies)
        decoder = self._decoder(prompt, new, copies)
        length = prompt.mask.shape[1]
        if copies > 1:
            decoder.cache.fill_from(self._decoder(prompt, 1).cache, length, copies)
        decoder.step.begin(read)
        decoder.cache.place.fill_(length)
        key = ("decode", decoder.mark, "logits")

        def advance(tokens: Tensor) -> Tensor:
            if key not in self._shelf:
                step = next_logits(self.request.adapter, decoder.cache, decoder.step, self._hooked(decoder))
                self._begin_decoding(key, decoder, step)
            decoder.step.token.copy_(tokens)
            logits: Tensor = self._shelf[key].program()
            return logits

        there = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in options.items() if v is not None}
        loop = Loop(model, read.logits, advance, decoder.cache)
        out: Tensor = loop.generate(input_ids=ids.to(self.device), **there)
        return out

    def _begin_decoding(self, key: Key, decoder: Decoder, step: Callable[[], Tensor]) -> None:
        """Make the program of a step; trying it out moves the state, which is put back."""
        state = (decoder.cache.place, *decoder.step.tensors)
        before = [value.clone() for value in state]
        run = self._quick(step) if len(decoder.firsts) > 1 else self._compiled(step)
        shape = f"{len(decoder.step.token)} rows, cache of {decoder.cache.capacity}"
        self._build(key, run, {}, shape, needs=[decoder.mark])
        for value, old in zip(state, before, strict=True):
            value.copy_(old)

    def _hooked(self, decoder: Decoder) -> Any:
        model, step = self.request.adapter.language_model, decoder.step
        compact = self.request.positions == "compact" and not self.request.adapter.multi_axis
        return decoding(model, decoder.firsts, step.seen, step.positions, compact=compact)

    def _decoder(self, prompt: Prompt, room: int, copies: int = 1) -> Decoder:
        batch, length = prompt.embeds.shape[0] * copies, prompt.embeds.shape[1]
        capacity = round_up(length + room, CACHE_BUCKET)
        firsts = (0,) if prompt.between is None else _stretches(prompt.between)
        made = self._decoders.pop((batch, capacity, firsts), None)
        if made is None:
            from tokenprune.hf.compiled.cache import FixedCache  # transformers takes seconds to import

            adapter = self.request.adapter
            layers = adapter.model.config.get_text_config().num_hidden_layers
            cache = FixedCache(layers, capacity, self.device)
            made = Decoder(cache, Step.empty(batch, capacity, self.device, len(firsts)), firsts)
            _allocate(adapter.language_model, cache, prompt, copies)
        self._decoders[batch, capacity, firsts] = made  # the one used last stands last
        if len(self._decoders) > CACHES:
            self._shelf.drop([self._decoders.pop(next(iter(self._decoders))).mark])
        return made

    def _compiled(self, function: Any) -> Any:
        """A function of the language model as a compiler makes it, or with norms of one program each."""
        return torch.compile(function, dynamic=False) if self.backend == "inductor" else self._quick(function)

    def _quick(self, function: Any) -> Any:
        model = self.request.adapter.language_model
        if self.backend == "none" or not usable(*model.parameters()):
            return function

        def run(**inputs: Tensor) -> Any:
            with fused_norms(model):
                return function(**inputs)

        return run

    def _build(
        self,
        key: Key,
        function: Any,
        inputs: Mapping[str, Tensor],
        shape: str,
        fixed: Container[str] = (),
        *,
        given: Iterable[Tensor] | None = None,
        quick: Callable[..., Any] | None = None,
        told: bool = False,
        needs: Iterable[Hashable] = (),
    ) -> Entry:
        if self._pool is None and self.device.type == "cuda":
            self._pool = torch.cuda.graph_pool_handle()
        with _many_shapes() if self.backend == "inductor" else nullcontext():
            capture = self.backend != "none"
            how = {"capture": capture, "pool": self._pool, "fixed": fixed, "given": given, "quick": quick, "told": told}
            program = Program(function, inputs, self.device, **how)
        entry = Entry(program, tuple(needs))
        self._shelf.put(key, entry)
        quickly = quick is not None and program.slow is None
        self._built.append(Built(key[0], shape, program.seconds, program.captured, program.why, quickly))
        if program.slow is not None and program.why is None:
            _warn(f"the stage {key[0]!r} ({shape}) runs the model's own operations: {program.slow}")
        if program.why is not None:
            _warn(f"the stage {key[0]!r} ({shape}) is not captured: {program.why}")
        return entry

    def replay(self, stage: str) -> Any:
        """Run the last program of a stage again on what it was given: what a stage costs by itself."""
        found = self._shelf.of(stage)
        if not found:
            raise ConfigError(f"no program of stage {stage!r} has been made yet: {closest(stage, STAGES)}")
        return self._shelf[found[-1]].program()

    def report(self) -> str:
        """A line for each program: stage, shapes, seconds to make, captured or not, with faster parts or not."""
        how, parts = {True: "captured", False: "not captured"}, {True: ", faster parts", False: ""}
        return "\n".join(
            f"{b.stage:8} {b.shape:40} {b.seconds:7.2f} s  {how[b.captured]}{parts[b.quick]}" for b in self.built
        )


STAGES = ("encode", "select", "prefill", "decode")
"""Programs of a prompt, in order."""

LOOK = 8
"""Decoding steps between two looks at whether all rows have ended."""

CACHE_BUCKET = 128
"""Caches are made for multiples of this."""

CACHES = 8
"""How many caches are kept, each for a number of rows and of tokens."""


def _obstacle(request: Request) -> str | None:
    """Why nothing can be compiled."""
    if request.sources.collectors:
        return f"strategy {request.strategy.name!r} reads {sorted(request.sources.collectors)}, which a collector makes"
    if request.stage is not None:
        return f"strategy {request.strategy.name!r} drops patches inside the encoder"
    places = {parameter.device.type for parameter in request.adapter.model.parameters()}
    if "meta" in places:
        return "weights are offloaded"
    if len({parameter.device for parameter in request.adapter.model.parameters()}) > 1:
        return "the model lies on several devices"
    if request.strategy.own_counts and adaptive(request.strategy) is None:
        return f"how many tokens strategy {request.strategy.name!r} keeps follows from the visual input"
    strategy = request.strategy
    if isinstance(strategy, LayerSchedule) and (strategy.decoding is not None or strategy.forgets):
        return f"strategy {strategy.name!r} acts while decoding"
    if isinstance(strategy, LayerSchedule) and (why := unknown(strategy)) is not None:
        return why
    config: Any = request.adapter.language_model.config
    if other := [kind for kind in narrow_layers(config) if kind != SLIDING]:
        return f"this language model has layers of {', '.join(other)}"
    if isinstance(strategy, LayerSchedule) and window_of(config) is not None:
        return "strategies between layers need layers that look back at all tokens"
    if getattr(config, "use_bidirectional_attention", None):
        return "this language model looks ahead in text, too"
    if implementation(config) not in ("sdpa", "eager"):
        return f"attention {implementation(config)!r} takes no masks of fixed shape"
    if request.adapter.model.get_output_embeddings() is None:
        return "the model has no output embeddings"
    return None


def _stretches(between: Between) -> tuple[int, ...]:
    """First layers of stretches that see the same tokens, or may do so."""
    counting = Counting.of(between)
    return between.stretches if counting is None else counting.firsts


def _allocate(model: Any, cache: FixedCache, prompt: Prompt, copies: int) -> None:
    """Let the cache take its room outside of anything compiled or captured: it is made when first written to."""
    positions = prompt.positions[:, :, :2].repeat_interleave(copies, 1)
    model(
        inputs_embeds=prompt.embeds[:, :2].repeat_interleave(copies, 0),
        position_ids=positions[0] if len(positions) == 1 else positions,
        use_cache=True,
        **{cache_argument(model): cache},
    )


def _contents(values: Mapping[str, Any]) -> str:
    """A digest of what is no pixels: sizes of pictures, masks."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(values.items()):
        if isinstance(value, Tensor):
            digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        else:
            digest.update(f"{name}={value!r}".encode())
    return digest.hexdigest()


def _many_shapes() -> Any:
    """Each length is compiled for itself; torch would give up after a few."""
    import torch._dynamo

    return torch._dynamo.config.patch(recompile_limit=256, cache_size_limit=256)


def _warn(message: str) -> None:
    warnings.warn(message, NotCompiledWarning, stacklevel=4)
