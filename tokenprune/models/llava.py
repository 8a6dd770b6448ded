"""LLaVA-1.5: CLIP-like encoder, two-layer projector, decoder; one block of tokens an image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from tokenprune.features import Grid
from tokenprune.models.base import ModelAdapter, Observation
from tokenprune.models.encoder_attention import ENCODER_SIGNALS, observe_encoder_layer

__all__ = ["LlavaAdapter"]


class LlavaAdapter(ModelAdapter):
    """``LlavaForConditionalGeneration``.

    Encoder signals come from the layer whose output the projector reads (``vision_feature_layer``, the last-but-one in
    LLaVA-1.5; the last of them where there are several). An encoder without [CLS] (SigLIP) has no ``cls_attention``.
    """

    @property
    def language_model(self) -> nn.Module:
        """The decoder."""
        return self.core.get_submodule("language_model")

    @property
    def image_token_ids(self) -> tuple[int, ...]:
        """The ``<image>`` placeholder."""
        return (self.model.config.image_token_id,)

    @property
    def _has_cls(self) -> bool:
        """Whether token 0 of the encoder is [CLS]; the "default" strategy crops it before the projector."""
        return bool(self.model.config.vision_feature_select_strategy == "default")

    @property
    def _layer(self) -> nn.Module | None:
        """The encoder layer whose output is projected, or None where it has no attention to read."""
        chosen = self.model.config.vision_feature_layer
        chosen = chosen if isinstance(chosen, int) else chosen[-1]
        encoder = getattr(self.core.get_submodule("vision_tower"), "encoder", None)
        layers = list(getattr(encoder, "layers", []))
        # hidden_states[k] is the output of layer k - 1; hidden_states has one entry more than there are layers
        index = (chosen if chosen >= 0 else len(layers) + 1 + chosen) - 1
        layer: nn.Module | None = layers[index] if 0 <= index < len(layers) else None
        attention: Any = getattr(layer, "self_attn", None)
        readable = all(hasattr(attention, name) for name in ("q_proj", "k_proj", "head_dim", "scale"))
        return layer if readable else None

    @property
    def available(self) -> frozenset[str]:
        """Projection space, prompt, encoder features, and the layer's attention where it can be read."""
        signals = {"visual", "text", "encoder"}
        if self._layer is not None:
            signals |= {"received_attention", "keys"}
            if self._has_cls:
                signals |= {"cls_attention", "encoder_cls"}
        return frozenset(signals)

    @contextmanager
    def observe(self, signals: frozenset[str], seen: Observation) -> Iterator[None]:
        """Hook the projector (its input and output) and, if asked for, one encoder layer."""

        def projected(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen.sizes.extend([output.shape[1]] * output.shape[0])
            if "encoder" in signals:
                seen.add("encoder", args[0])

        with ExitStack() as stack:
            projector = self.core.get_submodule("multi_modal_projector")
            stack.callback(projector.register_forward_hook(projected).remove)
            if signals & ENCODER_SIGNALS and (layer := self._layer) is not None:
                stack.enter_context(observe_encoder_layer(layer, signals, seen, has_cls=self._has_cls))
            yield

    def encode(self, **inputs: Any) -> Any:
        """Image features, as ``get_image_features`` returns them."""
        return self.core.get_image_features(**inputs, return_dict=True)  # type: ignore[operator]

    def project(self, tokens: Tensor) -> Tensor:
        """Apply the projector."""
        projector: Any = self.core.get_submodule("multi_modal_projector")
        dtype = next(projector.parameters()).dtype
        # forward, not __call__: the session's own hooks must not take these for a new image
        projected: Tensor = projector.forward(tokens.to(dtype))
        return projected

    def grid(self, n_tokens: int) -> Grid | None:
        """Square grid of patches."""
        config = self.model.config.vision_config
        side = config.image_size // config.patch_size
        return Grid(side, side) if side * side == n_tokens else None
