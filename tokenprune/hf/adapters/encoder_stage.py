"""Drop patches between layers of a stock vision encoder, and put what is left where the rest of the model expects it.

Hooks shorten what layers are given; in front of the projector every picture has its full number of places again, with
zeros where patches were dropped, so that nothing behind it changes. The signal ``survivors`` says which are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.core.encoder_kinds import EncoderStage, EncoderView
from tokenprune.core.errors import UnsupportedError
from tokenprune.core.indexing import as_mask, gather_tokens
from tokenprune.core.ranking import top_k
from tokenprune.hf.adapters.encoder_attention import attention_rows
from tokenprune.hf.attention_tap import Tap, implementation, tapped
from tokenprune.hf.masks import additive

__all__ = ["EncoderHooks"]


class EncoderHooks:
    """One stage on one encoder, for the time of an ``attach`` block.

    Parameters
    ----------
    stage : EncoderStage
    budget : callable
        Patches of each picture -> how many shall be left of each.

    Attributes
    ----------
    kept : int64 Tensor, (B, n), or None
        Patches that are left of the pictures encoded last, ascending, -1 as padding; None before any layer has run.
    history : list of (int, int64 Tensor)
        Layers at whose output patches were dropped, and what was left.
    """

    def __init__(self, stage: EncoderStage, budget: Callable[[Sequence[int]], tuple[int, ...]]) -> None:
        self.stage, self.budget = stage, budget
        self.kept: Tensor | None = None
        self.keep: tuple[int, ...] = ()
        self.whole = 0
        self.history: list[tuple[int, Tensor]] = []
        self._view: EncoderView | None = None
        self._score: Tensor | None = None

    @contextmanager
    def attached(self, layers: Sequence[nn.Module], last: int, attention: Callable[[nn.Module], Any]) -> Iterator[None]:
        """Hook encoder layers, up to the one whose output is projected.

        Parameters
        ----------
        layers : sequence of Module
        last : int
            That one.
        attention : callable
            Layer -> its attention module.
        """
        config = attention(layers[0]).config
        with ExitStack() as stack:
            stack.callback(layers[0].register_forward_pre_hook(self._begin, with_kwargs=True).remove)
            for number in range(1, last + 1):
                hook = partial(self._before_layer, number)
                stack.callback(layers[number].register_forward_pre_hook(hook, with_kwargs=True).remove)
            for number in range(last + 1, len(layers)):
                stack.callback(layers[number].register_forward_pre_hook(self._masked, with_kwargs=True).remove)
            taps: dict[nn.Module, Tap] = {
                attention(layers[number]): partial(self._see, number, last) for number in range(last)
            }
            stack.enter_context(tapped(config, taps))
            self.flash = "flash" in implementation(config)
            yield

    def whole_again(self, tokens: Tensor) -> Tensor:
        """Patches (B, n, e) at their own places among all, zero elsewhere: (B, N, e)."""
        if self.kept is None:
            return tokens
        place = self.kept.where(self.kept >= 0, self.whole).unsqueeze(-1).expand_as(tokens)
        out = tokens.new_zeros(len(tokens), self.whole + 1, tokens.shape[-1])
        return out.scatter(1, place, tokens)[:, :-1]

    def survivors(self) -> list[Tensor]:
        """For each picture, 1 at patches that are left and 0 elsewhere, (N,) float32."""
        if self.kept is None:
            return []
        return list(as_mask(self.kept, self.whole).float())

    def _begin(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        batch, length = hidden.shape[:2]
        self.whole = length - 1
        self.keep = self.budget([self.whole] * batch)
        self.kept = torch.arange(self.whole, device=hidden.device).expand(batch, -1)
        self.history, self._view, self._score = [], None, None

    @torch.no_grad()
    def _see(self, layer: int, last: int, query: Tensor, key: Tensor, scaling: float, more: Mapping[str, Any]) -> None:
        """Score the patches while there are more than shall be left."""
        assert self.kept is not None
        valid = self.kept >= 0
        present = tuple(valid.sum(1).tolist())
        self._view = None
        if present == self.keep:
            return
        seen = torch.nn.functional.pad(valid, (1, 0), value=True)
        attention = attention_rows(query[:, :, :1], key, scaling, seen)[:, :, 0, 1:]
        values = more["value"].masked_fill(~seen[:, None, :, None], 0)
        self._view = EncoderView(attention, values, valid, present, self.keep, layer, last)
        self._score = self.stage.score(self._view, self._score)

    def _before_layer(
        self, number: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Drop what the layer before says, and hide padding."""
        view, score = self._view, self._score
        counts = None if view is None else self.stage.counts(view)
        if view is not None and score is not None and counts is not None:
            assert self.kept is not None
            wanted = (min(max(keep, n), there) for keep, n, there in zip(self.keep, counts, view.present, strict=True))
            picks = top_k(score.masked_fill(~view.valid, 0), tuple(wanted), view.valid)
            n = score.shape[1]
            ranked = picks.where(picks >= 0, n).sort(1).values
            picks = ranked.where(ranked < n, -1)
            self._score = gather_tokens(score.unsqueeze(-1), picks).squeeze(-1)
            self.kept = self.kept.gather(1, picks.clamp_min(0)).masked_fill(picks < 0, -1)
            self.history.append((number - 1, self.kept))
            hidden = args[0] if args else kwargs["hidden_states"]
            hidden = torch.cat([hidden[:, :1], gather_tokens(hidden[:, 1:], picks)], dim=1)
            args, kwargs = ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
        return self._masked(module, args, kwargs)

    def _masked(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Hide padding from a layer, where pictures have lost different numbers of patches."""
        assert self.kept is not None
        if bool((self.kept >= 0).all()):
            return args, kwargs
        if self.flash:
            raise UnsupportedError(
                "pictures of a batch keep different numbers of patches inside the encoder, which its flash attention "
                "takes no mask for: use attention 'sdpa', or one picture at a time"
            )
        hidden = args[0] if args else kwargs["hidden_states"]
        seen = torch.nn.functional.pad(self.kept >= 0, (1, 0), value=True)[:, None, None, :]
        mask = additive(seen, hidden.dtype).expand(-1, -1, hidden.shape[1], -1)
        return args[:1], {**kwargs, "attention_mask": mask}
