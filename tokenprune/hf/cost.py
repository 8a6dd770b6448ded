"""FLOPs and cache bytes of a prefill, from the number of tokens that each decoder layer really processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenprune.core.errors import UnsupportedError

__all__ = ["DecoderShape", "kv_bytes", "layer_average", "prefill_flops"]


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder that its cost depends on.

    Attributes
    ----------
    layers, width, heads, kv_heads, head_width, hidden : int
        ``hidden`` is the inner width of the gated feed-forward block; of a mixture of experts, of all experts together
        that a token goes through.
    experts : int, default 0
        Experts that a router chooses among; 0 without one.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    experts: int = 0

    @classmethod
    def of(cls, config: Any) -> DecoderShape:
        """Read a transformers text config (Llama, Qwen and alike: gated feed-forward, grouped queries).

        Raises
        ------
        UnsupportedError
            Some layers are dense and others mixtures of experts.
        """
        heads = config.num_attention_heads
        experts = getattr(config, "num_experts", None) or 0
        hidden = config.intermediate_size
        if experts:
            if getattr(config, "mlp_only_layers", None) or getattr(config, "decoder_sparse_step", 1) != 1:
                raise UnsupportedError(
                    "the cost of a language model with dense layers among its mixtures of experts is not known here"
                )
            hidden = config.moe_intermediate_size * config.num_experts_per_tok
        return cls(
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_width=getattr(config, "head_dim", None) or config.hidden_size // heads,
            hidden=hidden,
            experts=experts,
        )

    def layer_flops(self, tokens: int) -> int:
        """Floating-point operations (a multiply-add is 2) of one layer over ``tokens`` tokens, attention unmasked.

        Projections 4 n d (h + h_kv) k, scores and values 4 n^2 h k, feed-forward 6 n d m, router 2 n d e.
        """
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
        projections = 4 * tokens * self.width * (queries + keys)
        attention = 4 * tokens * tokens * queries
        return projections + attention + tokens * self.width * (6 * self.hidden + 2 * self.experts)


def prefill_flops(shape: DecoderShape, tokens: Sequence[int]) -> int:
    """FLOPs of all layers; ``tokens`` has the number of tokens (text included) that each layer processes."""
    return sum(shape.layer_flops(n) for n in tokens)


def kv_bytes(shape: DecoderShape, tokens: Sequence[int], bytes_each: int) -> int:
    """Bytes of keys and values that the prefill leaves in the cache."""
    return sum(2 * n * shape.kv_heads * shape.head_width * bytes_each for n in tokens)


def layer_average(visual: Sequence[int]) -> float:
    """Visual tokens processed, averaged over layers: what makes budgets of different methods comparable."""
    return sum(visual) / len(visual)
