"""What a user may set: dataclass fields that know their meaning, unit and range.

Environments and algorithms are frozen dataclasses. Each field made with `option` carries one clause of help and
the range it must lie in; the command line, the run's record and the error messages are all read from it.
"""

import dataclasses
import math
from typing import Any

from marlet.errors import MarletError, nearest


def option(
    default: Any, help: str, *, low: float | None = None, high: float | None = None, choices: tuple[Any, ...] = ()
) -> Any:
    """A dataclass field that the user sets: its default, one clause with the unit, and its range (ends included)."""
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high, "choices": choices})


def check_options(holder: Any) -> None:
    """Refuse a value outside its range. Traced values pass: they are checked where they are concrete.

    Raises:
        MarletError: naming the option, the value given and the range.
    """
    for field in dataclasses.fields(holder):
        value = getattr(holder, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            _check(type(holder).__name__, field, item)


def _check(owner: str, field: dataclasses.Field, value: Any) -> None:
    low, high, choices = (field.metadata.get(name) for name in ("low", "high", "choices"))
    if choices and value not in choices:
        raise MarletError(
            f"{owner}: {field.name} is {value!r}, but must be one of {', '.join(map(str, choices))}."
            + (nearest(value, choices) if isinstance(value, str) else "")
        )
    if not isinstance(value, (int, float)) or (low is None and high is None):
        return
    if math.isnan(value) or (low is not None and value < low) or (high is not None and value > high):
        bounds = (
            f"from {low} to {high}"
            if None not in (low, high)
            else f"at least {low}"
            if high is None
            else f"at most {high}"
        )
        raise MarletError(f"{owner}: {field.name} is {value}, but must be {bounds} ({field.metadata['help']}).")


def describe(holder: Any) -> dict[str, Any]:
    """An environment, algorithm or part as plain JSON values, for the run's record: its class's name and every option."""
    return {"type": type(holder).__name__} | {
        field.name: _plain(getattr(holder, field.name)) for field in dataclasses.fields(holder)
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return describe(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def changed(holder: Any, **options: Any) -> Any:
    """A copy with other options; an unknown name is refused with the nearest real one."""
    known = [field.name for field in dataclasses.fields(holder)]
    for name in options:
        if name not in known:
            raise MarletError(f"{type(holder).__name__} has no option '{name}'.{nearest(name, known)}")
    return dataclasses.replace(holder, **options)
