"""LLaVA-1.5: CLIP-like encoder, two-layer projector, decoder; one block of tokens an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from tokenprune.core.features import Grid
from tokenprune.hf.adapters.base import Block, ModelAdapter
from tokenprune.hf.adapters.encoder_attention import ENCODER_SIGNALS, Readings, read_layer

__all__ = ["LlavaAdapter", "PatchesAlone"]


class LlavaAdapter(ModelAdapter):
    """``LlavaForConditionalGeneration``, and what its relatives have in common with it.

    Encoder signals come from the layer whose output the projector reads (``vision_feature_layer``, the last-but-one in
    LLaVA-1.5; the last of them where there are several). An encoder without [CLS] (SigLIP) has no ``cls_attention``.
    """

    projector = "multi_modal_projector"

    def tower(self, modality: str) -> nn.Module:
        """The encoder of a modality."""
        return self.core.get_submodule("vision_tower")

    @property
    def has_cls(self) -> bool:
        """Whether token 0 of the encoder is [CLS]; the "default" strategy crops it before the projector."""
        return bool(self.model.config.vision_feature_select_strategy == "default")

    def encoder_layer(self, modality: str) -> nn.Module | None:
        """The encoder layer whose output is projected, or None where it has no attention to read."""
        chosen = self.model.config.vision_feature_layer
        chosen = chosen if isinstance(chosen, int) else chosen[-1]
        encoder = getattr(self.tower(modality), "encoder", None)
        layers: list[nn.Module] = list(getattr(encoder, "layers", None) or getattr(encoder, "layer", None) or [])
        # hidden_states[k] is the output of layer k - 1; hidden_states has one entry more than there are layers
        index = (chosen if chosen >= 0 else len(layers) + 1 + chosen) - 1
        layer: nn.Module | None = layers[index] if 0 <= index < len(layers) else None
        return layer if layer is not None and attention_of(layer) is not None else None

    @property
    def available(self) -> frozenset[str]:
        """Projection space, prompt, encoder features, and the layer's attention where it can be read."""
        signals = {"visual", "text", "encoder"}
        if self.encoder_layer("image") is not None:
            signals |= {"received_attention", "keys"}
            if self.has_cls:
                signals |= {"cls_attention", "encoder_cls"}
        return frozenset(signals)

    @contextmanager
    def watch(self, modality: str, signals: frozenset[str]) -> Iterator[Readings]:
        """Hook one encoder layer and the projector's input."""
        layer = self.encoder_layer(modality)
        with ExitStack() as stack:
            readings: Readings = {}
            attention = None if layer is None else attention_of(layer)
            if signals & ENCODER_SIGNALS and layer is not None and attention is not None:
                config = attention.config
                readings = stack.enter_context(read_layer(layer, attention, config, signals, has_cls=self.has_cls))
            if "encoder" in signals:
                readings["encoder"] = []
                projector = self.core.get_submodule(self.projector)
                hook = projector.register_forward_pre_hook(lambda _, args: readings["encoder"].extend(args[0]))
                stack.callback(hook.remove)
            yield readings

    def blocks(self, modality: str, output: Any, inputs: Mapping[str, Any], readings: Readings) -> list[Block]:
        """One block an image."""
        sizes = [len(tokens) for tokens in output.pooler_output]
        blocks = []
        for i, size in enumerate(sizes):
            grid = self.grid(size)
            signals = {name: values[i] for name, values in readings.items()}
            blocks.append(Block(size, () if grid is None else (grid,), signals=signals))
        return blocks

    def project(self, tokens: Tensor) -> Tensor:
        """Apply the projector."""
        projector: Any = self.core.get_submodule(self.projector)
        dtype = next(projector.parameters()).dtype
        # forward, not __call__: nobody's hooks must take these for a new image
        projected: Tensor = projector.forward(tokens.to(dtype))
        return projected

    @property
    def side(self) -> int:
        """Patches along each side of what the encoder sees."""
        config = self.model.config.vision_config
        size, patch = config.image_size, config.patch_size
        return int(size[0] if isinstance(size, list | tuple) else size) // int(
            patch[0] if isinstance(patch, list | tuple) else patch
        )

    def grid(self, n_tokens: int) -> Grid | None:
        """Square grid of patches."""
        return Grid(self.side, self.side) if self.side**2 == n_tokens else None


class PatchesAlone(LlavaAdapter):
    """An encoder without [CLS] whose last layer is projected (SigLIP as Gemma 3, Idefics3 and SmolVLM use it)."""

    @property
    def has_cls(self) -> bool:
        """There is no [CLS]."""
        return False

    def encoder_layer(self, modality: str) -> nn.Module | None:
        """The last one."""
        layers: Any = self.tower(modality).get_submodule("encoder.layers")
        last: nn.Module = layers[-1]
        return last


def attention_of(layer: nn.Module) -> Any:
    """The attention module of an encoder layer, under whichever name; None if there is none to read."""
    for name in ("self_attn", "attention", "attn"):
        module = getattr(layer, name, None)
        if hasattr(module, "config"):
            return module
    return None
