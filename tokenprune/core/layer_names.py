"""Names of layers in names of signals: ``keys@-1``, ``received_attention@8``, ``mean_attention@9/24``.

Layers are those of the vision encoder, numbered from 0; negative numbers count from the end. ``k/n`` is the k-th of n
layers (counted from 1, as papers do), moved to the same share of the depth where an encoder has another number of them.
"""

from __future__ import annotations

import re

from tokenprune.core.errors import UnknownNameError, UnsupportedError

__all__ = ["at_layer", "layer_index", "split_layer"]

_SHARE = re.compile(r"(\d+)/(\d+)")


def split_layer(name: str) -> tuple[str, str | None]:
    """Take a name apart: ``"keys@-1"`` -> ``("keys", "-1")``, ``"keys"`` -> ``("keys", None)``.

    Raises
    ------
    UnknownNameError
        What stands behind ``@`` is no layer.
    """
    base, at, layer = name.partition("@")
    if not at:
        return base, None
    share = _SHARE.fullmatch(layer)
    if not re.fullmatch(r"-?\d+", layer) and not (share and 1 <= int(share[1]) <= int(share[2])):
        raise UnknownNameError(
            f"signal {name!r}: {layer!r} is no layer of the encoder: a number (0 is the first, -1 the last), or "
            "k/n for the k-th of n layers"
        )
    return base, layer


def at_layer(base: str, layer: int | str | None) -> str:
    """Put a name together; None leaves the layer to the model (that whose output is projected)."""
    name = base if layer is None else f"{base}@{layer}"
    split_layer(name)
    return name


def layer_index(layer: str, depth: int) -> int:
    """Number of a layer, from 0, in an encoder of ``depth`` layers.

    Raises
    ------
    UnsupportedError
        It has no such layer.
    """
    if share := _SHARE.fullmatch(layer):
        return min(max(round(int(share[1]) * depth / int(share[2])), 1), depth) - 1
    index = int(layer) + (depth if layer.startswith("-") else 0)
    if not 0 <= index < depth:
        raise UnsupportedError(f"there is no layer {layer} in an encoder of {depth} layers: give -{depth}..{depth - 1}")
    return index
