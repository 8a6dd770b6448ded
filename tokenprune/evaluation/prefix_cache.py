"""Answers for less: what a decoder would compute twice, or for nobody, is left out.

Questions about one picture begin with the same tokens where a strategy does not look at the question, and everything
up to where rows part is the same in each by causality. What the last layer makes of a prompt's tokens before the last
is read by nobody. What the first layers make of a whole prompt is the same for every strategy that prunes behind them.
And where picks do not depend on how many follow, one selection serves all budgets. Selections are the same to the bit,
logits those of the plain pass up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.core.indexing import gather_tokens
from tokenprune.core.schedule import LayerSchedule
from tokenprune.core.strategy import AnyStrategy, Strategy
from tokenprune.evaluation.memoised import Memoised
from tokenprune.evaluation.nested import NestedSelection
from tokenprune.hf.adapters.base import ModelAdapter
from tokenprune.hf.attention_tap import implementation, tapped
from tokenprune.hf.masks import narrow_layers
from tokenprune.hf.patching import CACHE_NAMES, cache_in, replaced

__all__ = ["SharedPrefix", "SharedWork", "shared_prefix"]


WORTH = 0.2
"""Share of a batch's tokens that has to be shared before two passes are cheaper than one."""


class SharedWork:
    """Cheaper prefills of one batch of left-padded prompts, for any number of strategies.

    Parameters
    ----------
    adapter : ModelAdapter
        Of the model that generates. Language models with anything but plain causal attention over one axis of
        positions run shared beginnings as often as ever.
    """

    def __init__(self, adapter: ModelAdapter) -> None:
        self.adapter = adapter
        self.decoder: Any = adapter.language_model
        self.remembered: dict[nn.Module, Memoised] = {}
        self.ordered: dict[int, NestedSelection] = {}

    def once(self, strategy: AnyStrategy) -> AnyStrategy:
        """The same strategy, which selects once for all budgets where it can; give it the largest one first."""
        if not isinstance(strategy, Strategy) or strategy.merges or not strategy.selector.nested:
            return strategy
        return self.ordered.setdefault(id(strategy), NestedSelection(strategy))

    def forget(self) -> None:
        """Let go of what was selected: strategies that are tried by the hundred would fill the memory."""
        self.ordered.clear()
        self.remembered.clear()

    @contextmanager
    def during(self, strategy: AnyStrategy | None) -> Iterator[None]:
        """While open, only the last token's hidden state of a prefill may be read.

        Parameters
        ----------
        strategy : AnyStrategy or None
            What prunes; None where nothing does.
        """
        with ExitStack() as stack:
            for name in ("mlp", "self_attn.o_proj"):
                part = _part(self.decoder.layers[-1], name)
                if part is not None:
                    _replace(stack, part, _last_only(part.forward))
            if not isinstance(strategy, LayerSchedule):
                if not narrow_layers(self.decoder.config) and not self.adapter.multi_axis:
                    _replace(stack, self.decoder, _shared(self.decoder.forward))
            elif strategy.before is None:
                # all tokens go through the layers up to the first event
                first, _ = strategy.placed(len(self.decoder.layers))[0]
                for module in self.decoder.layers[: first + 1].modules():
                    if type(module) is nn.Linear:
                        _replace(stack, module, self.remembered.setdefault(module, Memoised(module.forward)))
                stack.enter_context(self._attention(self.decoder.layers[: first + 1]))
            yield

    @contextmanager
    def _attention(self, layers: nn.ModuleList) -> Iterator[None]:
        """Remember what some layers' attention gives, whoever taps their queries."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        name = implementation(self.decoder.config)
        if name != "sdpa":
            yield
            return
        attend = ALL_ATTENTION_FUNCTIONS[name]
        modules = [layer.get_submodule("self_attn") for layer in layers]
        instead = {m: self.remembered.setdefault(m, Memoised(partial(attend, m))) for m in modules}
        with tapped(self.decoder.config, {}, instead):
            yield


def _replace(stack: ExitStack, module: nn.Module, forward: Callable[..., Any]) -> None:
    stack.enter_context(replaced(vars(module), "forward", forward))


def _part(layer: nn.Module, name: str) -> nn.Module | None:
    try:
        return layer.get_submodule(name)
    except AttributeError:
        return None


def _last_only(original: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """A function of every token on its own, evaluated at the last one; zero elsewhere."""

    def forward(x: Tensor) -> Any:
        last = original(x[:, -1:])
        if not isinstance(last, Tensor):
            return original(x)  # experts that say how they were chosen
        return torch.cat([last.new_zeros(*x.shape[:-1], last.shape[-1])[:, :-1], last], dim=1)

    return forward


@dataclass(frozen=True)
class SharedPrefix:
    """Rows of a batch that begin alike.

    Attributes
    ----------
    group : int64 Tensor, (B,)
        Which beginning each row has.
    leaders : tuple of int
        A row of each group.
    length : int
        Tokens of a beginning, the same in every group.
    """

    group: Tensor
    leaders: tuple[int, ...]
    length: int


def shared_prefix(embeds: Tensor, positions: Tensor, mask: Tensor) -> SharedPrefix | None:
    """Find rows that begin alike, or None where too few tokens are shared.

    Parameters
    ----------
    embeds : Tensor, (B, S, d)
    positions : int64 Tensor, (B, S)
        Position ids.
    mask : bool Tensor, (B, S)
        Real tokens, padding on the left.
    """
    lengths = [int(n) for n in mask.sum(1).tolist()]
    total = mask.shape[1]
    leaders: list[int] = []
    shared: list[int] = []
    group: list[int] = []
    for row, length in enumerate(lengths):
        for g, leader in enumerate(leaders):
            n = min(length, lengths[leader])
            mine, other = (slice(total - k, total - k + n) for k in (length, lengths[leader]))
            same = (embeds[row, mine] == embeds[leader, other]).all(-1) & (
                positions[row, mine] == positions[leader, other]
            )
            alike = int(same.long().cumprod(0).sum())
            if 2 * alike > n:
                group.append(g)
                shared[g] = min(shared[g], alike)
                break
        else:
            group.append(len(leaders))
            leaders.append(row)
            shared.append(length)
    common = min(*shared, min(lengths) - 1)
    if (len(group) - len(leaders)) * common < WORTH * sum(lengths):
        return None
    return SharedPrefix(torch.tensor(group, device=embeds.device), tuple(leaders), common)


def _shared(original: Callable[..., Any]) -> Callable[..., Any]:
    """A decoder's forward that runs shared prefixes once, then every row's rest; it leaves the plain pass's cache."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        given: dict[str, Any] = {n: kwargs.get(n) for n in ("inputs_embeds", "position_ids", "attention_mask")}
        cache: Any = cache_in(kwargs)
        if args or not _plain_prefill(given, cache):
            return original(*args, **kwargs)
        embeds, positions, mask = given.values()
        batch, total = mask.shape
        positions = positions.expand(batch, -1)
        found = shared_prefix(embeds, positions, mask.bool())
        if found is None:
            return original(**kwargs)
        n, leaders = found.length, list(found.leaders)
        lengths = mask.sum(1)
        # place of each token in its own prompt, negative at padding
        place = torch.arange(total, device=embeds.device) - (total - lengths).unsqueeze(1)
        first = (torch.arange(n, device=embeds.device) - place[leaders, :1]).clamp_max(total - 1)
        grown = type(cache)()
        before = original(
            **{
                **kwargs,
                "inputs_embeds": gather_tokens(embeds[leaders], first),
                "position_ids": positions[leaders].gather(1, first),
                "attention_mask": mask.new_ones(first.shape),
                **{name: grown for name in CACHE_NAMES if name in kwargs},
            }
        )
        grown.batch_select_indices(found.group)
        rest = int(lengths.max()) - n
        mine = (place[:, -rest:] >= n).to(mask.dtype)
        after = original(
            **{
                **kwargs,
                "inputs_embeds": embeds[:, -rest:],
                "position_ids": positions[:, -rest:],
                "attention_mask": torch.cat([mask.new_ones(batch, n), mine], dim=1),
                **{name: grown for name in CACHE_NAMES if name in kwargs},
            }
        )
        # where each place of the padded prompt is found in beginning + rest; what stands at padding is masked
        ahead = torch.arange(total, device=embeds.device) - (total - rest) + n
        source = torch.where(place < n, place.clamp_min(0), ahead)
        for number, layer in enumerate(grown.layers):
            keys, values = (
                gather_tokens(x.transpose(1, 2), source).transpose(1, 2) for x in (layer.keys, layer.values)
            )
            cache.update(keys, values, number)
        hidden = torch.cat([before.last_hidden_state[found.group], after.last_hidden_state], dim=1)
        after.last_hidden_state = gather_tokens(hidden, source)
        setattr(after, next(name for name in CACHE_NAMES if hasattr(after, name)), cache)
        return after

    return forward


def _plain_prefill(given: Mapping[str, Any], cache: Any) -> bool:
    """Whether this is a prompt, padded on the left, with an empty cache that grows."""
    from transformers import DynamicCache

    if (
        type(cache) is not DynamicCache
        or cache.get_seq_length()
        or not all(isinstance(x, Tensor) for x in given.values())
    ):
        return False
    embeds, positions, mask = given.values()
    if positions.ndim != 2 or mask.ndim != 2 or mask.shape != embeds.shape[:2] or len(mask) < 2:
        return False
    return bool((mask[:, 1:] >= mask[:, :-1]).all())
