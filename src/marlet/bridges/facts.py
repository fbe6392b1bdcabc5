"""What may be known of a `ParallelEnv` before its first step, and the arrays in which its steps are written."""

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import Env as SingleAgentEnv
from gymnasium import spaces

from marlet.errors import MarletError

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

Record = dict[str, np.ndarray]
"""The fields of a `marlet.types.Step`, written in place."""

OPPONENTS = ("adversary", "leadadversary", "eve")
"""Names that mpe2 gives to the agents who play against the others."""


@dataclass(frozen=True)
class Facts:
    """What a `marlet.types.Spec` says, in plain values that travel between processes."""

    names: tuple[str, ...]
    num_actions: int
    obs_size: int
    state_size: int
    continuous: bool
    kinds: tuple[int, ...]
    teams: tuple[int, ...]
    horizon: int | None


def fields(facts: Facts, *batch: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and type of each field of a record, led by `batch`."""
    n = len(facts.names)
    return {
        "obs": ((*batch, n, facts.obs_size), np.float32),
        "state": ((*batch, facts.state_size), np.float32),
        "available": ((*batch, n, facts.num_actions), np.bool_),
        "reward": ((*batch, n), np.float32),
        "alive": ((*batch, n), np.bool_),
        "truncated": (batch, np.bool_),
        "cost": ((*batch, n), np.float32),
    }


def stem(name: str) -> str:
    """A name without its number: `adversary` of `adversary_2`."""
    return re.sub(r"_?\d+$", "", name)


def checked_parallel(thing: Any) -> "ParallelEnv":
    """The environment itself, if it is one in which all agents act at once.

    Raises:
        MarletError: saying what it is instead, and the cure.
    """
    from pettingzoo import AECEnv, ParallelEnv  # a fifth of a second, which runs of compiled environments do not pay

    if isinstance(thing, ParallelEnv):
        return thing
    if isinstance(thing, AECEnv):
        raise MarletError(
            f"{thing} is a turn-based (AEC) environment, but all agents must act at once. Build it with its "
            "`parallel_env` function, or wrap it with `pettingzoo.utils.aec_to_parallel`."
        )
    if isinstance(thing, SingleAgentEnv):
        raise MarletError(
            f"{thing} is a Gymnasium environment of one agent, but a `pettingzoo.ParallelEnv` is needed here."
        )
    raise MarletError(
        f"The environment is a {type(thing).__module__}.{type(thing).__qualname__}, "
        "but must be a `pettingzoo.ParallelEnv` (inherit from that class) or a Marlet `Env`."
        + (" Does the function return it?" if thing is None else "")
    )


def kinds_of(
    names: tuple[str, ...], obs_spaces: list[spaces.Space], action_spaces: list[spaces.Space]
) -> tuple[int, ...]:
    """Agents are of one kind when their spaces are equal and their names differ only by a number."""
    seen: list[tuple[str, spaces.Space, spaces.Space]] = []
    kinds = []
    for mark in zip(map(stem, names), obs_spaces, action_spaces, strict=True):
        if mark not in seen:
            seen.append(mark)
        kinds.append(seen.index(mark))
    return tuple(kinds)


def teams_of(names: tuple[str, ...], given: Any) -> tuple[int, ...]:
    """The environment's own `metadata["teams"]` (by name, or one number an agent); else mpe2's adversaries
    against the rest; else one team."""
    if given is None:
        against = [stem(name) in OPPONENTS for name in names]
        return tuple(int(foe != against[0]) for foe in against)
    if isinstance(given, dict):
        missing = [name for name in names if name not in given]
        if missing:
            raise MarletError(f"metadata['teams'] does not say the team of {', '.join(missing)}.")
        given = [given[name] for name in names]
    if len(given) != len(names):
        raise MarletError(f"metadata['teams'] has {len(given)} entries, but there are {len(names)} agents.")
    return tuple(int(team) for team in given)


def horizon_of(env: "ParallelEnv") -> int | None:
    """`max_cycles`, PettingZoo's usual name for the longest episode, where the environment has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cycles = getattr(env.unwrapped, "max_cycles", None)
    return cycles if isinstance(cycles, int) and cycles > 0 else None
