"""LLaVA-1.5: CLIP-like encoder, two-layer projector, decoder; one block of tokens an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from tokenprune.core.errors import UnsupportedError
from tokenprune.core.features import Grid, signal_of
from tokenprune.hf.adapters.base import Block, ModelAdapter, dtype_of
from tokenprune.hf.adapters.encoder_attention import CLS_SIGNALS, ENCODER_SIGNALS, Readings, read_layer
from tokenprune.hf.adapters.encoder_stage import EncoderHooks
from tokenprune.hf.adapters.pooling import pooling_head, read_pooling

__all__ = ["LlavaAdapter", "PatchesAlone"]


class LlavaAdapter(ModelAdapter):
    """``LlavaForConditionalGeneration``, and what its relatives have in common with it.

    Encoder signals come from the layer whose output the projector reads (``vision_feature_layer``, the last-but-one in
    LLaVA-1.5; the last of them where there are several). An encoder without [CLS] (SigLIP) has no ``cls_attention``.
    """

    projector = "multi_modal_projector"
    one_token_a_patch = True
    """Whether each patch is a token of its own, so that patches may be dropped inside the encoder."""

    def tower(self, modality: str) -> nn.Module:
        """The encoder of a modality."""
        return self.core.get_submodule("vision_tower")

    @property
    def has_cls(self) -> bool:
        """Whether token 0 of the encoder is [CLS]; the "default" strategy crops it before the projector."""
        return bool(self.model.config.vision_feature_select_strategy == "default")

    def encoder_layer(self, modality: str) -> nn.Module | None:
        """The encoder layer whose output is projected, or None where it has no attention to read."""
        layers, index = self.encoder_layers(modality), self.projected_layer(modality)
        return layers[index] if 0 <= index < len(layers) else None

    def encoder_layers(self, modality: str) -> list[nn.Module]:
        """All of them, where their attention can be read."""
        encoder = getattr(self.tower(modality), "encoder", None)
        layers: list[nn.Module] = list(getattr(encoder, "layers", None) or getattr(encoder, "layer", None) or [])
        return layers if all(attention_of(layer) is not None for layer in layers) else []

    def projected_layer(self, modality: str) -> int:
        """Number of the layer whose output is projected; -1 where that is what enters the first."""
        chosen = self.model.config.vision_feature_layer
        chosen = chosen if isinstance(chosen, int) else chosen[-1]
        # hidden_states[k] is the output of layer k - 1; hidden_states has one entry more than there are layers
        return int(chosen if chosen >= 0 else len(self.encoder_layers(modality)) + 1 + chosen) - 1

    @property
    def available(self) -> frozenset[str]:
        """Projection space, prompt, encoder features, and the layer's attention where it can be read."""
        signals = {"visual", "text", "encoder"}
        if self.encoder_layer("image") is not None:
            signals |= {"received_attention", "keys"}
            if self.has_cls:
                signals |= {"cls_attention", "encoder_cls"}
        return frozenset(signals)

    @property
    def on_demand(self) -> frozenset[str]:
        """What an encoder layer's attention sees, its output, and the pooling head's attention where there is one."""
        layered = (
            {name for name in ENCODER_SIGNALS if signal_of(name).layered} if self.encoder_layers("image") else set()
        )
        pooling = {"pooling_attention"} if pooling_head(self.tower("image")) is not None else set()
        survivors = {"survivors"} if layered and self._thinnable else set()
        return frozenset(layered | pooling | survivors) - (frozenset() if self.has_cls else CLS_SIGNALS)

    @property
    def _thinnable(self) -> bool:
        """Whether patches may go inside the encoder: one layer is projected, patch by patch, and there is a [CLS]."""
        if not (self.one_token_a_patch and self.has_cls):
            return False
        return (
            isinstance(getattr(self.model.config, "vision_feature_layer", None), int)
            and self.projected_layer("image") > 0
        )

    @contextmanager
    def thinned(self, modality: str, stage: EncoderHooks | None) -> Iterator[None]:
        """Hook the layers up to the one whose output is projected, and the projector."""
        if stage is None:
            yield
            return
        if "survivors" not in self.on_demand or modality != "image":
            raise UnsupportedError(f"{type(self.model).__name__} cannot drop patches of {modality}s inside the encoder")
        projector = self.core.get_submodule(self.projector)
        whole = projector.register_forward_pre_hook(lambda _, args: (stage.whole_again(args[0]), *args[1:]))
        try:
            with stage.attached(self.encoder_layers(modality), self.projected_layer(modality), attention_of):
                yield
        finally:
            whole.remove()

    @contextmanager
    def watch(self, modality: str, signals: frozenset[str]) -> Iterator[Readings]:
        """Hook the encoder layers that signals come from, and the projector's input."""
        layers = self.encoder_layers(modality)
        with ExitStack() as stack:
            readings: Readings = {}
            for number, names in self.by_layer(modality, signals, self.projected_layer(modality)).items():
                if 0 <= number < len(layers):
                    attention = attention_of(layers[number])
                    reader = read_layer(layers[number], attention, attention.config, names, has_cls=self.has_cls)
                    readings |= stack.enter_context(reader)
            if "pooling_attention" in signals and (head := pooling_head(self.tower(modality))) is not None:
                readings["pooling_attention"] = stack.enter_context(read_pooling(head))
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
        dtype = dtype_of(projector, self.model.dtype)
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

    one_token_a_patch = False

    @property
    def has_cls(self) -> bool:
        """There is no [CLS]."""
        return False

    def projected_layer(self, modality: str) -> int:
        """The last one."""
        return len(self.encoder_layers(modality)) - 1


def attention_of(layer: nn.Module) -> Any:
    """The attention module of an encoder layer, under whichever name; None if there is none to read."""
    for name in ("self_attn", "attention", "attn"):
        module = getattr(layer, name, None)
        if hasattr(module, "config"):
            return module
    return None
