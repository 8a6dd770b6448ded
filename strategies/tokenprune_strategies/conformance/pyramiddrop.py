"""Replay of PyramidDrop's vectors: the recorded decoder runs again, pruned by the same hooks as any model."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.core.layer_kinds import LayerContext
from tokenprune.core.schedule import LayerSchedule
from tokenprune.hf.adapters.encoder_attention import attention_rows
from tokenprune.hf.layer_signals import layer_signals
from tokenprune.hf.layerwise import LayerHooks
from tokenprune.hf.look_ahead import Ahead, look_ahead
from tokenprune.hf.patching import cache_argument
from tokenprune.hf.segments import Entered, places_in
from tokenprune.hf.splice import Layout, Span, splice
from tokenprune.testing.conformance import Case, Replayed
from tokenprune_strategies.conformance._sequence import spliced
from tokenprune_strategies.pyramiddrop import pyramiddrop


def replay(case: Case) -> dict[str, Tensor | Replayed]:
    """A whole forward pass with one decoding step, or a single event on a padded batch."""
    schedule = pyramiddrop(layers=tuple(case.hyper["layer_list"]), ratios=tuple(case.hyper["ratios"]))
    with torch.no_grad():
        return _forward(case, schedule) if case.hyper["kind"] == "forward" else _stage(case, schedule)


def _decoder(case: Case) -> Any:
    """A Llama of the recorded size and weights; the final norm's weight is 1."""
    from transformers import LlamaConfig, LlamaModel

    hyper = case.hyper
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=hyper["d"],
        intermediate_size=hyper["intermediate"],
        num_hidden_layers=hyper["n_layers"],
        num_attention_heads=hyper["H"],
        rms_norm_eps=hyper["rms_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": hyper["rope_theta"]},
        max_position_embeddings=4096,
    )
    config._attn_implementation = "sdpa"
    model = LlamaModel(config).eval()
    start = "weight."
    weights = {name.removeprefix(start): value for name, value in case.inputs.items() if name.startswith(start)}
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert set(missing) <= {"embed_tokens.weight", "norm.weight"}, missing
    return model


def _forward(case: Case, schedule: LayerSchedule) -> dict[str, Tensor | Replayed]:
    hyper, embeds = case.hyper, case.inputs["inputs_embeds"][None]
    (start,), (n,), length = hyper["image_token_posi"], hyper["image_tokens"], embeds.shape[1]
    model = _decoder(case)
    place = torch.arange(length)
    mask = torch.ones(1, length, dtype=torch.bool)
    visual = (place >= start) & (place < start + n)
    layout = Layout(mask, ~visual[None], (Span(0, place[visual]),))
    entered = Entered(
        layout=layout,
        embeds=embeds,
        positions=place[None],
        keep=(int(n * hyper["ratios"][-1]),),
        signals=tp.Features(embeds[:, visual]),
        owner=(0,),
        distinct=(0,),
        origin=(torch.arange(n),),
    )
    hooks = LayerHooks(schedule, SimpleNamespace(language_model=model))  # type: ignore[arg-type]
    outputs: list[Tensor] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _m, _a, out: outputs.append(out[0] if isinstance(out, tuple) else out))
    with hooks.attached():
        hooks.begin(entered)
        out = model(inputs_embeds=embeds, attention_mask=None, position_ids=place[None], use_cache=True)
        outcome = hooks.finish()
        assert outcome is not None
        assert hooks.forward is not None
        segments = hooks.forward.segments
        found: dict[str, Tensor | Replayed] = {"last_hidden": Replayed(out.last_hidden_state[0], rounded=True)}
        positions, origin = place, torch.arange(n)
        for e, (stage, end, after) in enumerate(zip(outcome.stages, hyper["layer_list"], segments[1:], strict=True)):
            hidden, kept = outputs[end - 1], stage.selection.indices[0]
            at = torch.arange(hidden.shape[1])
            rotary = model.rotary_emb(hidden, position_ids=positions[None])
            ahead = look_ahead(model.config, model.layers[end], hidden, {"position_embeddings": rotary})
            origin, positions = origin[kept], after.positions[0]
            assert stage.selection.scores is not None
            found |= {
                f"hidden_{e}": Replayed(hidden[0], rounded=True),
                f"attn_row_{e}": _row(ahead, 0, hidden.shape[1]),
                f"scores_{e}": stage.selection.scores[0],
                f"topk_order_{e}": stage.selection.order[0],
                f"kept_{e}": kept,
                f"kept_visual_{e}": origin,
                f"keep_positions_{e}": spliced(at, start, stage.selection.n_visual, at[start + kept]),
                f"position_ids_{e}": positions,
            }
        hooks.resume(0)
        seen: list[int] = []
        for layer in model.layers:
            layer.register_forward_pre_hook(lambda _m, _a, kw: seen.append(int(kw["position_ids"])), with_kwargs=True)
        cache = out.past_key_values
        lengths = [cache.get_seq_length(layer) for layer in range(hyper["n_layers"])]
        model(inputs_embeds=embeds[:, :1], position_ids=torch.tensor([[length]]), **{cache_argument(model): cache})
    found["cache_len_per_layer"] = torch.tensor(lengths)
    found["decode_position_per_layer"] = torch.tensor(seen)
    return found


def _row(ahead: Ahead, sample: int, length: int) -> Tensor:
    """Attention of the token before place ``length`` over what comes up to it, per head."""
    query, key = ahead.query[sample : sample + 1, :, length - 1 : length], ahead.key[sample : sample + 1, :, :length]
    return attention_rows(query, key, ahead.scaling)[0, :, 0]


def _stage(case: Case, schedule: LayerSchedule) -> dict[str, Tensor | Replayed]:
    hyper, hidden = case.hyper, case.inputs["features"]
    mask = case.inputs["attention_mask"].bool()
    model, stage = _decoder(case), hyper["stage"]
    layer, event = schedule.placed(hyper["n_layers"])[stage]
    place = torch.arange(hidden.shape[1])
    visual = [
        (place >= start) & (place < start + present)
        for start, present in zip(hyper["image_token_posi"], hyper["present"], strict=True)
    ]
    rows = [row for row, here in enumerate(visual) if bool(here.any())]
    spans = tuple(Span(row, place[visual[row]]) for row in rows)
    layout = Layout(mask, mask & ~torch.stack(visual), spans)
    rotary = model.rotary_emb(hidden, position_ids=place[None])
    ahead = look_ahead(model.config, model.layers[layer + 1], hidden, {"position_embeddings": rotary})
    places = places_in(layout)
    signals: dict[str, Any] = layer_signals(places, mask, event, *ahead)
    features = tp.Features(places.of(hidden, places.visual), visual_mask=places.visual >= 0, **signals)
    entered = tuple(hyper["image_tokens"][row] for row in rows)
    keep = tuple(int(n * hyper["ratios"][-1]) for n in entered)
    layers = tuple(end - 1 for end in hyper["layer_list"])
    context = LayerContext(keep, entered, tuple(hyper["present"][row] for row in rows), hyper["n_layers"], layers)
    selection, _ = event.decide(features, replace(context, layer=layer))
    assert selection.scores is not None
    plan = splice(layout, [row[row >= 0] for row in selection.sequence])
    after = plan.tokens(hidden).masked_fill(~plan.mask.unsqueeze(-1), 0)
    positions = plan.positions(place.expand_as(mask), schedule.positions).masked_fill(~plan.mask, 0)
    found: dict[str, Tensor | Replayed] = {
        "hidden_out": after,
        "attention_mask": plan.mask.long(),
        "position_ids": positions,
    }
    for row, size in enumerate(mask.sum(1).tolist()):
        whole = _row(ahead, row, size)
        found[f"attn_row_{row}"] = torch.nn.functional.pad(whole, (0, hidden.shape[1] - size))
    for unit, row in enumerate(rows):
        kept = selection.row(unit)
        found |= {
            f"scores_{row}": selection.scores[unit, : hyper["present"][row]],
            f"kept_visual_{row}": torch.tensor(kept),
            f"topk_order_{row}": selection.order[unit, : len(kept)],
        }
    return found
