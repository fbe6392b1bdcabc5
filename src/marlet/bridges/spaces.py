"""Reads what a Gymnasium space holds as a row of features, and turns a row of actions into what it holds."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float, Int

from marlet.errors import MarletError

FLOAT32 = np.dtype(np.float32)


class Odd(Exception):
    """A value that is not what its space promised; the catcher knows whose it is."""


@dataclass(frozen=True)
class Numbers:
    """Reads an array of numbers of one shape."""

    shape: tuple[int, ...]
    divisor: float = 1.0

    @cached_property
    def size(self) -> int:
        return math.prod(self.shape)

    def read(self, value: Any, row: Float[np.ndarray, " d"]) -> None:
        array = np.asarray(value)
        if array.shape != self.shape:
            raise Odd(f"has shape {array.shape}, but {self.shape} was declared")
        kind = array.dtype.char
        if kind == "f":
            row[:] = array.reshape(-1)
        elif array.dtype.kind not in "biuf":
            raise Odd(f"holds values of type {array.dtype}, not numbers")
        else:
            with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which the caller refuses
                row[:] = array.reshape(-1)
        if self.divisor != 1.0:
            row /= self.divisor


@dataclass(frozen=True)
class OneHot:
    """Reads one of `size` choices as a one among zeros."""

    size: int
    start: int = 0

    def read(self, value: Any, row: Float[np.ndarray, " d"]) -> None:
        choice = number(value) - self.start
        if not (0 <= choice < self.size and choice == int(choice)):
            raise Odd(f"is {value}, but the choices go from {self.start} to {self.start + self.size - 1}")
        row[:] = 0
        row[int(choice)] = 1


@dataclass(frozen=True)
class Joined:
    """Reads the parts of a tuple or dictionary one after the other."""

    parts: tuple[tuple[Any, Any], ...]
    """Key and reader of each."""

    @cached_property
    def size(self) -> int:
        return sum(reader.size for _, reader in self.parts)

    def read(self, value: Any, row: Float[np.ndarray, " d"]) -> None:
        at = 0
        for key, reader in self.parts:
            try:
                part = value[key]
            except (KeyError, IndexError, TypeError):
                raise Odd(f"has no part {key!r}") from None
            reader.read(part, row[at : at + reader.size])
            at += reader.size


Reader = Numbers | OneHot | Joined


@dataclass(frozen=True)
class Rows:
    """Reads what all agents see, one row an agent, padded with zeros."""

    readers: tuple[Reader, ...]

    @cached_property
    def vectors(self) -> tuple[int, ...] | None:
        """The shape of every agent's observation, where all are vectors of one length that are passed on as they are."""
        first = self.readers[0]
        if not isinstance(first, Numbers) or len(first.shape) != 1 or first.divisor != 1.0:
            return None
        return first.shape if all(reader == first for reader in self.readers) else None

    def read(self, values: list[Any], table: Float[np.ndarray, "n d"]) -> None:
        vectors = self.vectors
        if vectors and all([type(v) is np.ndarray and v.dtype is FLOAT32 and v.shape == vectors for v in values]):
            np.concatenate(values, out=table.reshape(-1, copy=False))
            return
        table.fill(0)
        for value, reader, row in zip(values, self.readers, table, strict=True):
            reader.read(value, row[: reader.size])


def reader_of(space: spaces.Space) -> Reader:
    """How values of `space` become features.

    Raises:
        MarletError: naming a space whose values have no fixed number of features.
    """
    match space:
        case spaces.Box():
            image = space.dtype == np.uint8 and (space.low == 0).all() and (space.high == 255).all()
            return Numbers(space.shape, 255.0 if image else 1.0)
        case spaces.Discrete():
            return OneHot(int(space.n), int(space.start))
        case spaces.MultiBinary():
            return Numbers(space.shape)
        case spaces.MultiDiscrete():
            starts = np.broadcast_to(space.start, space.shape)
            return Joined(tuple((i, OneHot(int(space.nvec[i]), int(starts[i]))) for i in np.ndindex(space.shape)))
        case spaces.Tuple():
            return Joined(tuple((i, reader_of(part)) for i, part in enumerate(space.spaces)))
        case spaces.Dict():
            return Joined(tuple((key, reader_of(part)) for key, part in space.spaces.items() if key != "action_mask"))
        case _:
            raise MarletError(
                f"Observations of the space {space} have no fixed number of features. "
                "Box, Discrete, MultiBinary, MultiDiscrete, and Tuple or Dict of these can be read."
            )


@dataclass(frozen=True)
class Choice:
    """Turns a row of choices into one of a `Discrete` space."""

    size: int
    start: int

    def take(self, action: Int[np.ndarray, ""]) -> int:
        return int(action) + self.start


@dataclass(frozen=True)
class Vector:
    """Turns a padded row into a vector of a `Box` space: from [-1, 1] to its bounds where it has them, else as it is."""

    space: spaces.Box

    @cached_property
    def size(self) -> int:
        return math.prod(self.space.shape)

    def take(self, action: Float[np.ndarray, " a"]) -> np.ndarray:
        vector = action[: self.size].reshape(self.space.shape)
        bounded, start, half = self.stretch
        stretched = start + (np.minimum(np.maximum(vector, -1), 1) + 1) * half
        chosen = np.where(bounded, stretched, vector)
        return np.minimum(np.maximum(chosen, self.space.low), self.space.high).astype(self.space.dtype)

    @cached_property
    def stretch(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which parts have bounds, where they begin there and half their width; zero elsewhere."""
        low, high = self.space.low, self.space.high
        bounded = np.isfinite(low) & np.isfinite(high)
        start = np.where(bounded, low, 0.0)
        return bounded, start, (np.where(bounded, high, 0.0) - start) / 2


def taker_of(space: spaces.Space) -> Choice | Vector:
    """How Marlet's actions become those of `space`.

    Raises:
        MarletError: naming a space of actions that is neither a choice nor a vector.
    """
    if isinstance(space, spaces.Discrete):
        return Choice(int(space.n), int(space.start))
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        return Vector(space)
    raise MarletError(
        f"Actions of the space {space} are neither one choice (Discrete) nor a vector of floats (Box). "
        "Wrap the environment so that each agent has one of these."
    )


def number(value: Any) -> float:
    """One number as a float; text and objects are refused, a finite value is not yet promised."""
    if isinstance(value, (float, int, np.number)):
        return float(value)
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise Odd(f"is {value!r} of type {type(value).__name__}, not a number")
    return float(array.reshape(()))


def flag(value: Any) -> bool:
    """A yes or no: a bool, or 0 or 1."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    value = number(value)
    if value not in (0.0, 1.0):
        raise Odd(f"is {value}, neither True nor False")
    return bool(value)
