"""HiPrune, whole."""

from __future__ import annotations

from torch import Tensor

from tokenprune.core.reference import reading


@reading(object_attention="mean_attention@9/24", deep_attention="mean_attention")
def hiprune(
    object_attention: Tensor,
    deep_attention: Tensor,
    places: Tensor,
    keep: int,
    *,
    alpha: float = 0.1,
    faithful: bool = False,
) -> Tensor:
    """Anchors of a middle layer, their neighbours, the best of the last layer: (N,), (N,), (N, 3) -> (K,)."""
    n = len(places)
    anchors = object_attention.argsort(descending=True, stable=True)[: round(keep * alpha / 5)].tolist()
    width = int(places[:, 2].max()) + 1
    near: set[int] = set()
    for anchor in anchors:
        if faithful:  # by position in the raster, whatever the rows
            near |= {min(max(anchor + step, 0), n - 1) for step in (0, 1, -1, width, -width)}
            continue
        frame, row, column = places[anchor].tolist()
        for i, (f, r, c) in enumerate(places.tolist()):
            if f == frame and abs(r - row) + abs(c - column) <= 1:
                near.add(i)
    ranked = deep_attention.argsort(descending=True, stable=True).tolist()
    buffers = [i for i in ranked if i in near and i not in anchors]
    registers = [i for i in ranked if i not in near]
    return places.new_tensor((anchors + buffers + registers)[:keep])
