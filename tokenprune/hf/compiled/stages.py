"""The stages of a prompt as functions on tensors of fixed shapes: see, choose, read the prompt, decode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tokenprune.core.features import Features
from tokenprune.core.indexing import gather_tokens
from tokenprune.core.schedule import LayerSchedule
from tokenprune.core.selection import Selection
from tokenprune.hf.adapters.base import Block, ModelAdapter, Observation
from tokenprune.hf.attention_tap import tapped
from tokenprune.hf.collect import gathered
from tokenprune.hf.compiled.plan import NOWHERE, Plan
from tokenprune.hf.decision import choose
from tokenprune.hf.encoded import Encoded, deepstack_of, tokens_of
from tokenprune.hf.masks import of_prompt, of_step
from tokenprune.hf.patching import cache_argument, replaced
from tokenprune.hf.request import Request
from tokenprune.hf.splice import next_position

if TYPE_CHECKING:
    from tokenprune.hf.compiled.between import Between
    from tokenprune.hf.compiled.cache import FixedCache

__all__ = [
    "Prompt",
    "Read",
    "Step",
    "Units",
    "assemble",
    "decode_step",
    "next_logits",
    "positions_left",
    "read_prompt",
    "sight",
]


def sight(adapter: ModelAdapter, encoded: Encoded) -> dict[str, Tensor]:
    """What encoding gave, as tensors by name.

    ``tokens`` (M, d) of all modalities, ``deepstack 0`` ..., and a block's signals (``image 0 cls_attention``).
    """
    outputs = [encoded.outputs[name] for name in adapter.placeholders if name in encoded.outputs]
    found = {"tokens": torch.cat([tokens_of(output) for output in outputs])}
    for i, layers in enumerate(zip(*(deepstack_of(output) for output in outputs), strict=True)):
        found[f"deepstack {i}"] = torch.cat(layers)
    for modality, blocks in encoded.seen.blocks.items():
        for number, block in enumerate(blocks):
            found |= {f"{modality} {number} {name}": value for name, value in block.signals.items()}
    return found


def _recalled(sizes: Observation, given: Mapping[str, Tensor]) -> Observation:
    """The visual inputs with their signals."""
    blocks: dict[str, list[Block]] = {}
    for modality, known in sizes.blocks.items():
        for number, block in enumerate(known):
            start = f"{modality} {number} "
            own = {name.removeprefix(start): value for name, value in given.items() if name.startswith(start)}
            blocks.setdefault(modality, []).append(replace(block, signals=own))
    return Observation(blocks)


@dataclass(frozen=True)
class Units:
    """Where units' tokens stand in prompts, for strategies between layers.

    Attributes
    ----------
    places : int64 Tensor, (U, K)
        In the prompt, -1 as padding.
    origin : int64 Tensor, (U, K)
        Among the unit's tokens before any selection, -1 as padding.
    rows : int64 Tensor, (U,)
        The unit's prompt.
    text : bool Tensor, (B, L)
        Everything of a prompt that is neither visual nor padding.
    signals : dict of str to Tensor
        A row for each unit, over its tokens before any selection.
    owners : tuple of int
        ``rows`` on the host.
    """

    places: Tensor
    origin: Tensor
    rows: Tensor
    text: Tensor
    signals: dict[str, Tensor]
    owners: tuple[int, ...]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By name, for a program."""
        own = {"places": self.places, "origin": self.origin, "rows": self.rows, "text": self.text}
        named = {f"unit_{name}": value for name, value in own.items()}
        return named | {f"signal_{name}": value for name, value in self.signals.items()}

    @classmethod
    def recalled(cls, given: Mapping[str, Tensor], owners: tuple[int, ...]) -> Units:
        """From :attr:`tensors`."""
        signals = {name.removeprefix("signal_"): value for name, value in given.items() if name.startswith("signal_")}
        places, origin, rows, text = (given[f"unit_{name}"] for name in ("places", "origin", "rows", "text"))
        return cls(places, origin, rows, text, signals, owners)


@dataclass(frozen=True)
class Read:
    """What reading prompts gave.

    Attributes
    ----------
    logits : Tensor, (B, V)
        Of the next token.
    masks : tuple of bool Tensor, (B, M)
        Real tokens in the cache, for each stretch of layers that saw the same.
    positions : tuple of int64 Tensor, (R, B, M)
        Their position ids.
    """

    logits: Tensor
    masks: tuple[Tensor, ...]
    positions: tuple[Tensor, ...]

    def repeated(self, copies: int) -> Read:
        """Each prompt ``copies`` times, one behind the other."""
        return Read(
            self.logits.repeat_interleave(copies, 0),
            tuple(mask.repeat_interleave(copies, 0) for mask in self.masks),
            tuple(position.repeat_interleave(copies, 1) for position in self.positions),
        )


@dataclass(frozen=True)
class Prompt:
    """Pruned prompts, padded behind their ends to one length L: under a causal mask nobody looks there.

    Attributes
    ----------
    embeds : Tensor, (B, L, d)
    mask : bool Tensor, (B, L)
    positions : int64 Tensor, (R, B, L)
    deepstack : tuple of Tensor, (B, L, d)
        What is added after each of the first layers; empty for most families.
    selection : Selection or None
        A row for each unit; None where all tokens are kept.
    units : Units or None
        Where the strategy goes on between layers.
    between : Between or None
        What the host knows of that.
    blocks : int64 Tensor, (B, L), or None
        Tokens of the same number see each other both ways, -1 at all others; None where all only look back.
    """

    embeds: Tensor
    mask: Tensor
    positions: Tensor
    deepstack: tuple[Tensor, ...]
    selection: Selection | None
    units: Units | None = None
    between: Between | None = None
    blocks: Tensor | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By name, for a program."""
        layers = {f"deepstack_{i}": layer for i, layer in enumerate(self.deepstack)}
        units = {} if self.units is None else self.units.tensors
        blocks = {} if self.blocks is None else {"blocks": self.blocks}
        return {"embeds": self.embeds, "mask": self.mask, "positions": self.positions, **blocks, **layers, **units}


def unit_features(request: Request, plan: Plan, sizes: Observation, given: Mapping[str, Tensor]) -> Features:
    """What a strategy may look at, in the fixed shapes of a plan; arguments as in :func:`assemble`."""
    embed = request.adapter.model.get_input_embeddings()
    return gathered(
        request,
        given["tokens"][given["unit_visual"]],
        given.get("unit_mask"),
        embed(given["text_ids"]) if "text_ids" in given else None,
        given.get("text_mask"),
        plan.members,
        plan.grids,
        _recalled(sizes, given),
        check=False,
        sizes=plan.sizes,
    )


def assemble(request: Request, plan: Plan, sizes: Observation, given: Mapping[str, Tensor]) -> Prompt:
    """Choose visual tokens and put them between the tokens that stay; nothing is read back.

    Parameters
    ----------
    request : Request
    plan : Plan
        For everything that is no tensor; its numbers come from ``given``.
    sizes : Observation
    given : mapping of str to Tensor
        ``plan.tensors`` and what :func:`sight` returned, on the device.
    """
    embed = request.adapter.model.get_input_embeddings()
    tokens = given["tokens"]
    visual = tokens[given["unit_visual"]]
    unit_mask = given.get("unit_mask")
    counts = request.budget.counts(plan.sizes)
    selection: Selection | None = None
    if request.strategy.neutral and counts == plan.sizes:
        sequence = torch.arange(visual.shape[1], device=visual.device).expand(visual.shape[:2])
        sequence = sequence if unit_mask is None else sequence.where(unit_mask, -1)
        chosen = visual
    else:
        features = unit_features(request, plan, sizes, given)
        selection, made = choose(request, features)
        sequence = selection.sequence
        chosen = gather_tokens(visual, sequence) if made is None else made.to(visual.dtype)
    # kept tokens stand where kept tokens of their unit stood, in the order of the sequence
    sequence, chosen = _padding_last(sequence, chosen)
    seats = given["unit_places"].gather(1, sequence.clamp_min(0)).masked_fill(sequence < 0, NOWHERE).sort(1).values
    rows = given["rows"]
    seats = seats[rows.clamp_min(0)].where((rows >= 0).unsqueeze(-1), NOWHERE).flatten(1)
    places = torch.cat([given["stay_places"], seats], 1)
    order = places.argsort(dim=1, stable=True)
    mask = places.gather(1, order) < NOWHERE

    stays = embed(given["stay_ids"])
    fixed = given["stay_visual"]
    stays = torch.where((fixed >= 0).unsqueeze(-1), tokens[fixed.clamp_min(0)].to(stays.dtype), stays)

    def arranged(stay: Tensor, unit: Tensor) -> Tensor:
        """What stays (B, F, ...) and what was kept (U, K, ...), as they stand."""
        kept = unit[rows.clamp_min(0)].flatten(1, 2).to(stay.dtype)
        both = torch.cat([stay, kept], 1)
        return both.gather(1, order.view(*order.shape, *[1] * (both.ndim - 2)).expand_as(both))

    embeds = arranged(stays, chosen)
    deepstack = []
    for layer in (value for name, value in given.items() if name.startswith("deepstack ")):
        own = torch.where((fixed >= 0).unsqueeze(-1), layer[fixed.clamp_min(0)], 0)
        added = arranged(own, gather_tokens(layer[given["unit_visual"]], sequence))
        deepstack.append(added.masked_fill(~mask.unsqueeze(-1), 0))
    old = torch.stack(
        [
            arranged(stay, unit.gather(1, sequence.clamp_min(0)))
            for stay, unit in zip(given["stay_positions"], given["unit_positions"], strict=True)
        ]
    )
    positions = positions_left(old, mask, request.positions)
    units = None
    if isinstance(request.strategy, LayerSchedule) and selection is not None:
        stands = order.argsort(dim=1)
        slots = stays.shape[1] + given["unit_slots"].unsqueeze(1) * sequence.shape[1]
        here = stands[given["unit_rows"]].gather(1, slots + torch.arange(sequence.shape[1], device=order.device))
        units = Units(
            here.where(sequence >= 0, -1),
            sequence,
            given["unit_rows"],
            arranged(fixed < 0, torch.zeros_like(sequence, dtype=torch.bool)) & mask,
            {name: features[name] for name in sorted(request.strategy.carried)},
            plan.owners,
        )
    blocks = None
    if "stay_block" in given:
        blocks = arranged(given["stay_block"], given["unit_block"].gather(1, sequence.clamp_min(0)))
        blocks = blocks.where(mask, -1)
    return Prompt(embeds, mask, positions, tuple(deepstack), selection, units, blocks=blocks)


def _padding_last(sequence: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    order = (sequence < 0).to(torch.int8).argsort(dim=1, stable=True)
    return sequence.gather(1, order), tokens.gather(1, order.unsqueeze(-1).expand_as(tokens))


def positions_left(old: Tensor, mask: Tensor, how: str) -> Tensor:
    """Position ids (R, B, L), as :meth:`tokenprune.hf.splice.Splice.positions` makes them."""
    counted = (mask.cumsum(1) - 1).clamp_min(0)
    if len(old) == 1 and how == "compact":
        first = old.masked_fill(~mask, torch.iinfo(old.dtype).max).amin(-1, keepdim=True)
        return counted.unsqueeze(0) + first
    if len(old) == 4:
        return torch.cat([counted.unsqueeze(0), old[1:]])
    return old.masked_fill(~mask, 0)


def read_prompt(adapter: ModelAdapter, cache: FixedCache, *, traced: bool = False) -> Callable[..., Read]:
    """The prefill: a function of :attr:`Prompt.tensors` that fills the cache.

    Where a compiler is to trace it, attention stays as transformers has it; else no mask is made that hides nothing.
    """
    model: Any = adapter.language_model
    head = adapter.model.get_output_embeddings()
    name = cache_argument(model)

    def prefill(
        embeds: Tensor, mask: Tensor, positions: Tensor, blocks: Tensor | None = None, **deepstack: Tensor
    ) -> Read:
        extra: dict[str, Any] = {name: cache}
        # transformers makes the one for eager attention of numbers that the host sends
        if (own := of_prompt(model.config, mask, embeds.dtype, blocks)) is not None:
            extra["attention_mask"] = own
        if deepstack:
            extra |= {"visual_pos_masks": mask, "deepstack_visual_embeds": list(deepstack.values())}
        with dense_deepstack(model), nullcontext() if traced else tapped(model.config, {}):
            hidden = model(
                inputs_embeds=embeds,
                position_ids=positions[0] if len(positions) == 1 else positions,
                use_cache=True,
                **extra,
            ).last_hidden_state
        last = (mask.sum(1) - 1).view(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
        return Read(head(hidden.gather(1, last)[:, 0]), (mask,), (positions,))

    return prefill


@contextmanager
def dense_deepstack(model: nn.Module) -> Iterator[None]:
    """Add deepstack features that are zero elsewhere, instead of looking for their places on the device."""
    if not hasattr(model, "_deepstack_process"):
        yield
        return

    def dense(hidden: Tensor, _places: Tensor, features: Tensor) -> Tensor:
        return hidden + features.to(hidden.dtype)

    with replaced(vars(model), "_deepstack_process", dense):
        yield


@dataclass(frozen=True)
class Step:
    """Where decoding stands; every tensor is updated in place.

    Attributes
    ----------
    token : int64 Tensor, (B, 1)
        The last token.
    positions : tuple of int64 Tensor, (B, 1)
        Its position id, for each stretch of layers.
    seen : tuple of bool Tensor, (B, 1, 1, C)
        Places of the cache that hold real tokens, for each stretch.
    done : bool Tensor, (B, 1)
        Rows that have ended.
    """

    token: Tensor
    positions: tuple[Tensor, ...]
    seen: tuple[Tensor, ...]
    done: Tensor

    @classmethod
    def empty(cls, batch: int, capacity: int, device: torch.device, stretches: int = 1) -> Step:
        """Room for a batch."""
        number = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        seen = torch.zeros(batch, 1, 1, capacity, dtype=torch.bool, device=device)
        return cls(
            number,
            tuple(number.clone() for _ in range(stretches)),
            tuple(seen.clone() for _ in range(stretches)),
            torch.zeros_like(number, dtype=torch.bool),
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them."""
        return (self.token, *self.positions, *self.seen, self.done)

    def begin(self, read: Read) -> None:
        """Stand right behind a prompt."""
        for seen, position, mask, positions in zip(self.seen, self.positions, read.masks, read.positions, strict=True):
            seen.zero_()
            seen[:, 0, 0, : mask.shape[1]] = mask
            position.copy_(next_position(positions[-3:], mask).unsqueeze(-1))
        self.done.zero_()

    def take(self, logits: Tensor, ends: Tensor, pad: int) -> Tensor:
        """Choose the likeliest token of each row; rows that have ended get padding. Returns it, (B, 1)."""
        best = logits.argmax(-1, keepdim=True).masked_fill(self.done, pad)
        self.done.logical_or_(torch.isin(best, ends))
        self.token.copy_(best)
        return best


def next_logits(
    adapter: ModelAdapter,
    cache: FixedCache,
    step: Step,
    hooked: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Callable[[], Tensor]:
    """One step whose token somebody else chooses: feeds the last token, moves on, and returns logits, (B, V)."""
    model: Any = adapter.language_model
    embed, head = adapter.model.get_input_embeddings(), adapter.model.get_output_embeddings()
    name = cache_argument(model)

    def advance() -> Tensor:
        for seen in step.seen:
            seen.index_fill_(3, cache.place, True)
        positions = step.positions[0]
        with hooked():
            hidden = model(
                inputs_embeds=embed(step.token),
                attention_mask=of_step(model.config, step.seen[0], embed.weight.dtype),
                position_ids=positions.expand(3, -1, -1) if adapter.multi_axis else positions,
                use_cache=True,
                **{name: cache},
            ).last_hidden_state
        logits: Tensor = head(hidden[:, -1])
        for position in step.positions:
            position.add_(1)
        cache.place.add_(1)
        return logits

    return advance


def decode_step(
    adapter: ModelAdapter,
    cache: FixedCache,
    step: Step,
    ends: Tensor,
    pad: int,
    hooked: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Callable[[], Tensor]:
    """One greedy step: feeds the last token, moves on, and returns the next one, (B, 1)."""
    advance = next_logits(adapter, cache, step, hooked)
    return lambda: step.take(advance(), ends, pad)
