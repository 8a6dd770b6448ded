"""HTML from templates, in which whatever is put is escaped; pages that need no other file."""

from __future__ import annotations

import base64
import io
import json
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

__all__ = ["asset", "drawn", "embedded", "render", "script_data", "share"]


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("tokenprune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> str:
    """Fill a template.

    Parameters
    ----------
    template : str
        A file of ``report/templates``.
    **values
        Text is escaped; what :func:`drawn` or :func:`share` made is not.
    """
    return _environment().get_template(template).render(**values)


def drawn(svg: str) -> Markup:
    """A drawing of ours, whose own words are escaped already, for a template."""
    return Markup(svg)


def share(value: float, low: float, high: float) -> Markup:
    """A share with its interval, for a table's cell; without it where it is but the value (a single image)."""
    if low < high:
        return Markup("{} <span class=faint>[{}, {}]</span>").format(f"{value:.1%}", f"{low:.0%}", f"{high:.0%}")
    return Markup(f"{value:.1%}")


def asset(name: str, folder: str = "assets") -> str:
    """A stylesheet or script of ours, by its name in a folder of ``report``."""
    place = resources.files("tokenprune.report").joinpath(*folder.split("/"), name)
    return place.read_text(encoding="utf-8")


def script_data(data: Any) -> str:
    """JSON that may stand inside a ``<script>`` element: no text in it can end that."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def embedded(image: Image.Image, kind: str = "PNG") -> str:
    """A picture as the address of itself."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
