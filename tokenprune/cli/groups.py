"""Options that several commands share: written once, as fields of a dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_args, get_origin, get_type_hints

__all__ = ["Without", "grouped"]


class Without:
    """Fields of a group that a command does not offer: ``Annotated[Group, Without("frames")]``; they keep defaults.

    Parameters
    ----------
    *names : str
        Of the fields.
    """

    def __init__(self, *names: str) -> None:
        self.names = frozenset(names)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Offer the fields of a command's groups as its own options, where the group stands in its signature.

    Parameters
    ----------
    command : callable
        Takes groups as keyword-only parameters without a default. A group is a dataclass whose fields all have one and
        are annotated as options are; ``Annotated[Group, Without(...)]`` leaves some out.

    Returns
    -------
    callable
        Takes the fields by name in place of the group, and has the signature that says so.

    Raises
    ------
    TypeError
        A command has two options of one name, or leaves out a field that its group does not have.
    """
    hints = get_type_hints(command, include_extras=True)
    offered: list[inspect.Parameter] = []
    groups: dict[str, tuple[type, list[str]]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        group, without = _group(hints[name])
        if group is None:
            offered.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        known = {field.name: field.default for field in fields(group)}
        if unknown := without.names - known.keys():
            raise TypeError(f"{command.__name__}: {group.__name__} has no {min(unknown)!r} to leave out")
        types = get_type_hints(group, include_extras=True)
        groups[name] = group, [field for field in known if field not in without.names]
        offered += [
            inspect.Parameter(field, inspect.Parameter.KEYWORD_ONLY, default=known[field], annotation=types[field])
            for field in groups[name][1]
        ]

    @wraps(command)
    def called(**options: Any) -> None:
        made = {
            name: group(**{field: options.pop(field) for field in shown if field in options})
            for name, (group, shown) in groups.items()
        }
        command(**options, **made)

    try:
        called.__signature__ = inspect.Signature(offered)  # type: ignore[attr-defined]
    except ValueError as error:
        raise TypeError(f"{command.__name__}: {error}") from None
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in offered}
    return called


def _group(hint: Any) -> tuple[type | None, Without]:
    """The dataclass that an annotation names, and what is left out of it."""
    about: list[Any] = []
    if get_origin(hint) is Annotated:
        hint, *about = get_args(hint)
    left_out = [one for one in about if isinstance(one, Without)]
    return hint if isinstance(hint, type) and is_dataclass(hint) else None, left_out[0] if left_out else Without()
