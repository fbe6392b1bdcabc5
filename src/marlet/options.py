"""What a user may set: dataclass fields that know their meaning, unit and range.

Environments and algorithms are frozen dataclasses. Each field made with `option` carries one clause of help and
the range it must lie in; the command line, the run's record and the error messages are all read from it.
"""

import dataclasses
import math
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from marlet.errors import MarletError, nearest


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] = (),
    recorded: bool = True,
) -> Any:
    """A dataclass field that the user sets: its default, one clause with the unit, and its range (ends included).

    What is not `recorded` is left out of a run's record, and of comparisons.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "recorded": recorded}
    return dataclasses.field(default=default, metadata=metadata, compare=recorded, repr=recorded)


def check_options(holder: Any) -> None:
    """Refuse a value of another type or outside its range. Arrays and traced values pass: what they hold is not known.

    Raises:
        MarletError: naming the option, the value given and the type or range.
    """
    for field in dataclasses.fields(holder):
        value = getattr(holder, field.name)
        if not _is(field.type, value):
            about = field.metadata.get("help")
            raise MarletError(
                f"{type(holder).__name__}: {field.name} is {value!r}, but must be {_called(field.type)}"
                + (f" ({about})." if about else ".")
            )
        for item in value if isinstance(value, tuple) else (value,):
            _check(type(holder).__name__, field, item)


PLAIN = {int: "a whole number", float: "a number", bool: "True or False", str: "text", NoneType: "None"}


def _is(kind: Any, value: Any) -> bool:
    """Whether a value is of an annotated type; whole numbers are numbers, True and False are neither."""
    if hasattr(value, "dtype"):
        return True
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return any(_is(each, value) for each in get_args(kind))
    if origin is tuple:
        kinds = get_args(kind)
        if not isinstance(value, tuple):
            return False
        if kinds[-1] is Ellipsis:
            return all(_is(kinds[0], item) for item in value)
        return len(kinds) == len(value) and all(map(_is, kinds, value))
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is Any or not isinstance(kind, type):
        return True
    return isinstance(value, (int, float) if kind is float else kind)


def _called(kind: Any) -> str:
    """An annotated type in words."""
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_called, get_args(kind)))
    if get_origin(kind) is tuple:
        inside = ", ".join("..." if each is Ellipsis else _called(each) for each in get_args(kind))
        return f"a tuple: ({inside})"
    return PLAIN.get(kind) or f"a {getattr(kind, '__name__', kind)}"


LARGEST = 2**31 - 1
"""Of whole numbers: compiled programs count in 32 bits."""


def _check(owner: str, field: dataclasses.Field, value: Any) -> None:
    low, high, choices = (field.metadata.get(name) for name in ("low", "high", "choices"))
    if high is None and field.type is not float and isinstance(value, int) and value > LARGEST:
        high = LARGEST
    if choices and value not in choices:
        close = nearest(value, choices) if isinstance(value, str) else ""
        raise MarletError(
            f"{owner}: {field.name} is {value!r}, but must be one of {', '.join(map(str, choices))}."
            + (close if "Did you mean" in close else "")
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise MarletError(f"{owner}: {field.name} is {value}, but must be finite ({field.metadata['help']}).")
    if not isinstance(value, (int, float)) or (low is None and high is None):
        return
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = (
            f"from {_number(low)} to {_number(high)}"
            if None not in (low, high)
            else f"at least {_number(low)}"
            if high is None
            else f"at most {_number(high)}"
        )
        raise MarletError(f"{owner}: {field.name} is {value}, but must be {bounds} ({field.metadata['help']}).")


def _number(bound: float) -> str:
    """With all its digits where it is whole."""
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def whole(name: str, value: Any, low: int = 1) -> int:
    """A whole number, be it a float such as 1e6.

    Raises:
        MarletError: for anything else, or less than `low`.
    """
    try:
        number = int(value)
        if isinstance(value, (str, bool)) or number != value:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise MarletError(f"{name} is {value!r}, but must be a whole number.") from None
    if number < low:
        raise MarletError(f"{name} is {number}, but must be at least {low}.")
    return number


def describe(holder: Any) -> dict[str, Any]:
    """An environment, algorithm or part as plain JSON values, for the run's record: its class's name and every option."""
    return {"type": type(holder).__name__} | {
        field.name: _plain(getattr(holder, field.name))
        for field in dataclasses.fields(holder)
        if field.metadata.get("recorded", True)
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return describe(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _who(holder: Any) -> str:
    """What a user calls it: an algorithm's own name, or the class."""
    return getattr(holder, "name", "") or type(holder).__name__


def changed(holder: Any, **options: Any) -> Any:
    """A copy with other options; an unknown name is refused with the nearest real one."""
    known = [field.name for field in dataclasses.fields(holder)]
    for name in options:
        if name not in known:
            raise MarletError(f"{_who(holder)} has no option '{name}'.{nearest(name, known)}")
    return dataclasses.replace(holder, **options)
