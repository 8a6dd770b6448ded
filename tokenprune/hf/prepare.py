"""``prepare``: shorter inputs as a pure function; touches nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenprune.components.speaking import Speaking
from tokenprune.core.budget import Budget, Keep, Unit
from tokenprune.core.errors import NestedAttachError, UnsupportedError
from tokenprune.core.schedule import LayerSchedule
from tokenprune.core.strategy import AnyStrategy, Positions
from tokenprune.hf.batch import read_batch
from tokenprune.hf.collect import collect, embedded
from tokenprune.hf.decision import decide
from tokenprune.hf.encoded import (
    PRUNED,
    Encoded,
    deepstack_of,
    observed,
    packed,
    pixels_in,
    takes_encoded,
    without_vision,
)
from tokenprune.hf.patching import attached, cache_in
from tokenprune.hf.prompt_text import Text
from tokenprune.hf.request import Request
from tokenprune.hf.rows import check_one_sample_a_row, real_tokens
from tokenprune.hf.sources import Extra
from tokenprune.hf.splice import splice
from tokenprune.hf.words import Words, silent_words, speaking_of

__all__ = ["prepare"]


def prepare(
    model: Any,
    strategy: AnyStrategy | str | Mapping[str, Any],
    keep: Keep | Budget,
    *,
    unit: Unit | None = None,
    positions: Positions | None = None,
    text: Text | None = None,
    processor: Any = None,
    encoded: Encoded | None = None,
    extra: Extra | None = None,
    words: Words | None = None,
    **inputs: Any,
) -> dict[str, Any]:
    """Return shorter inputs for ``model(**inputs)`` or ``model.generate(**inputs)``; touches nothing.

    Placeholders of dropped tokens are gone from ``input_ids``, and ``mm_encoder_outputs`` holds the image features
    that were kept, so lengths, caches, compilation and further turns are consistent by construction. ``generate``
    returns sequences that start with the shortened prompt: cut them at ``inputs["input_ids"].shape[1]``.

    Parameters
    ----------
    model, strategy, keep, unit, positions, text, processor, encoded, extra
        As in :func:`attach`.
    words : float or mapping or Speaking, optional
        Words of the question that stay, too: the share that says most about where in the picture to look, or the part
        ``speaking`` that says which (``{"name": "speaking", "share": 0.5, "by": "norm"}``). All of them by default.
    **inputs
        What the processor returned: ``input_ids``, ``pixel_values``, ``attention_mask`` ...

    Returns
    -------
    dict
        The inputs, shortened; without ``pixel_values``. Where position ids keep their gaps it holds
        ``use_cache=True``: without a cache ``generate`` would drop the all-ones mask and transformers would take the
        gaps for packed sequences, so ``generate(**inputs, use_cache=False)`` fails loudly instead.

    Raises
    ------
    UnsupportedError
        Besides what :func:`attach` raises: the installed transformers does not take ``mm_encoder_outputs`` (before
        5.18), or inputs are missing.
    """
    request = Request.of(model, strategy, keep, unit, positions, text, processor, extra)
    adapter = request.adapter
    speaking = None if words is None else speaking_of(words, request)
    if attached(adapter):
        raise NestedAttachError("this model is attached, and would prune again what prepare shortens: leave the block")
    if isinstance(request.strategy, LayerSchedule):
        raise UnsupportedError(
            f"strategy {request.strategy.name!r} acts between the language model's layers, which shorter inputs cannot "
            "express: use attach"
        )
    if not takes_encoded(adapter.model):
        raise UnsupportedError("prepare needs transformers >= 5.18 (forward with mm_encoder_outputs); use attach")
    if request.positions == "keep" and not adapter.multi_axis:
        if inputs.get("use_cache") is False:
            raise UnsupportedError("prepare with use_cache=False needs positions='compact'; or use attach")
        inputs["use_cache"] = True
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor) or (not pixels_in(inputs) and encoded is None):
        raise UnsupportedError("prepare needs input_ids and pixel_values (or pixel_values_videos) from the processor")
    if (cache := cache_in(inputs)) is not None and int(cache.get_seq_length()) > 0:
        raise UnsupportedError(
            "prepare shortens one turn: give it the new turn alone and pass the cache to generate yourself"
        )
    if encoded is None:
        with torch.no_grad():
            encoded = observed(adapter, request.signals, inputs, request.stage)
    with torch.no_grad():
        return {**without_vision(adapter, inputs), **_shortened(request, inputs, ids, encoded, speaking)}


def _shortened(
    request: Request, inputs: Mapping[str, Any], ids: Tensor, encoded: Encoded, speaking: Speaking | None
) -> dict[str, Any]:
    adapter = request.adapter
    mask = real_tokens(ids, inputs.get("attention_mask"))
    if (places := inputs.get("position_ids")) is not None:
        check_one_sample_a_row(places, mask)
    embeds = embedded(adapter, ids, encoded)
    batch = read_batch(request, ids, mask, encoded.seen)
    features = collect(request, ids, embeds, batch, encoded.seen)
    decision = decide(request, features).spread(batch.owner)
    silent = None if speaking is None else silent_words(speaking, features, batch)
    plan = splice(batch.layout, decision.kept, silent)
    outside = inputs.get("position_ids")
    if outside is None:
        outside = adapter.position_ids(inputs, mask)
    pad = getattr(adapter.model.config.get_text_config(), "pad_token_id", None) or 0
    new_ids = ids.gather(1, plan.index).masked_fill(~plan.mask, pad)
    new_embeds = decision.embeddings(plan, embeds, batch.layout)
    shorter = {}
    for modality, output in encoded.outputs.items():
        here = adapter.image_mask(ids, modality)
        there = adapter.image_mask(new_ids, modality) & plan.mask
        deepstack = [plan.scattered(here, layer)[there] for layer in deepstack_of(output)]
        sizes = [n for n in there.sum(1).tolist() if n]
        shorter[modality] = packed(output, sizes, new_embeds[there], deepstack)
        vars(shorter[modality])[PRUNED] = True
    return {
        # what else runs over the sequence: token types, labels
        **{
            name: plan.tokens(value).masked_fill(~plan.mask, -100 if name == "labels" else 0)
            for name, value in inputs.items()
            if isinstance(value, Tensor) and value.shape == ids.shape and not value.is_floating_point()
        },
        "input_ids": new_ids,
        "attention_mask": plan.mask.to(torch.long),
        "position_ids": plan.positions(outside, request.positions),
        "mm_encoder_outputs": shorter,
    }
