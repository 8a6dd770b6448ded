"""Replay of FlowCut's vectors: the recorded encoder runs again, shortened by the same hooks as any encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokenprune.components.flow import InformationFlow, value_norms, value_relevance
from tokenprune.core.encoder_kinds import EncoderView
from tokenprune.hf.adapters.encoder_stage import EncoderHooks
from tokenprune.testing.conformance import Case, Replayed
from tokenprune_strategies.flowcut import flowcut


@dataclass(frozen=True)
class _Noted(InformationFlow):
    """The same, which notes what it sees."""

    noted: dict[str, Tensor] = field(default_factory=dict)
    scores: dict[int, Tensor] = field(default_factory=dict)

    def score(self, view: EncoderView, before: Tensor | None) -> Tensor:
        self.noted[f"cls_attn_{view.layer}"] = view.attention.mean(1)
        self.noted[f"semantic_{view.layer}"] = value_relevance(view.values, view.valid)
        self.noted[f"value_l1_{view.layer}"] = value_norms(view.values)
        self.scores[view.layer] = super().score(view, before)
        return self.scores[view.layer]


def replay(case: Case) -> dict[str, Tensor | Replayed]:
    """Run the encoder; its last layer but one is the one whose output is projected."""
    hyper, embeds = case.hyper, case.inputs["inputs_embeds"]
    stage = flowcut(faithful=True).stage
    assert isinstance(stage, InformationFlow)
    noted = _Noted(stage.over)
    encoder, last = _encoder(case), hyper["n_layers"] - 2
    outputs: list[Tensor] = []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda _m, _a, out: outputs.append(out[0] if isinstance(out, tuple) else out))
    hooks = EncoderHooks(noted, lambda sizes: tuple(min(hyper["target_num"], size) for size in sizes))
    with torch.no_grad(), hooks.attached(encoder.layers, last, lambda layer: layer.self_attn):
        encoder(inputs_embeds=embeds)
    assert hooks.kept is not None
    left = [hyper["N"]] * hyper["n_layers"]
    found: dict[str, Tensor | Replayed] = {**noted.noted}
    gone = []
    for event, (layer, kept) in enumerate(hooks.history):
        if layer < last - 1:
            gone.append(left[layer] - kept.shape[1])
        left[layer:] = [kept.shape[1]] * (len(left) - layer)
        found |= {f"kept_patch_{event}": kept, f"cumulative_{event}": noted.scores[layer]}
    return {
        **found,
        "patches_after_layer": torch.tensor(left),
        "event_layers": torch.tensor([layer for layer, _ in hooks.history], dtype=torch.int64),
        "pruned_adaptive": torch.tensor(gone, dtype=torch.int64),
        "kept_idx": hooks.kept,
        "tokens": Replayed(outputs[last][:, 1:], rounded=True),
    }


def _encoder(case: Case) -> Any:
    """A CLIP encoder of the recorded size and weights."""
    from transformers import CLIPVisionConfig
    from transformers.models.clip.modeling_clip import CLIPEncoder

    hyper = case.hyper
    config = CLIPVisionConfig(
        hidden_size=hyper["d"],
        intermediate_size=hyper["intermediate"],
        num_hidden_layers=hyper["n_layers"],
        num_attention_heads=hyper["H"],
        layer_norm_eps=hyper["layer_norm_eps"],
        hidden_act=hyper["act"],
    )
    config._attn_implementation = "sdpa"
    encoder = CLIPEncoder(config).eval()
    start = "weight."
    encoder.load_state_dict(
        {name.removeprefix(start): value for name, value in case.inputs.items() if name.startswith(start)}
    )
    return encoder
