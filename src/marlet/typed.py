"""From what a user typed, or a file holds, to values of the types that options are annotated with."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from marlet.errors import MarletError, nearest
from marlet.sources import Option, literal, snake


def fitted(owner: str, option: Option, name: str, value: Any) -> Any:
    """A value, or the text of one, as the type of `option`.

    Raises:
        MarletError: naming the option, the value and what was expected.
    """
    if option.parts and dataclasses.is_dataclass(value):
        return value
    if option.parts:
        return named(name, part_name(value), {part: part for part in option.parts})
    kind = option.type
    given = value
    if isinstance(value, str) and not kind.startswith("str"):
        value = literal(f"({value},)" if kind.startswith("tuple") and value[:1] not in ("(", "[") else value)
    try:
        return _as(kind, value)
    except (TypeError, ValueError):
        expected = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
        if kind.startswith("tuple[tuple["):
            wanted = "groups of numbers, such as [[0,0],[4,4]]"
        else:
            wanted = expected.get(kind, "numbers parted by commas" if "int" in kind or "float" in kind else f"a {kind}")
        raise MarletError(f"{owner}: {name} is {given!r}, but must be {wanted} ({option.help}).") from None


def part_name(value: Any) -> str:
    """A part by its name, or the name of a part that is made."""
    return snake(value if isinstance(value, str) else type(value).__name__)


def _as(kind: str, value: Any) -> Any:
    """A value as the annotated type.

    Raises:
        ValueError: where it is not of that type.
    """
    if kind.endswith("| None"):
        return None if value is None else _as(kind.removesuffix("| None").strip(), value)
    if kind == "Any":
        return tuples(value)
    if kind.startswith("tuple"):
        if not isinstance(value, tuple | list):
            raise ValueError(value)
        item, repeated, _ = kind.removeprefix("tuple[").rpartition(", ...]")
        if not repeated:
            items = _split(kind.removeprefix("tuple[").removesuffix("]"))
            return tuple(_as(each, part) for each, part in zip(items, value, strict=True))
        return tuple(_as(item, part) for part in value)
    if kind == "bool":
        if not isinstance(value, bool):
            raise ValueError(value)
        return value
    if kind == "str":
        if not isinstance(value, str):
            raise ValueError(value)
        return value
    if kind not in ("int", "float"):
        raise ValueError(kind)
    if isinstance(value, bool | str) or math.isnan(value):
        raise ValueError(value)
    if kind == "int" and (math.isinf(value) or value != int(value)):
        raise ValueError(value)
    return int(value) if kind == "int" else float(value)


def _split(items: str) -> list[str]:
    """The types of a tuple's parts: those commas that are in no bracket."""
    return [part.strip() for part in re.split(r",(?![^\[]*\])", items)]


def tuples(value: Any) -> Any:
    """Lists as tuples, however deep."""
    return tuple(map(tuples, value)) if isinstance(value, tuple | list) else value


def loose(value: Any) -> Any:
    """An option of a foreign environment, whose type nobody has told."""
    return literal(value) if isinstance(value, str) else value


def named(what: str, name: str, known: Mapping[str, Any]) -> Any:
    """What is known by this name.

    Raises:
        MarletError: for an unknown one, with the nearest that is known.
    """
    if name in known:
        return known[name]
    raise MarletError(f"There is no {what} '{name}'.{nearest(name, known)}")
